"""Intervals that cover, differences that pair, corrections that agree with other implementations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from unidetox.evaluation.metrics.stats import bootstrap_ci, bootstrap_of_means, holm, paired_difference, statistic_of


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Per-prompt values shaped like maximum toxicities: U-shaped on [0, 1], mean 0.4."""
    return rng.beta(0.4, 0.6, size=n)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: (rng.random(100) < 0.3).astype(float), 0.3),
        (lambda rng: skewed(rng, 60), 0.4),
        (lambda rng: rng.normal(2.0, 3.0, size=12), 2.0),
    ],
    ids=["share", "emt", "few"],
)
def test_intervals_of_a_mean_cover_the_truth(draw, truth):
    hits = 0
    for experiment in range(1000):
        low, high = bootstrap_ci(draw(np.random.default_rng(experiment)), n_resamples=500, seed=experiment)
        hits += low <= truth <= high
    assert 930 <= hits <= 970


def test_intervals_of_a_macro_mean_cover_the_truth():
    sizes, rates = {"gender": 40, "race": 80, "religion": 30}, {"gender": 0.2, "race": 0.5, "religion": 0.7}
    domains = [name for name, n in sizes.items() for _ in range(n)]
    chances = np.array([rates[name] for name in domains])
    hits = 0
    for experiment in range(1000):
        values = (np.random.default_rng(experiment).random(len(domains)) < chances).astype(float)
        low, high = bootstrap_ci(values, n_resamples=400, seed=experiment, domains=domains)
        hits += low <= np.mean(list(rates.values())) <= high
    assert 930 <= hits <= 970


def test_intervals_of_token_weighted_perplexity_cover_the_truth():
    hits = 0
    for experiment in range(1000):
        rng = np.random.default_rng(experiment)
        tokens = rng.integers(200, 500, size=80)
        nll = tokens * rng.normal(3.0, 0.4, size=80)
        low, high = bootstrap_ci(nll, "exp_ratio", 500, seed=experiment, weights=tokens)
        hits += low <= math.exp(3.0) <= high
    assert 930 <= hits <= 970


def test_clustered_continuations_are_not_taken_for_independent_ones():
    """Twenty-five continuations that agree within their prompt are as sure as one, not as twenty-five."""
    values = (np.random.default_rng(0).random(100) < 0.5).astype(float)
    naive = bootstrap_ci(np.repeat(values, 25))
    clustered = bootstrap_ci(values)
    assert (clustered[1] - clustered[0]) > 4 * (naive[1] - naive[0])


def test_an_interval_equals_that_of_scipy():
    values = skewed(np.random.default_rng(1), 400)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert bootstrap_ci(values, n_resamples=20_000) == pytest.approx(tuple(theirs), abs=0.002)


def test_a_macro_ratio_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    tokens, domains = rng.integers(1, 40, size=150), rng.choice(["gender", "race"], size=150)
    nll = tokens * rng.gamma(9.0, 0.3, size=150)
    resampled = []
    for _ in range(4000):
        parts = []
        for name in ("gender", "race"):
            rows = rng.choice(np.flatnonzero(domains == name), size=(domains == name).sum())
            parts.append(math.exp(nll[rows].sum() / tokens[rows].sum()))
        resampled.append(sum(parts) / 2)
    ours = bootstrap_ci(nll, "exp_ratio", 4000, weights=tokens, domains=list(domains))
    assert ours == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), rel=0.02)


def test_point_values_are_the_formulas():
    assert statistic_of([0.0, 1.0, 1.0]) == pytest.approx(2 / 3)
    assert statistic_of([0.0, 1.0, 1.0], domains=["a", "a", "b"]) == pytest.approx(0.75)
    assert statistic_of([2.0, 4.0], "ratio", weights=[1, 2]) == 2.0
    assert statistic_of([2.0, 4.0], "exp_ratio", weights=[1, 2]) == pytest.approx(math.exp(2.0))


def test_the_seed_decides_and_nothing_else():
    values = skewed(np.random.default_rng(4), 50)
    assert bootstrap_ci(values, seed=7) == bootstrap_ci(values, seed=7) != bootstrap_ci(values, seed=8)
    np.random.seed(0)  # the global state must not matter
    assert bootstrap_ci(values, seed=7) == bootstrap_ci(list(values), seed=7)


def test_a_thousand_prompts_take_a_blink():
    values = skewed(np.random.default_rng(5), 1000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        bootstrap_ci(values)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25  # 30 ms alone on a core; tests share theirs


def test_many_prompts_are_resampled_in_pieces():
    values = np.random.default_rng(6).normal(size=30_000)
    low, high = bootstrap_ci(values, n_resamples=200)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.25)


def test_a_share_on_which_all_agree_still_has_an_interval():
    assert bootstrap_ci([0.0] * 20, share=True) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert bootstrap_ci([1.0] * 20, share=True) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert bootstrap_ci([0.0] * 20) == (0.0, 0.0)
    assert bootstrap_ci([0.0, 1.0] * 20, share=True) == bootstrap_ci([0.0, 1.0] * 20)


def test_one_prompt_of_a_domain_says_nothing_about_others():
    assert bootstrap_ci([0.25]) == (None, None)
    assert bootstrap_ci([0.1, 0.2, 0.3], domains=["a", "a", "b"]) == (None, None)
    assert bootstrap_ci([1.0], share=True) == pytest.approx((0.025, 1.0))
    alone = paired_difference([0.9, 0.8], [0.1, 0.3], domains=["a", "b"])
    assert (alone.low, alone.high, alone.p_value) == (None, None, 1.0)
    assert bootstrap_of_means([[0.5], [2.0]], lambda means: means[..., 0]) == (0.5, None, None)


def test_shares_that_all_differ_by_the_same_still_have_an_interval():
    """At most so many other prompts would differ otherwise, and by no more than shares can: from -1 to 1."""
    others = 1 - 0.025 ** (1 / 20)
    same = paired_difference([1.0] * 20, [1.0] * 20, share=True)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, pytest.approx(-others), pytest.approx(others), 1.0)
    fell = paired_difference([0.0] * 20, [1.0] * 20, share=True)
    assert (fell.low, fell.high) == pytest.approx((-1.0, -1 + 2 * others))
    mixed = paired_difference([0.0, 1.0] * 10, [1.0] * 20, share=True)
    assert mixed == paired_difference([0.0, 1.0] * 10, [1.0] * 20)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_p_values_of_few_prompts_have_the_tail_of_t(n):
    rng = np.random.default_rng(n)
    for shift in (0.3, 0.6, 1.0):
        a = rng.normal(shift, 1, size=n)
        theirs = scipy.stats.ttest_rel(a, np.zeros(n)).pvalue
        ours = paired_difference(a, np.zeros(n), n_resamples=20_000).p_value
        assert ours == pytest.approx(max(theirs, 2.0 ** (1 - n)), rel=0.06, abs=0.001)


def test_pairing_removes_what_prompts_share():
    rng = np.random.default_rng(7)
    hardness = rng.normal(0, 1, size=200)
    a, b = hardness + rng.normal(0.05, 0.1, size=200), hardness + rng.normal(0.0, 0.1, size=200)
    paired = paired_difference(a, b)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.low > 0 and paired.p_value < 0.001 and paired.n == 200
    assert paired_difference(b, a).value == pytest.approx(-paired.value)
    assert scipy.stats.ttest_ind(a, b).pvalue > 0.3


def test_p_values_agree_with_the_paired_t_test():
    rng = np.random.default_rng(8)
    for shift in (0.0, 0.1, 0.2, 0.4):
        a = rng.normal(shift, 1, size=300)
        theirs = scipy.stats.ttest_rel(a, np.zeros(300)).pvalue
        assert paired_difference(a, np.zeros(300)).p_value == pytest.approx(theirs, rel=0.25, abs=0.01)


def test_no_difference_is_found_as_often_as_the_level_says():
    found = 0
    for experiment in range(1000):
        rng = np.random.default_rng(experiment)
        a, b = (rng.random((2, 100)) < 0.4).astype(float)
        found += paired_difference(a, b, n_resamples=500, seed=experiment).p_value < 0.05
    assert 30 <= found <= 75


def test_differences_of_perplexities_and_of_domains():
    tokens = np.full(40, 20)
    nll_a, nll_b = tokens * 3.0, tokens * 2.0
    same = paired_difference(nll_a, nll_b, "exp_ratio", weights_a=tokens, weights_b=tokens, domains=["x", "y"] * 20)
    assert same.value == pytest.approx(math.exp(3) - math.exp(2))
    assert (same.low, same.high) == pytest.approx((same.value, same.value))
    assert same.p_value == 2.0**-39


def test_equal_targets_do_not_differ():
    values = skewed(np.random.default_rng(9), 30)
    result = paired_difference(values, values)
    assert (result.value, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_ci([]), "at least one prompt"),
        (lambda: bootstrap_ci([[1.0, 2.0]]), "one number a prompt"),
        (lambda: bootstrap_ci([1.0, math.nan]), "not finite"),
        (lambda: bootstrap_ci([1.0], level=1.0), "level"),
        (lambda: bootstrap_ci([1.0], n_resamples=0), "resample"),
        (lambda: bootstrap_ci([1.0], "median"), "unknown statistic"),
        (lambda: bootstrap_ci([1.0], "ratio"), "weights"),
        (lambda: bootstrap_ci([1.0], weights=[1.0]), "weights"),
        (lambda: bootstrap_ci([1.0, 2.0], "ratio", weights=[1.0, -1.0]), "negative"),
        (lambda: bootstrap_ci([1.0, 2.0], "ratio", weights=[1.0, 0.0], domains=["a", "b"]), "zero"),
        (lambda: bootstrap_ci([1.0, 2.0], domains=["a"]), "domains"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "same prompts"),
        (lambda: holm([1.5]), "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def experiment_of_toxicity(rng: np.random.Generator, sizes: dict[str, int], samples: int = 25) -> dict[str, np.ndarray]:
    """Draw what one evaluation would: how many continuations of each prompt are toxic (beta-binomial)."""
    shapes = {"gender": (0.3, 3.0), "race": (0.6, 4.0), "religion": (0.5, 2.0)}
    return {d: rng.binomial(samples, rng.beta(*shapes[d], size=n)) for d, n in sizes.items()}


def covers(interval: Callable[[int], tuple[float, float]], truth: float) -> int:
    """Count in how many of a thousand simulated experiments the interval holds the truth."""
    ends = (interval(experiment) for experiment in range(1000))
    return sum(low <= truth <= high for low, high in ends)


@pytest.mark.parametrize(
    "sizes", [{"gender": 60, "race": 60, "religion": 60}, {"gender": 30, "race": 90, "religion": 15}]
)
@pytest.mark.parametrize("what", ["tp", "fraction"])
def test_intervals_of_toxicity_cover_the_truth(sizes, what):
    """Twenty-five samples a prompt, as the evaluation takes them; the macro-mean over domains, as ID is."""
    domains = [name for name, n in sizes.items() for _ in range(n)]
    value = (lambda counts: counts > 0) if what == "tp" else (lambda counts: counts / 25)
    large = experiment_of_toxicity(np.random.default_rng(99), dict.fromkeys(sizes, 400_000))
    truth = float(np.mean([value(counts).mean() for counts in large.values()]))

    def interval(experiment: int) -> tuple[float, float]:
        drawn = experiment_of_toxicity(np.random.default_rng(experiment), sizes)
        numbers = value(np.concatenate(list(drawn.values()))).astype(float)
        return bootstrap_ci(numbers, n_resamples=400, seed=experiment, domains=domains, share=what == "tp")

    assert 930 <= covers(interval, truth) <= 970


def test_intervals_of_a_ratio_cover_the_truth():
    """Mean perplexity of a continuation: of each prompt a skewed sum over the continuations that are not empty."""

    def interval(experiment: int) -> tuple[float, float]:
        rng = np.random.default_rng(experiment)
        n = rng.binomial(25, 0.9, size=150)
        sums = n * np.exp(rng.normal(3.0, 0.5, size=150))
        return bootstrap_ci(sums, "ratio", 400, seed=experiment, weights=n)

    assert 930 <= covers(interval, math.exp(3.0 + 0.125)) <= 970


def test_intervals_of_a_paired_difference_cover_the_truth():
    """Base and detoxified on the same prompts: what makes a prompt toxic is shared, half of it is unlearned."""

    def interval(experiment: int) -> tuple[float, float]:
        rng = np.random.default_rng(experiment)
        chance = rng.beta(0.6, 4.0, size=120)
        before, after = (rng.binomial(25, chance * factor) / 25 for factor in (1.0, 0.5))
        found = paired_difference(after, before, n_resamples=400, seed=experiment)
        return found.low, found.high

    assert 930 <= covers(interval, -0.5 * 0.6 / 4.6) <= 970


@pytest.mark.parametrize(("statistic", "size"), [("mean", 80), ("ratio", 80), ("exp_ratio", 80), ("paired", 80)])
def test_intervals_equal_those_of_an_independent_implementation(statistic, size):
    """scipy resamples one by one and takes plain percentiles; ours are wider by what Student's t would add."""
    rng = np.random.default_rng(10)
    weights = rng.integers(5, 30, size=size).astype(float)
    values = weights * rng.gamma(9.0, 0.3, size=size)
    other = values * rng.uniform(0.5, 1.0, size=size)
    functions = {
        "mean": lambda v, w, o, axis: v.mean(axis),
        "ratio": lambda v, w, o, axis: v.sum(axis) / w.sum(axis),
        "exp_ratio": lambda v, w, o, axis: np.exp(v.sum(axis) / w.sum(axis)),
        "paired": lambda v, w, o, axis: (v - o).mean(axis),
    }
    theirs = scipy.stats.bootstrap(
        (values, weights, other), functions[statistic], paired=True, vectorized=True, n_resamples=20_000,
        method="percentile", rng=np.random.default_rng(11),
    ).confidence_interval  # fmt: skip
    if statistic == "paired":
        found = paired_difference(values, other, n_resamples=20_000)
        low, high = found.low, found.high
    else:
        low, high = bootstrap_ci(values, statistic, 20_000, weights=None if statistic == "mean" else weights)
    wider = scipy.stats.t.ppf(0.975, size - 1) / scipy.stats.norm.ppf(0.975) * math.sqrt(size / (size - 1))
    assert (high - low) / (theirs.high - theirs.low) == pytest.approx(wider, rel=0.015)
    assert (high + low) / 2 == pytest.approx((theirs.high + theirs.low) / 2, rel=0.01)


def test_a_function_of_several_means():
    rng = np.random.default_rng(12)
    a, b = rng.random(200), rng.random(200) + 1
    value, low, high = bootstrap_of_means([a, b], lambda means: means[..., 0] / means[..., 1])
    assert value == pytest.approx(a.mean() / b.mean())
    assert (low, high) == pytest.approx(bootstrap_ci(a, "ratio", weights=b))
    domains = ["x"] * 150 + ["y"] * 50
    macro = bootstrap_of_means([a, b], lambda means: means[..., 0], domains=domains)
    assert macro[0] == pytest.approx(statistic_of(a, domains=domains))
    assert macro[1:] == pytest.approx(bootstrap_ci(a, domains=domains))
