"""How sure a number is: bootstrap over prompts, paired differences, Holm's correction. NumPy only, no state.

The unit of resampling is the prompt (the cluster), never the continuation: the 25 continuations of one prompt
resemble each other, and treating them as independent would make every interval far too narrow. Every
statistic here is a smooth function of column means over prompts, so one resampled matrix product serves all
of them:

    mean        mean(values)                      TP, EMT, Dist-n, accuracy
    ratio       sum(values) / sum(weights)        mean perplexity per continuation, share of continuations
    exp_ratio   exp(sum(values) / sum(weights))   token-weighted perplexity from summed NLL and token counts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Statistic = Literal["mean", "ratio", "exp_ratio"]
Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike
Interval = tuple[float | None, float | None]
"""Both ends, or None twice where the numbers do not say how much another prompt would differ."""

# Draws held at once (resamples x prompts): bounds the memory to some 50 MB whatever the number of prompts.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Difference:
    """A paired difference ``a - b`` between two targets on the same prompts.

    Attributes:
        value: The difference of the two statistics.
        low: Lower end of its interval; None where there is none, see `bootstrap_ci`.
        high: Upper end of its interval.
        p_value: Two-sided p-value of "no difference", uncorrected; see `holm`.
        n: Number of prompts.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float
    n: int


def statistic_of(
    values: Numbers,
    statistic: Statistic = "mean",
    *,
    weights: Numbers | None = None,
    domains: Sequence[str] | None = None,
) -> float:
    """Compute a statistic over prompts, as the unweighted mean over domains where they are given.

    Args:
        values: One number a prompt, shape ``[n]``; for ``ratio`` and ``exp_ratio`` the numerators (e.g.
            summed NLL).
        statistic: ``mean``, ``ratio`` or ``exp_ratio``.
        weights: The denominators of a ratio (e.g. token counts), shape ``[n]``.
        domains: The domain of each prompt, length ``n``; the statistic is then the macro-mean, as ID is in
            the paper.

    Returns:
        The statistic.

    Raises:
        ValueError: Nothing to average, lengths that differ, a number that is not finite, or weights that are
            missing, negative or all zero.
    """
    columns, strata = _prepare(values, statistic, weights, domains)
    return float(np.mean([_apply(columns[rows].mean(axis=0), statistic) for rows in strata]))


def bootstrap_ci(
    values: Numbers,
    statistic: Statistic = "mean",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    *,
    weights: Numbers | None = None,
    domains: Sequence[str] | None = None,
    share: bool = False,
) -> Interval:
    """Compute a bootstrap interval of a statistic over prompts.

    Prompts are drawn with replacement, within each domain where domains are given. The interval is the
    expanded percentile interval, which widens the percentiles as Student's t would, since plain ones are too
    narrow for few prompts.

    Args:
        values: One number a prompt, shape ``[n]``.
        statistic: ``mean``, ``ratio`` or ``exp_ratio``.
        n_resamples: Number of resamples, at least 1.
        level: Nominal coverage, in (0, 1).
        seed: Seed of the resampling; the same seed gives the same interval.
        weights: The denominators of a ratio, shape ``[n]``.
        domains: The domain of each prompt, for a macro-mean.
        share: The values lie in 0..1. Where all are 0, or all 1, no resample can differ; the exact binomial bound on
            how many prompts have another value then replaces an interval of no width.

    Returns:
        The lower and the upper end; None for both where a domain has a single prompt, since nothing then says how much
        another would differ.

    Raises:
        ValueError: As for `statistic_of`, or a level outside (0, 1).

    Reference:
        Hesterberg, What Teachers Should Know about the Bootstrap, The American Statistician 2015, section
        5.3.
    """
    columns, strata = _prepare(values, statistic, weights, domains)
    if share and statistic == "mean" and (agreed := _agreed(columns[:, 0])) is not None:
        return _binomial_bound(agreed, len(strata) * min(map(len, strata)), level)
    draws = _draws(columns, strata, n_resamples, seed)
    return _percentiles(np.mean([_apply(means, statistic) for means in draws], axis=0), strata, level)


def paired_difference(
    a: Numbers,
    b: Numbers,
    statistic: Statistic = "mean",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    *,
    weights_a: Numbers | None = None,
    weights_b: Numbers | None = None,
    domains: Sequence[str] | None = None,
    share: bool = False,
) -> Difference:
    """Compare two targets on the same prompts: the difference ``a - b``, its interval and its p-value.

    Both targets are resampled together, so what makes a prompt hard for both cancels out. The p-value is the tail of
    Student's t of the difference over its bootstrap standard error; it is never below ``2 ** (1 - n)``, the least that
    any test of signs could give.

    Args:
        a: One number a prompt for the first target, shape ``[n]``.
        b: The same prompts in the same order for the second target, shape ``[n]``.
        statistic: ``mean``, ``ratio`` or ``exp_ratio``.
        n_resamples: Number of resamples, at least 1.
        level: Nominal coverage of the interval, in (0, 1).
        seed: Seed of the resampling.
        weights_a: Denominators of the first target's ratio.
        weights_b: Denominators of the second target's ratio.
        domains: The domain of each prompt, for a macro-mean.
        share: The values lie in 0..1. Where all prompts differ by the same, no resample can differ; a bound on how many
            other prompts may do so then replaces an interval of no width.

    Returns:
        The difference.

    Raises:
        ValueError: As for `bootstrap_ci`, or two targets with different numbers of prompts.

    Reference:
        Wallace, Bounds on Normal Approximations to Student's and the Chi-Square Distributions, Annals of Mathematical
        Statistics 1959 (the tail of t).
    """
    first, strata = _prepare(a, statistic, weights_a, domains)
    second, _ = _prepare(b, statistic, weights_b, domains)
    if first.shape != second.shape:
        raise ValueError(f"paired targets need the same prompts, got {len(first)} and {len(second)}")
    width, columns = first.shape[1], np.hstack([first, second])

    def difference(means: Floats) -> Floats:
        return _apply(means[..., :width], statistic) - _apply(means[..., width:], statistic)

    value = float(np.mean([difference(columns[rows].mean(axis=0)) for rows in strata]))
    resampled = np.mean([difference(means) for means in _draws(columns, strata, n_resamples, seed)], axis=0)
    low, high = _percentiles(resampled, strata, level)
    if share and statistic == "mean" and np.ptp(columns[:, 0] - columns[:, 1]) == 0:
        others = _binomial_bound(0.0, len(strata) * min(map(len, strata)), level)[1]
        low, high = value - others * (value + 1), value + others * (1 - value)
    p_value = _p_value(value, resampled, len(columns), len(strata))
    return Difference(value, low, high, p_value, len(columns))


def bootstrap_of_means(
    columns: Sequence[Numbers],
    function: Callable[[Floats], Floats],
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    *,
    domains: Sequence[str] | None = None,
) -> tuple[float, float | None, float | None]:
    """Compute any function of several means over the same prompts, with its bootstrap interval.

    Args:
        columns: Numbers by prompt, each ``[n]``, resampled together.
        function: Means ``[..., columns]`` -> ``[...]``; NaN where a resample says nothing.
        n_resamples: Number of resamples, at least 1.
        level: Nominal coverage, in (0, 1).
        seed: Seed of the resampling.
        domains: The domain of each prompt; each mean is then the unweighted mean over domains.

    Returns:
        The value and the ends of its interval.

    Raises:
        ValueError: As for `bootstrap_ci`.
    """
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=-1)
    _, strata = _prepare(table[:, 0], "mean", None, domains)
    value = float(function(np.mean([table[rows].mean(axis=0) for rows in strata], axis=0)))
    resampled = function(np.mean(list(_draws(table, strata, n_resamples, seed)), axis=0))
    return value, *_percentiles(resampled, strata, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for having looked more than once (Holm's step-down method).

    Args:
        p_values: Uncorrected p-values of one family of comparisons, in any order.

    Returns:
        The adjusted p-values in the same order, at most 1; compare them with the level directly.

    Raises:
        ValueError: A p-value outside [0, 1].

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics
        1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values lie between 0 and 1")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def _prepare(
    values: Numbers, statistic: Statistic, weights: Numbers | None, domains: Sequence[str] | None
) -> tuple[Floats, list[npt.NDArray[np.intp]]]:
    """Check the input; give its columns ``[n, 1 or 2]`` and the row numbers of each domain."""
    if statistic not in ("mean", "ratio", "exp_ratio"):
        raise ValueError(f"unknown statistic {statistic!r}")
    if (weights is None) != (statistic == "mean"):
        raise ValueError("ratio and exp_ratio need weights, mean takes none")
    parts = [values] if weights is None else [values, weights]
    columns = np.stack([np.asarray(part, dtype=np.float64) for part in parts], axis=-1)
    if columns.ndim != 2 or not len(columns):
        raise ValueError("expected one number a prompt and at least one prompt")
    if not np.isfinite(columns).all():
        raise ValueError("a value is not finite; drop and count such prompts first")
    strata = _strata(domains, len(columns))
    if weights is not None and ((columns[:, 1] < 0).any() or any(columns[rows, 1].sum() == 0 for rows in strata)):
        raise ValueError("weights must not be negative, nor all zero in a domain")
    return columns, strata


def _strata(domains: Sequence[str] | None, n: int) -> list[npt.NDArray[np.intp]]:
    if domains is None:
        return [np.arange(n)]
    if len(domains) != n:
        raise ValueError(f"{n} prompts but {len(domains)} domains")
    names, inverse = np.unique(np.asarray(domains, dtype=str), return_inverse=True)
    return [np.flatnonzero(inverse == index) for index in range(len(names))]


def _apply(means: Floats, statistic: Statistic) -> Floats:
    """Turn column means ``[..., 1 or 2]`` into the statistic ``[...]``."""
    if statistic == "mean":
        return means[..., 0]
    # A resample may by chance hold only prompts without weight; it then says nothing.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = means[..., 0] / means[..., 1]
    return np.exp(ratio) if statistic == "exp_ratio" else ratio


def _draws(columns: Floats, strata: list[npt.NDArray[np.intp]], n_resamples: int, seed: int) -> Iterator[Floats]:
    """Resample each domain; yield its column means over all resamples, ``[n_resamples, columns]``."""
    if n_resamples < 1:
        raise ValueError("at least one resample is needed")
    rng = np.random.default_rng(seed)
    for rows in strata:
        size, step = len(rows), max(1, _CHUNK // len(rows))
        starts = range(0, n_resamples, step)
        counts = (_counts(rng, size, min(step, n_resamples - start)) for start in starts)
        yield np.concatenate([chunk @ columns[rows] for chunk in counts]) / size


def _counts(rng: np.random.Generator, size: int, resamples: int) -> Floats:
    """Draw how often each of ``size`` prompts is in each resample, ``[resamples, size]``."""
    drawn = rng.integers(0, size, size=(resamples, size)) + np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _percentiles(resampled: Floats, strata: list[npt.NDArray[np.intp]], level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"the level lies between 0 and 1, got {level}")
    if min(map(len, strata)) < 2:
        return None, None
    tail = _expanded_tail(level, sum(map(len, strata)), len(strata))
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(level: float, n: int, n_strata: int) -> float:
    """Give the tail whose normal quantile equals that of Student's t, freed of the bootstrap's narrowness."""
    z, freedom = NormalDist().inv_cdf((1 - level) / 2), n - n_strata
    # Cornish-Fisher expansion of Student's t quantile: the tail is right to 0.0005 from four degrees of freedom on.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return NormalDist().cdf(t * math.sqrt(n / freedom))


def _agreed(values: Floats) -> float | None:
    """Give the one value, 0 or 1, that all prompts have, if they agree."""
    first = float(values[0])
    return first if first in (0.0, 1.0) and (values == first).all() else None


def _binomial_bound(value: float, n: int, level: float) -> tuple[float, float]:
    """Bound a share of exactly 0 or 1 over ``n`` prompts (Clopper and Pearson, 1934)."""
    width = 1 - ((1 - level) / 2) ** (1 / n)
    return (0.0, width) if value == 0 else (1 - width, 1.0)


def _p_value(value: float, resampled: Floats, n: int, n_strata: int) -> float:
    freedom = n - n_strata
    error = float(np.nanstd(resampled)) * math.sqrt(n / max(freedom, 1))
    if freedom < 1:
        tail = 1.0
    elif error == 0:
        tail = float(value == 0)
    else:
        # The normal deviate with the tail of Student's t, to three digits (Wallace 1959).
        t = value / error
        deviate = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
        tail = math.erfc(deviate / math.sqrt(2))
    return min(1.0, max(tail, 2.0 ** (1 - n)))
