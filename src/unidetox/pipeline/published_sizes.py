"""Sizes of the models and data sets that the presets name, so that a run can be planned before anything is fetched.

Configurations are those that the models' authors published; numbers of texts and their mean lengths in characters are
those of the data sets' own files, rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_OPT = {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32}
_SMALL_OPT = {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_FALCON = {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "facebook/opt-125m": ("opt", _SMALL_OPT | {"word_embed_proj_dim": 768}),
    "facebook/opt-6.7b": ("opt", _OPT | {"word_embed_proj_dim": 4096}),
    "tiiuae/falcon-7b": ("falcon", _FALCON | {"alibi": False, "bias": False, "multi_query": True}),
    "meta-llama/Llama-2-7b-hf": ("llama", {}),
    "unitary/toxic-bert": ("bert", {"num_labels": 6}),
}
"""Hub id -> kind of architecture, and what differs from its defaults."""

TOXIC, CIVIL = (12575, 165), (15000, 95)
"""How many texts, and how many characters each: of DGHS, those that the paper trains on and those that are no hate."""
PROMPTS = {"test": (940, 95), "validation": (896, 95), "train": (8960, 95), "all": (9900, 95)}
"""The same of ToxiGen's prompts, by split."""
QUESTIONS, CHARACTERS, SUBJECTS = {"val": 1531, "test": 14042}, (275, 170), 57
"""MMLU: questions by split, characters of a question and of its choices, subjects."""
_CHARACTERS = 4
"""Characters of a token of English."""


def config_of(name: str) -> Any:
    """Return a transformers configuration of a model's size.

    Args:
        name: One of `MODELS`.
    """
    from transformers import AutoConfig

    kind, options = MODELS[name]
    return AutoConfig.for_model(kind, **options)


def stand_ins(number: int, characters: int) -> list[str]:
    """Return as many texts of so many characters."""
    return [" " * characters] * number


def tokens_of(texts: Sequence[str]) -> dict[str, list[list[int]]]:
    """Stand in for a tokenizer: one token for so many characters."""
    return {"input_ids": [[0] * max(1, len(text) // _CHARACTERS) for text in texts]}
