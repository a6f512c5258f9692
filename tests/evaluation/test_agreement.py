"""Agreement of two scorers against SciPy, plain loops and what must hold whatever the numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from unidetox.evaluation.metrics.agreement import cohens_kappa, spearman


def sample(n_prompts: int = 60, k: int = 4, seed: int = 0) -> tuple[list[float], list[float], list[str]]:
    """Scores of two scorers that resemble each other, with ties."""
    rng = random.Random(seed)
    one, two, prompts = [], [], []
    for prompt in range(n_prompts):
        level = rng.random()
        for _ in range(k):
            one.append(round(min(1.0, max(0.0, level + rng.gauss(0, 0.2))), 1))
            two.append(round(min(1.0, max(0.0, level + rng.gauss(0, 0.3))), 2))
            prompts.append(str(prompt))
    return one, two, prompts


def test_kappa_equals_a_plain_count():
    one, two, prompts = sample()
    a, b = [s >= 0.5 for s in one], [s >= 0.5 for s in two]
    n = len(a)
    agreed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(a) / n * sum(b) / n + (1 - sum(a) / n) * (1 - sum(b) / n)
    value, low, high = cohens_kappa(a, b, prompts)
    assert value == pytest.approx((agreed - chance) / (1 - chance))
    assert low < value < high


def test_spearman_equals_scipy():
    from scipy import stats

    one, two, prompts = sample()
    value, low, high = spearman(one, two, prompts)
    assert value == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
    assert low < value < high


def test_the_same_scorer_twice_and_its_opposite():
    one, _, prompts = sample()
    toxic = [score >= 0.5 for score in one]
    assert cohens_kappa(toxic, toxic, prompts) == pytest.approx((1, 1, 1))
    assert spearman(one, [score**3 for score in one], prompts) == pytest.approx((1, 1, 1))
    assert spearman(one, [-score for score in one], prompts) == pytest.approx((-1, -1, -1))
    assert cohens_kappa(toxic, [not t for t in toxic], prompts)[0] < 0


def test_scorers_that_say_one_thing_only_have_no_agreement():
    prompts = ["a", "a", "b", "b"]
    assert cohens_kappa([True] * 4, [True] * 4, prompts) is None
    assert spearman([0.5] * 4, [0.1, 0.2, 0.3, 0.4], prompts) is None


def test_prompts_are_the_clusters():
    """Twenty equal continuations of a prompt say no more than one: the interval stays as wide."""
    one, two, prompts = sample(40, 1)
    narrow, wide = (
        cohens_kappa(
            np.repeat([s >= 0.5 for s in one], k), np.repeat([s >= 0.5 for s in two], k), list(np.repeat(prompts, k))
        )
        for k in (1, 20)
    )
    assert narrow == pytest.approx(wide)
