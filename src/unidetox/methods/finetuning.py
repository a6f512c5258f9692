"""What methods that fine-tune have in common: a target model, texts, and an ordinary checkpoint as the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from unidetox.config.fields import Allowed, OptCount
from unidetox.config.settings import MethodOptions, Recipe, Texts
from unidetox.core.stages import Stage
from unidetox.data import TextSet, read_texts
from unidetox.methods.best_of import read_starts
from unidetox.methods.checkpoint_stage import fine_tune_into
from unidetox.methods.distillation import check_positions, texts_need
from unidetox.methods.interface import Artifact, RunContext, Step, TargetMethod
from unidetox.models import LoadOptions, check_lm, fingerprint
from unidetox.models.sizes import Need, Sizes

if TYPE_CHECKING:
    from unidetox.training import TrainSettings

OptPositive = Annotated[
    Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None, Allowed('a number above 0, or "none"')
]
OptFlag = Annotated[Annotated[bool, Field(strict=True)] | None, Allowed('true, false, or "none"')]


class FinetuningOptions(MethodOptions):
    """Settings of ``[texts]`` and ``[detoxify]`` that are others for this key; the rest holds as it stands there."""

    num_texts: OptCount = Field(None, description="In place of texts.num_texts.")
    steps: OptCount = Field(None, description="In place of detoxify.steps.")
    lr: OptPositive = Field(None, description="In place of detoxify.lr.")
    lora: OptFlag = Field(None, description="In place of detoxify.lora.")

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these settings in the places of its own."""
        given = {name: value for name, value in self if value is not None and name != "name"}
        texts = {name: value for name, value in given.items() if name in Texts.model_fields}
        detoxify = {name: value for name, value in given.items() if name not in texts}
        update: dict[str, Any] = {
            "texts": recipe.texts.model_copy(update=texts),
            "detoxify": recipe.detoxify.model_copy(update=detoxify),
        }
        return recipe.model_copy(update=update)


def texts_name(name: str, context: RunContext, recipe: Recipe) -> str:
    """Name a folder of texts: plainly, or with a hash of their settings where these are not those of the run."""
    if recipe.texts == context.recipe.texts:
        return name
    return f"{name}-{recipe.texts.section_hash('folder')[:6]}"


def texts_step(
    name: str, recipe: Recipe, toxic: Artifact | None, stage: Callable[[], Stage], make: Callable[[bool], object]
) -> Step:
    """Return the step that makes texts from the base model, and a toxic copy of it or none."""

    def check() -> None:
        base = check_lm(recipe.base.model, LoadOptions.of(recipe))
        check_positions(recipe, base.name, base.config)
        read_starts(recipe)
        if toxic is not None:
            toxic.check()

    def need(sizes: Sizes) -> Need:
        return texts_need(recipe, sizes, 2 if toxic else 1)

    return Step(name, toxic.needs if toxic else (), stage, make, check, need)


def finetuning_steps(recipe: Recipe, pair: TargetMethod, texts: Artifact) -> Iterator[Step]:
    """Yield what makes the texts, then the step that fine-tunes the pair's target on them."""

    def read() -> TextSet:
        return read_texts(texts.source)

    yield from texts.steps
    yield Step(
        pair.step,
        texts.needs,
        lambda: finetune_stage(recipe, pair.method, pair.target, read(), pair.folder),
        lambda fresh: finetune(recipe, pair.method, pair.target, read(), pair.folder, fresh=fresh),
        texts.check,
        lambda sizes: _need(recipe, pair.target, sizes),
    )


def finetune_stage(recipe: Recipe, method: str, target: str, texts: TextSet, directory: Path) -> Stage:
    """Describe the stage that fine-tunes a target model on texts."""
    settings = recipe.detoxify.key("detoxify") | {"method": method, "seed": recipe.seed, "dtype": recipe.dtype}
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
    fine_tune_into(
        stage, recipe, method, target, texts, _train_settings(recipe),
        keep_dtype=True, merge=recipe.detoxify.merge, fresh=fresh, replace=replace,
    )  # fmt: skip
    return directory


def _need(recipe: Recipe, target: str, sizes: Sizes) -> Need:
    from unidetox.training.memory import fine_tuning_need

    section, shape = recipe.detoxify, sizes.shape(target)
    stored = None if section.lora and not section.merge else shape.stored
    return fine_tuning_need(shape, _train_settings(recipe), sizes.machine, stored=stored)


def _train_settings(recipe: Recipe) -> TrainSettings:
    from unidetox.training import TrainSettings

    return TrainSettings.of(recipe.detoxify, seed=recipe.seed, dtype=recipe.dtype)
