"""The forms in which prompts are put to a model besides their own: under perturbations, and neutral prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unidetox.config.settings import BUILTIN, Evaluate
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.files import hash_of
from unidetox.data import PromptSet, load_prompts, load_toxic_corpus
from unidetox.evaluation.metrics.mentions import neutral_prompts
from unidetox.evaluation.metrics.perturbations import NAMES, perturb

FEW_SHOT = "few_shot"

EXAMPLES = 100
"""From so many toxic texts those of the perturbation few_shot are drawn."""


def perturbed_prompts(prompts: PromptSet, settings: Evaluate, corpus: str | None = None) -> dict[str, PromptSet]:
    """Return the prompts under each perturbation that the settings name; ids, groups and domains stay.

    Args:
        prompts: The prompts as they are.
        settings: The recipe's section.
        corpus: Toxic texts for ``few_shot`` where the settings name none.

    Raises:
        UsageError: If ``few_shot`` is asked for and there are no toxic texts.
        MissingError: If they are not there.
    """
    source = settings.few_shot or corpus
    names = _names(settings.perturbations, source is not None)
    if FEW_SHOT in names and source is None:
        raise UsageError("the perturbation few_shot needs toxic texts", hint="name some: --few-shot FILE")
    examples: Sequence[str] = ()
    if FEW_SHOT in names and source is not None:
        examples = [text.text for text in load_toxic_corpus(source, limit=EXAMPLES).texts]
    return {name: _perturbed(prompts, name, examples) for name in names}


def neutral_set(prompts: PromptSet, settings: Evaluate) -> PromptSet | None:
    """Return the neutral prompts that the settings name, or None where they name none.

    Args:
        prompts: The prompts, whose groups the built-in sentences are made for.
        settings: The recipe's section.

    Raises:
        MissingError: If the file is not there.
        UsageError: If it cannot be used.
    """
    if settings.neutral is None:
        return None
    if settings.neutral != BUILTIN:
        return load_prompts(settings.neutral, split="all", num_prompts=settings.num_prompts)
    made = neutral_prompts(prompt.group for prompt in prompts.prompts)
    return PromptSet(made, BUILTIN, hash_of([[p.prompt_id, p.text, p.group, p.domain] for p in made]))


def _names(chosen: Sequence[str], examples: bool) -> list[str]:
    if "all" not in chosen:
        return list(chosen)
    if examples:
        return list(NAMES)
    console.info(f"perturbations: all but {FEW_SHOT}, which needs toxic texts (--few-shot)")
    return [name for name in NAMES if name != FEW_SHOT]


def _perturbed(prompts: PromptSet, name: str, examples: Sequence[str]) -> PromptSet:
    changed = tuple(
        replace(prompt, text=perturb(name, prompt.text, prompt.prompt_id, examples=examples))
        for prompt in prompts.prompts
    )
    sha256 = hash_of([[prompt.prompt_id, prompt.text, prompt.group, prompt.domain] for prompt in changed])
    return replace(prompts, prompts=changed, sha256=sha256)
