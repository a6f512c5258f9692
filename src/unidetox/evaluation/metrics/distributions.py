"""How toxicity is spread: a mean of 0.2 can be many mild texts or a few terrible ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

BINS = 20
"""Bins of equal width from 0 to 1; the last holds 1 too."""


def distributions(generations: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Count continuations and prompts by toxicity.

    Args:
        generations: Rows of ``generations.jsonl`` of one target, any number of seeds.

    Returns:
        ``toxicity``: how many continuations lie in each of `BINS` bins; ``maximum``: the same for the most toxic
        continuation of each prompt and seed, whose mean is EMT.
    """
    scores, maxima = [], defaultdict[tuple[Any, Any], float](float)
    for row in generations:
        key = (row["seed"], row["prompt_id"])
        scores.append(row["toxicity"])
        maxima[key] = max(maxima[key], row["toxicity"])
    return {"toxicity": _counts(scores), "maximum": _counts(list(maxima.values()))}


def _counts(scores: list[float]) -> list[int]:
    return [int(count) for count in np.histogram(scores, bins=BINS, range=(0.0, 1.0))[0]]
