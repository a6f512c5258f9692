"""Whether prompts about some groups of people fare worse than prompts about others, before and after. Pure functions.

The largest of several noisy numbers always looks bad. So a gap comes with the gap that chance alone would show, and
with the p-value of a permutation test: how often groups drawn at random are as far apart as these are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unidetox.evaluation.metrics.stats import bootstrap_ci
from unidetox.evaluation.metrics.summary import METRICS, PromptTable, Row

LEAST_PROMPTS = 3
"""A group with fewer prompts is not compared: it would be the worst or the best by chance alone."""

_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupGap:
    """How far apart the groups are in one number.

    Attributes:
        worst: The group with the largest mean.
        best: The group with the smallest mean.
        value: Largest mean minus smallest.
        ci_low: Lower end of the 95 % bootstrap interval over prompts, of the difference between these two groups.
        ci_high: Upper end.
        by_chance: The gap to expect of groups drawn at random from the same prompts.
        p: How often random groups are as far apart as these, in 0..1.
        n: How many prompts it rests on.
        left_out: Groups with fewer than `LEAST_PROMPTS` prompts.
    """

    worst: str
    best: str
    value: float
    ci_low: float
    ci_high: float
    by_chance: float
    p: float
    n: int
    left_out: tuple[str, ...] = ()


def group_gap(
    values: ArrayLike, groups: Sequence[str | None], *, seed: int = 0, share: bool = False
) -> GroupGap | None:
    """Compare groups by the mean of one number a prompt, of which more is worse.

    Args:
        values: ``[prompts]``.
        groups: ``[prompts]``; prompts without a group do not count.
        seed: Seed of resampling and permutations.
        share: The values lie in 0..1: a group whose prompts are all 0, or all 1, still has an interval.

    Returns:
        The gap, or None where fewer than two groups have `LEAST_PROMPTS` prompts.

    Reference:
        Zou and Donner 2008, Construction of Confidence Limits about Effect Measures: A General Approach, equation 3
        (the interval of a difference from those of its two sides).
    """
    numbers, names, members, left_out = _sorted_by_group(values, groups)
    if len(names) < 2:
        return None
    means = members @ numbers
    by_chance = np.ptp(members @ _permuted(numbers, seed), axis=0)
    value, worst, best = float(np.ptp(means)), int(means.argmax()), int(means.argmin())
    most, least = (_reach(numbers[members[group] > 0], share) for group in (worst, best))
    low, high = value - math.hypot(most[0], least[1]), value + math.hypot(most[1], least[0])
    # One more for the groups as they are: a p-value is never 0.
    p = (1 + int((by_chance >= value - 1e-12).sum())) / (1 + _RESAMPLES)
    return GroupGap(names[worst], names[best], value, low, high, float(by_chance.mean()), p, len(numbers), left_out)


def gap_rows(table: PromptTable, *, target: str, method: str) -> list[Row]:
    """Return the rows ``tp_gap`` and ``emt_gap`` of one target."""
    rows = []
    for metric in ("tp", "emt"):
        known = metric in table.columns
        gap = group_gap(table.columns[metric].value, table.groups, share=METRICS[metric].share) if known else None
        if gap is not None:
            n_dropped = len(table.groups) - gap.n
            interval = (gap.ci_low, gap.ci_high)
            rows.append(
                Row(target, method, f"{metric}_gap", "all", None, None, gap.value, *interval, gap.n, n_dropped, False)
            )
    return rows


def group_changes(tables: Mapping[tuple[str, str], PromptTable]) -> list[dict[str, Any]]:
    """Say of each target which group fares worst, how far apart groups are, and how that differs from its base.

    Args:
        tables: (target, method) -> its numbers, prompt by prompt.

    Returns:
        A record for each target, method and metric (``tp``, ``emt``): the fields of `GroupGap`; ``means`` by group;
        and, where the same target's base met the same prompts, ``base`` (its worst group, that group's mean before and
        after, its gap) and ``change`` of the gap with its 95 % interval.
    """
    records = []
    for (target, method), table in tables.items():
        for metric in (m for m in ("tp", "emt") if m in table.columns):
            values, groups = table.columns[metric].value, table.groups
            gap = group_gap(values, groups, share=METRICS[metric].share)
            if gap is None:
                continue
            record = {
                "target": target,
                "method": method,
                "metric": metric,
                **asdict(gap),
                "means": _means(values, groups),
            }
            base = tables.get((target, "base"))
            if method != "base" and base is not None and base.prompt_ids == table.prompt_ids:
                record |= _change(base.columns[metric].value, values, groups)
            records.append(record)
    return records


def _reach(values: Floats, share: bool) -> tuple[float, float]:
    """Return how far the interval of a mean reaches below and above it; two values or more."""
    mean, (low, high) = float(values.mean()), bootstrap_ci(values, n_resamples=_RESAMPLES, share=share)
    assert low is not None and high is not None, "groups have at least three prompts"
    return max(mean - low, 0.0), max(high - mean, 0.0)


def _sorted_by_group(
    values: ArrayLike, groups: Sequence[str | None]
) -> tuple[Floats, list[str], Floats, tuple[str, ...]]:
    """Return the numbers that count, the groups, who is in which (as weights of a mean), and groups too small."""
    counts = {name: groups.count(name) for name in dict.fromkeys(groups) if name is not None}
    names = [name for name, count in counts.items() if count >= LEAST_PROMPTS]
    kept = [i for i, group in enumerate(groups) if group in names]
    members = np.array([[groups[i] == name for i in kept] for name in names], dtype=np.float64)
    members = members.reshape(len(names), len(kept))
    shares = members / np.maximum(members.sum(axis=1, keepdims=True), 1.0)
    small = tuple(name for name in counts if name not in names)
    return np.asarray(values, dtype=np.float64)[kept], names, shares, small


def _resampled_means(columns: Floats, members: Floats, seed: int) -> Floats:
    """Resample prompts within each group; return means ``[groups, resamples, columns]`` of ``[prompts, columns]``."""
    rng = np.random.default_rng(seed)
    means = []
    for rows in (np.flatnonzero(share) for share in members):
        drawn = rng.integers(0, len(rows), size=(_RESAMPLES, len(rows)))
        means.append(columns[rows[drawn]].mean(axis=1))
    return np.stack(means)


def _permuted(numbers: Floats, seed: int) -> Floats:
    """Return ``[prompts, resamples]``, each column in an order of its own."""
    return np.random.default_rng(seed).permuted(np.tile(numbers[:, None], _RESAMPLES), axis=0)


def _means(values: ArrayLike, groups: Sequence[str | None]) -> dict[str, float]:
    numbers, names, members, _ = _sorted_by_group(values, groups)
    return dict(zip(names, (members @ numbers).tolist(), strict=True))


def _change(before: Floats, after: Floats, groups: Sequence[str | None]) -> dict[str, Any]:
    """Compare the groups of a base and of what was made of it, on the same prompts."""
    pairs, names, members, _ = _sorted_by_group(np.stack([before, after], axis=1), groups)
    means, resampled = members @ pairs, _resampled_means(pairs, members, seed=0)
    most, least = means.argmax(axis=0), means.argmin(axis=0)

    def change(of: Floats) -> Floats:
        """Gap after minus gap before, ``[groups, ..., 2] -> [...]``, each between the groups that are apart most."""
        return of[most[1], ..., 1] - of[least[1], ..., 1] - of[most[0], ..., 0] + of[least[0], ..., 0]

    low, high = np.quantile(change(resampled), [0.025, 0.975])
    worst, gap = int(most[0]), float(np.ptp(means[:, 0]))
    mean, mean_after = map(float, means[worst])
    return {
        "base": {"worst": names[worst], "value": gap, "mean": mean, "mean_after": mean_after},
        "change": {"value": float(change(means)), "ci_low": float(low), "ci_high": float(high)},
    }
