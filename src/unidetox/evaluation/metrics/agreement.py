"""Whether two scorers say the same of the same continuations: Cohen's kappa and Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unidetox.evaluation.metrics.stats import bootstrap_of_means

Floats = NDArray[np.float64]
Interval = tuple[float, float | None, float | None]
"""Value, and the ends of its 95 % bootstrap interval over prompts."""


def cohens_kappa(first: ArrayLike, second: ArrayLike, prompts: Sequence[str]) -> Interval | None:
    """Return how far two scorers agree on what is toxic, beyond what chance would give.

    Args:
        first: ``[continuations]`` booleans of one scorer.
        second: ``[continuations]`` booleans of the other.
        prompts: ``[continuations]`` the prompt of each: continuations of one prompt are resampled together.

    Returns:
        A number in -1..1 with its interval, or None where both scorers call everything the same.

    Reference:
        Cohen 1960, A Coefficient of Agreement for Nominal Scales.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return _over_prompts([one * two, one, two], prompts, _kappa)


def spearman(first: ArrayLike, second: ArrayLike, prompts: Sequence[str]) -> Interval | None:
    """Return the rank correlation of two scorers; equal scores share their mean rank.

    Args:
        first: ``[continuations]`` scores of one scorer.
        second: ``[continuations]`` scores of the other.
        prompts: ``[continuations]`` the prompt of each.

    Returns:
        A number in -1..1 with its interval (over prompts, ranks kept), or None where a scorer gives one score to all.

    Reference:
        Spearman 1904, The Proof and Measurement of Association between Two Things.
    """
    one, two = _centred_ranks(np.asarray(first)), _centred_ranks(np.asarray(second))
    return _over_prompts([one * two, one, two, one * one, two * two], prompts, _correlation)


def _kappa(means: Floats) -> Floats:
    both, one, two = (means[..., i] for i in range(3))
    agreed, chance = 1 - one - two + 2 * both, one * two + (1 - one) * (1 - two)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def _correlation(means: Floats) -> Floats:
    product, one, two, square_one, square_two = (means[..., i] for i in range(5))
    spread = (square_one - one**2) * (square_two - two**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (product - one * two) / np.sqrt(np.maximum(spread, 0)), np.nan)


def _over_prompts(
    columns: Sequence[Floats], prompts: Sequence[str], function: Callable[[Floats], Floats]
) -> Interval | None:
    """Apply a function of means over continuations, resampling prompts; every prompt has as many continuations."""
    names = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    places = np.array([names[prompt] for prompt in prompts])
    counts = np.bincount(places)
    assert (counts == counts[0]).all(), "every prompt has the same number of continuations"
    by_prompt = [np.bincount(places, weights=column) / counts for column in columns]
    whole = function(np.array([column.mean() for column in by_prompt]))
    if np.isnan(whole):
        return None
    return bootstrap_of_means(by_prompt, function)


def _centred_ranks(values: NDArray[np.float64]) -> Floats:
    """Return ranks in -1/2..1/2, so that sums of their squares keep all digits."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    return np.asarray((ranks - ranks.mean()) / len(values), dtype=np.float64)
