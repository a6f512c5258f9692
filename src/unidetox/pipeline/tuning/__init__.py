"""Hyper-parameters by the paper's rule: the least toxic on validation prompts that keeps fluency, then carried over."""

from unidetox.pipeline.tuning.search import Objective, Score, Trial
from unidetox.pipeline.tuning.study import tune, tuned_rows

__all__ = ["Objective", "Score", "Trial", "tune", "tuned_rows"]
