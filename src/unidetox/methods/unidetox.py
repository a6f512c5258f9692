"""UniDetox: texts from the contrast of a base model and its toxic copy; any target is fine-tuned on them.

A token scores ``log p_base - log p_toxic`` where ``p_base >= alpha max p_base``. The texts are made once, from the base
model, and serve every target.

Reference: Lu, Isonuma, Mori, Sakata: UniDetox, ICLR 2025, Eq. 1 and section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from unidetox.config.fields import Allowed, Beta, Share
from unidetox.data import read_texts
from unidetox.methods.finetuning import FinetuningOptions, finetuning_steps, made_texts
from unidetox.methods.interface import Artifact, Method, RunContext, Step, TargetMethod

OptShare = Annotated[Share | None, Allowed('a number above 0 and at most 1, or "none"')]
OptBeta = Annotated[Beta | None, Allowed('a number above 0, inf or "none"')]


class Options(FinetuningOptions):
    """Settings of ``[texts]`` and ``[detoxify]`` that are others for this key."""

    alpha: OptShare = Field(None, description="In place of texts.alpha.")
    beta: OptBeta = Field(None, description="In place of texts.beta.")


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    recipe = pair.options.applied(context.recipe)
    source = recipe.texts.source
    if source is not None:
        texts = Artifact(source, check=lambda: read_texts(source))
    else:
        texts = made_texts("texts", context, recipe, context.toxic(recipe.base.model))
    yield from finetuning_steps(recipe, pair, texts)


METHOD = Method(
    Options,
    _steps,
    done="fine-tuned on detoxifying texts so that it writes less toxic text. The texts were distilled by contrasting "
    "a language model with a copy of it that was made toxic.",
)
