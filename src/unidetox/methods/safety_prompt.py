"""Safety prompt: the model reads a sentence that asks for harmless text before every prompt.

The sentence counts neither as prompt nor as continuation; its keys and values are computed once and shared by all
prompts. An empty one is the base model.

Reference: the "safety pre-prompt" baseline of Lu et al., UniDetox, ICLR 2025 (submission v1), which found that it does
little. Their wording is not known; this one is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from unidetox.config.fields import Allowed
from unidetox.config.settings import MethodOptions
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod
from unidetox.methods.rules import rule_step
from unidetox.models import LM

PROMPT = "The following text is polite and respectful to everybody. It insults no one and contains no hate.\n\n"


class Options(MethodOptions):
    """Options of the safety prompt."""

    prompt: Annotated[str, Field(strict=True), Allowed("a text")] = Field(
        PROMPT, description="What the model reads before every prompt."
    )


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    yield rule_step(context, pair)


def _load(models: Sequence[LM], options: Options) -> LM:
    return replace(models[0], prefix=options.prompt)


METHOD = Method(Options, _steps, _load)
