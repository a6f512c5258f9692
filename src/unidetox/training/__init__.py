"""Causal-LM fine-tuning on texts: all weights or LoRA, exact in its labels, resumable to the bit."""

from unidetox.training.encoding import encode_texts
from unidetox.training.fine_tuning import add_lora, detoxify_model, merge_lora, train_lm
from unidetox.training.settings import TrainReport, TrainSettings

__all__ = ["TrainReport", "TrainSettings", "add_lora", "detoxify_model", "encode_texts", "merge_lora", "train_lm"]
