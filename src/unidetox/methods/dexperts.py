"""DExperts: while decoding, an expert's logits are added to the base model's, and an anti-expert's taken off.

``z = z_base + alpha (z_expert - z_anti)``; only tokens of the base model's nucleus of 0.9 are sampled. Without an
expert (``expert = "none"``) the base model stands in for it: ``z = (1 + alpha) z_base - alpha z_anti``.

Reference: Liu, Sap, Lu, Swayamdipta, Bhagavatula, Smith, Choi: DExperts, ACL 2021, Eq. 1 and its "anti-only" ablation;
alpha 2.0 and filter 0.9 are those of its toxicity experiments.

Ours: the anti-expert is the toxic copy of the target that the other methods use too, trained as ``[toxic]`` says; the
expert is trained in the same way on ``toxic.non_toxic``. Each model has a cache of its own. The filter takes the place
of the evaluation's top-p, and is no part of likelihoods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from unidetox.config.fields import Name, NonNegative, OptName, Share, Source
from unidetox.config.settings import MethodOptions
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod
from unidetox.methods.rules import rule_step
from unidetox.models import LM

TRAIN, NONE = "train", "none"


class Options(MethodOptions):
    """Options of DExperts."""

    alpha: NonNegative = Field(2.0, description="Strength of expert and anti-expert.")
    top_p: Share = Field(
        0.9, description="Sample from the base model's likeliest tokens with this total only; 1 is off."
    )
    expert: Annotated[Name, Source((TRAIN, NONE))] = Field(
        TRAIN,
        description='The expert: "train" one on toxic.non_toxic, "none" (anti-expert only), or a folder or Hub id.',
    )
    anti_expert: Annotated[OptName, Source()] = Field(
        None, description="The anti-expert (folder or Hub id); without it, the target's toxic copy."
    )


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    options: Options = pair.options
    anti = context.given(options.anti_expert, pair.target) if options.anti_expert else context.toxic(pair.target)
    made = [anti]
    if options.expert != NONE:
        trained = options.expert == TRAIN
        made.append(context.expert(pair.target) if trained else context.given(options.expert, pair.target))
    for model in made:
        yield from model.steps
    yield rule_step(context, pair, made)


def _load(models: Sequence[LM], options: Options) -> LM:
    from unidetox.decoding import dexperts

    source = dexperts(*(lm.model for lm in models), alpha=options.alpha, top_p=options.top_p)
    return replace(models[0], rule=source)


METHOD = Method(Options, _steps, _load)
