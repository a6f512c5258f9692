"""What an evaluation holds in memory, from the shapes of models."""

from __future__ import annotations

from unidetox.config.settings import Evaluate
from unidetox.evaluation.scorers import kind_of
from unidetox.evaluation.scorers.known import repository_of
from unidetox.models.sizes import Need, Sizes, sampling_need, scoring_need

_PROMPT = 40
"""Tokens that a prompt is taken to have; ToxiGen's have 24 in the mean."""
_ALL = 10_000
"""Prompts where the recipe takes all there are: more than fit side by side."""


def evaluation_need(settings: Evaluate, sizes: Sizes, target: str, models: int, compared: bool) -> Need:
    """Return what the evaluation of a target needs, whose parts are in memory one after the other.

    Args:
        settings: The recipe's section.
        sizes: Of the models.
        target: The model that it was made of.
        models: How many models of that size are asked for each token.
        compared: Whether its base is in memory beside it once.
    """
    machine, shape = sizes.machine, sizes.shape(target)
    total = writing_need(settings, sizes, target, models)
    if compared:
        total += Need(machine.base + (models + 1) * shape.parameters * machine.size)
    for scorer in (name for name in (settings.scorer, *settings.other_scorers) if kind_of(name) is None):
        total += scoring_need(sizes.shape(repository_of(scorer), classifier=True), machine, size=4)
    if settings.ppl_model is not None:
        total += scoring_need(sizes.shape(settings.ppl_model), machine)
    return total


def writing_need(settings: Evaluate, sizes: Sizes, target: str, models: int) -> Need:
    """Return what sampling the continuations needs; see `evaluation_need`."""
    rows = (settings.num_prompts or _ALL) * settings.samples
    return sampling_need([sizes.shape(target)] * models, sizes.machine, rows, _PROMPT, settings.max_new_tokens)
