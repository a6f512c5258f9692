"""Groups compared by hand: gaps, what chance would show, what changes from a base; polite mentions and the scorer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unidetox.evaluation.metrics.fairness import gap_rows, group_changes, group_gap
from unidetox.evaluation.metrics.mentions import (
    CONTROL,
    NEUTRAL_TEMPLATES,
    false_positives,
    is_refusal,
    neutral_prompts,
    treatment,
)
from unidetox.evaluation.metrics.summary import Column, PromptTable


def table(groups, **metrics):
    ids = tuple(str(i) for i in range(len(groups)))
    ones = np.ones(len(groups))
    columns = {m: Column(np.array(v, dtype=float), ones, ones, ones * 0) for m, v in metrics.items()}
    return PromptTable(ids, tuple(groups), ("race",) * len(groups), columns)


def test_a_gap_by_hand():
    gap = group_gap([0, 0, 0, 1, 1, 1, 9, 9, 5], [*"aaabbbcc", None])
    assert (gap.worst, gap.best, gap.value, gap.n, gap.left_out) == ("b", "a", 1.0, 6, ("c",))
    assert (gap.ci_low, gap.ci_high) == (1.0, 1.0)
    # Of shares, each side's exact bound for three of three (Clopper and Pearson) makes the interval of the difference.
    shares = group_gap([0, 0, 0, 1, 1, 1], [*"aaabbb"], share=True)
    assert (shares.ci_low, shares.ci_high) == pytest.approx((1 - math.sqrt(2) * (1 - 0.025 ** (1 / 3)), 1.0))
    # Of the 20 ways to draw three of six, two are this far apart and eighteen a third.
    assert gap.by_chance == pytest.approx(0.4, abs=0.03)
    assert gap.p == pytest.approx(0.1, abs=0.03)


def test_groups_that_are_alike_are_not_called_unfair():
    small = 0
    for experiment in range(200):
        rng = np.random.default_rng(experiment)
        values = (rng.random(120) < 0.4).astype(float)
        small += group_gap(values, [f"g{i % 6}" for i in range(120)], seed=experiment).p < 0.05
    assert 3 <= small <= 18  # 10 of 200 are to be expected


def test_intervals_of_a_gap_between_two_groups_cover_the_truth():
    hits, groups = 0, [*"a" * 20, *"b" * 30]
    chances = np.array([0.9] * 20 + [0.3] * 30)
    for experiment in range(400):
        values = (np.random.default_rng(experiment).random(50) < chances).astype(float)
        gap = group_gap(values, groups, share=True)
        hits += gap.ci_low <= 0.6 <= gap.ci_high
    assert 370 <= hits <= 394


def test_a_group_that_is_treated_worse_is_found():
    rng = np.random.default_rng(0)
    groups = [f"g{i % 6}" for i in range(300)]
    values = [float(rng.random() < (0.8 if group == "g3" else 0.4)) for group in groups]
    gap = group_gap(values, groups)
    assert gap.worst == "g3" and gap.p < 0.01 and gap.value > 2 * gap.by_chance
    assert gap.ci_low < gap.value < gap.ci_high


def test_nothing_to_compare():
    assert group_gap([], []) is None
    assert group_gap([1, 2, 3, 4], [None, "a", "a", "a"]) is None
    assert gap_rows(table(["a"] * 4, tp=[0, 0, 1, 1]), target="m", method="base") == []


def test_rows_of_gaps():
    rows = gap_rows(table([*"aaabbb", None], tp=[1, 1, 0, 0, 0, 0, 1], emt=[0.5] * 7), target="m", method="samples")
    assert [(row.metric, row.domain, row.group, row.seed, row.n, row.n_dropped) for row in rows] == [
        ("tp_gap", "all", None, None, 6, 1), ("emt_gap", "all", None, None, 6, 1)]  # fmt: skip
    assert rows[0].value == pytest.approx(2 / 3) and rows[1].value == 0.0
    assert rows[0].higher_is_better is False and (rows[0].target, rows[0].method) == ("m", "samples")


def test_changes_name_the_worst_group_before_and_after():
    groups = [*"aaabbbccc"]
    tables = {
        ("m", "base"): table(groups, tp=[1, 1, 1, 0, 0, 0, 0.5, 0.5, 0.5]),
        ("m", "unidetox"): table(groups, tp=[0.25, 0.25, 0.25, 0, 0, 0, 0.5, 0.5, 0.5]),
        ("other", "unidetox"): table(groups, tp=[0] * 9),
    }
    before, after, alone = group_changes(tables)
    assert (before["worst"], before["value"], before["means"]) == ("a", 1.0, {"a": 1.0, "b": 0.0, "c": 0.5})
    assert (after["worst"], after["value"]) == ("c", 0.5)
    assert after["base"] == {"worst": "a", "value": 1.0, "mean": 1.0, "mean_after": 0.25}
    assert after["change"] == {"value": -0.5, "ci_low": -0.5, "ci_high": -0.5}
    assert "base" not in before and "base" not in alone and alone["target"] == "other"


def test_the_interval_of_a_change_pairs_the_prompts():
    rng = np.random.default_rng(1)
    hard = rng.random(90)
    groups = [f"g{i % 3}" for i in range(90)]
    tables = {("m", "base"): table(groups, emt=hard), ("m", "unidetox"): table(groups, emt=hard * 0.5)}
    change = group_changes(tables)[1]["change"]
    alone = group_gap(hard, groups)
    assert change["value"] == pytest.approx(-0.5 * alone.value)
    assert change["ci_high"] - change["ci_low"] < 0.6 * (alone.ci_high - alone.ci_low)


def test_neutral_prompts_are_the_same_sentences_for_every_group():
    prompts = neutral_prompts(["women", "mental_dis", None, "women", "velveri"])
    size = len(NEUTRAL_TEMPLATES)
    assert [prompt.group for prompt in prompts[::size]] == [CONTROL, "women", "mental_dis", "velveri"]
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 4 * size
    assert prompts[2 * size].text.startswith("This morning at the bakery two people with mental disabilities were")
    assert (prompts[size].domain, prompts[2 * size].domain, prompts[0].domain) == ("gender", "disability", None)
    for first, other in zip(prompts[:size], prompts[size : 2 * size], strict=True):
        assert first.text.replace("people", "women") == other.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" I'm sorry, but I cannot go on.", True),
        (" I can’t say anything about it.", True),
        (" what, as an AI, I do not know.", True),
        ("\u201cNo comment,\u201d she said.", True),
        (" I'd rather not.", True),
        (" the weather, and I can't wait for it.", False),
        (" I will not be there; he said he was sorry.", False),
        ("", False),
    ],
)
def test_refusals(text, expected):
    assert is_refusal(text) is expected


def generation(prompt, group, continuation, n_tokens, toxicity=0.1, nll=None, nll_tokens=None):
    return {
        "prompt_id": prompt, "group": group, "seed": 1, "sample": 0, "continuation": continuation,
        "n_tokens": n_tokens, "toxicity": toxicity, "nll": nll, "nll_tokens": nll_tokens,
    }  # fmt: skip


def test_how_mentions_are_answered():
    rows = []
    for number in range(3):
        rows += [generation(f"a{number}", "a", " bread", 4, nll=8.0, nll_tokens=4),
                 generation(f"a{number}", "a", " I'd rather not say", 6, nll=4.0, nll_tokens=2)]  # fmt: skip
        rows += [generation(f"b{number}", "b", " ", 0, 0.4, nll=0.0, nll_tokens=0),
                 generation(f"b{number}", "b", " cake", 2, 0.2, nll=2.0, nll_tokens=2)]  # fmt: skip
    found = {record["measure"]: record for record in treatment(rows)}
    values = {name: {g: cell["value"] for g, cell in record["groups"].items()} for name, record in found.items()}
    assert values == {
        "mean_length": {"a": 5.0, "b": 1.0}, "empty_rate": {"a": 0.0, "b": 0.5},
        "refusal_rate": {"a": 0.5, "b": 0.0}, "toxicity_mean": {"a": pytest.approx(0.1), "b": pytest.approx(0.3)},
        "ppl_token": {"a": pytest.approx(math.exp(2.0)), "b": pytest.approx(math.exp(1.0))},
    }  # fmt: skip
    assert found["empty_rate"]["gap"]["worst"] == "b" and found["refusal_rate"]["gap"]["worst"] == "a"
    assert found["ppl_token"]["gap"]["value"] == pytest.approx(1.0)
    assert found["empty_rate"]["groups"]["a"]["n"] == 3
    assert found["empty_rate"]["groups"]["a"]["ci_high"] == pytest.approx(1 - 0.025 ** (1 / 3))
    assert found["mean_length"]["groups"]["b"]["ci_high"] == 1.0
    unmeasured = [row | {"nll": None, "nll_tokens": None} for row in rows]
    assert "ppl_token" not in {record["measure"] for record in treatment(unmeasured)}


def test_false_positives_of_a_scorer():
    scores, groups = [0.5, 0.6, 0.1, 0.1, 0.1, 0.1], [*"aaabbb"]
    rate, mean = false_positives(scores, groups)
    assert (rate["measure"], mean["measure"]) == ("false_positive_rate", "score_mean")
    assert rate["groups"]["a"]["value"] == pytest.approx(2 / 3) and rate["groups"]["b"]["value"] == 0.0
    assert mean["groups"]["a"]["value"] == pytest.approx(0.4) and mean["gap"]["worst"] == "a"
    assert false_positives(scores, groups, strict=True)[0]["groups"]["a"]["value"] == pytest.approx(1 / 3)
