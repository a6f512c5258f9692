"""UniDetox: texts from the contrast of a base model and its toxic copy.

Reference: Lu, Isonuma, Mori, Sakata: UniDetox, ICLR 2025; score of a token ``log p_base - log p_toxic`` where
``p_base >= alpha max p_base``.
"""

from __future__ import annotations

from pathlib import Path

from unidetox import distillation
from unidetox.settings import Recipe
from unidetox.stages import Stage


def texts_stage(recipe: Recipe, directory: Path, toxic: str) -> Stage:
    """Describe the stage that makes the texts."""
    return distillation.texts_stage(recipe, directory, toxic)


def make_texts(recipe: Recipe, directory: Path, toxic: str, *, fresh: bool = False) -> Path:
    """Distil the texts; see `unidetox.distillation.distill`."""
    return distillation.distill(recipe, toxic, directory, fresh=fresh)
