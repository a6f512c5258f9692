"""Intervals that cover, differences that pair, corrections that agree with other implementations."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats

from unidetox.stats import bootstrap_ci, holm, paired_difference, statistic_of


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


def test_one_prompt_gives_its_value():
    assert bootstrap_ci([0.25]) == (0.25, 0.25)


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
