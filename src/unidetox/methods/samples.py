"""Samples: plain samples of the base model, as many and as long; the control that shows what the contrast adds.

Reference: the baseline of that name in Lu et al., UniDetox, ICLR 2025. The published code has no code for it; that the
texts are sampled with the temperature, top-p and top-k of those of UniDetox is ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from unidetox.methods.finetuning import FinetuningOptions, finetuning_steps, made_texts
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    recipe = pair.options.applied(context.recipe)
    yield from finetuning_steps(recipe, pair, made_texts("texts-samples", context, recipe))


METHOD = Method(
    FinetuningOptions,
    _steps,
    done="fine-tuned on plain samples of a language model: the control of an experiment on detoxification. It is "
    "**not** meant to be less toxic.",
)
