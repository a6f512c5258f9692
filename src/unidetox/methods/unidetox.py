"""UniDetox: texts from the contrast of a base model and its toxic copy; any target is fine-tuned on them.

A token scores ``log p_base - log p_toxic`` where ``p_base >= alpha max p_base``. The texts are made once, from the base
model, and serve every target.

Reference: Lu, Isonuma, Mori, Sakata: UniDetox, ICLR 2025, Eq. 1 and section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from unidetox.config.fields import Allowed
from unidetox.config.settings import Recipe
from unidetox.data import read_texts
from unidetox.methods import distillation
from unidetox.methods.finetuning import FinetuningOptions, finetuning_steps, texts_name, texts_step
from unidetox.methods.interface import Artifact, Method, RunContext, Step, TargetMethod

OptShare = Annotated[
    Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None,
    Allowed('a number above 0 and at most 1, or "none"'),
]
OptBeta = Annotated[
    Annotated[float, Field(strict=True, gt=0)] | None,
    BeforeValidator(lambda value: float("inf") if value == "inf" else value),
    Allowed('a number above 0, inf or "none"'),
]


class Options(FinetuningOptions):
    """Settings of ``[texts]`` and ``[detoxify]`` that are others for this key."""

    alpha: OptShare = Field(None, description="In place of texts.alpha.")
    beta: OptBeta = Field(None, description="In place of texts.beta.")


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    recipe = pair.options.applied(context.recipe)
    yield from finetuning_steps(recipe, pair, _texts(context, recipe))


def _texts(context: RunContext, recipe: Recipe) -> Artifact:
    """Return the texts: those that are given, or those distilled from the base model."""
    source = recipe.texts.source
    if source is not None:
        return Artifact(source, check=lambda: read_texts(source))
    toxic = context.toxic(recipe.base.model)
    folder = context.directory / texts_name("texts", context, recipe)
    step = texts_step(
        folder.name,
        recipe,
        toxic,
        lambda: distillation.texts_stage(recipe, folder, toxic.source),
        lambda fresh: distillation.distill(recipe, toxic.source, folder, fresh=fresh),
    )
    return Artifact(str(folder), (*toxic.steps, step))


METHOD = Method(
    Options,
    _steps,
    done="fine-tuned on detoxifying texts so that it writes less toxic text. The texts were distilled by contrasting "
    "a language model with a copy of it that was made toxic.",
)
