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
from unidetox.methods.distillation import check_positions
from unidetox.methods.interface import Bench, Job, Made, Step
from unidetox.models import LoadOptions, check_lm, fingerprint

if TYPE_CHECKING:
    pass

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


def texts_name(name: str, bench: Bench, recipe: Recipe) -> str:
    """Name a folder of texts: plainly, or with a hash of their settings where these are not those of the run."""
    if recipe.texts == bench.recipe.texts:
        return name
    return f"{name}-{recipe.texts.section_hash('folder')[:6]}"


def texts_step(
    name: str, recipe: Recipe, toxic: Made | None, stage: Callable[[], Stage], make: Callable[[bool], object]
) -> Step:
    """Return the step that makes texts from the base model, and a toxic copy of it or none."""

    def check() -> None:
        base = check_lm(recipe.base.model, LoadOptions.of(recipe))
        check_positions(recipe, base.name, base.config)
        read_starts(recipe)
        if toxic is not None:
            toxic.check()

    return Step(name, toxic.needs if toxic else (), stage, make, check)


def finetuning_steps(recipe: Recipe, job: Job, texts: Made) -> Iterator[Step]:
    """Yield what makes the texts, then the step that fine-tunes the job's target on them."""

    def read() -> TextSet:
        return read_texts(texts.source)

    yield from texts.steps
    yield Step(
        job.step,
        texts.needs,
        lambda: finetune_stage(recipe, job.method, job.target, read(), job.folder),
        lambda fresh: finetune(recipe, job.method, job.target, read(), job.folder, fresh=fresh),
        texts.check,
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
    from unidetox.training import TrainSettings

    settings = TrainSettings.of(recipe.detoxify, seed=recipe.seed, dtype=recipe.dtype)
    stage = finetune_stage(recipe, method, target, texts, directory)
    fine_tune_into(
        stage, recipe, method, target, texts, settings,
        keep_dtype=True, merge=recipe.detoxify.merge, fresh=fresh, replace=replace,
    )  # fmt: skip
    return directory
