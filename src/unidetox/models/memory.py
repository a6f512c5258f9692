"""The memory of models in it, and giving it back."""

from __future__ import annotations

import gc
from typing import Any

LARGE_MODEL = 64 << 20
"""Bytes of weights from which on a model is worth a search for what still holds it."""


def model_bytes(model: Any) -> int:
    """Return how much memory a model's weights take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def free_memory(size: int) -> None:
    """Give back the memory of a model whose last name has just been deleted.

    Args:
        size: Bytes of its weights. Looking for cycles takes a fifth of a second, too long for a tiny model.
    """
    import torch

    if size >= LARGE_MODEL:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
