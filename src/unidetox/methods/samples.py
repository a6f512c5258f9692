"""Samples: plain samples of the base model, as many and as long; the control that shows what the contrast adds.

Reference: the baseline of that name in Lu et al., UniDetox, ICLR 2025. The published code has no code for it; that the
texts are sampled with the temperature, top-p and top-k of those of UniDetox is ours.
"""

from __future__ import annotations

from pathlib import Path

from unidetox import distillation
from unidetox.settings import Recipe
from unidetox.stages import Stage


def texts_stage(recipe: Recipe, directory: Path, toxic: str) -> Stage:
    """Describe the stage that makes the texts; no toxic model takes part."""
    return distillation.texts_stage(recipe, directory, None)


def make_texts(recipe: Recipe, directory: Path, toxic: str, *, fresh: bool = False) -> Path:
    """Sample the texts; see `unidetox.distillation.sample_texts`."""
    return distillation.sample_texts(recipe, directory, fresh=fresh)
