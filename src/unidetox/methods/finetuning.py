"""What methods that fine-tune have in common: a target model, texts, and an ordinary checkpoint as the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unidetox.data import TextSet
from unidetox.model_stage import fine_tune_into
from unidetox.models import fingerprint
from unidetox.settings import Recipe
from unidetox.stages import Stage

if TYPE_CHECKING:
    from unidetox.training import TrainSettings


def finetune_stage(recipe: Recipe, method: str, target: str, texts: TextSet, directory: Path) -> Stage:
    """Describe the stage that fine-tunes a target model on texts."""
    settings = recipe.detoxify.model_dump(exclude={"targets", "methods"})
    settings |= {"method": method, "seed": recipe.seed, "dtype": recipe.dtype}
    inputs = {"target": fingerprint(target), "texts": texts.sha256}
    return Stage(directory, "detoxify", settings, inputs)


def finetune(
    recipe: Recipe,
    method: str,
    target: str,
    texts: TextSet,
    directory: Path,
    *,
    fresh: bool = False,
    replace: bool = True,
) -> Path:
    """Fine-tune a target model on texts and write a checkpoint that needs nothing of ours.

    Args:
        recipe: Its section ``detoxify`` counts.
        method: What the texts are; written down beside the model.
        target: The model to detoxify.
        texts: The texts.
        directory: Where the checkpoint goes.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.

    Returns:
        The directory.

    Reference: UniDetox (Lu et al., ICLR 2025), section 2; unidetox.py:100-220 of the published code.
    """
    stage = finetune_stage(recipe, method, target, texts, directory)
    if not fresh and stage.status().state == "fresh":
        return directory
    from unidetox.models import saved_dtype

    kept = saved_dtype(target, trust_remote_code=recipe.trust_remote_code)
    fine_tune_into(
        stage, recipe, method, target, texts, _train_settings(recipe),
        dtype=kept, merge=recipe.detoxify.merge, fresh=fresh, replace=replace,
    )  # fmt: skip
    return directory


def _train_settings(recipe: Recipe) -> TrainSettings:
    from unidetox.training import TrainSettings

    section = recipe.detoxify
    return TrainSettings(
        lr=section.lr, batch_size=section.batch_size, max_length=section.max_length, steps=section.steps,
        seed=recipe.seed, lora=section.lora, dtype=recipe.dtype,
    )  # fmt: skip
