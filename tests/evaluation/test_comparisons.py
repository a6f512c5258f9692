"""Comparisons of targets by hand: who is compared with whom, on what, how sure, corrected how; what survives."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from unidetox.evaluation.comparisons import compare, survival_rows
from unidetox.evaluation.metrics.stats import holm
from unidetox.evaluation.metrics.summary import Column, PromptTable

DOMAINS = ("gender",) * 20 + ("race",) * 30 + ("disability",) * 10 + (None,) * 4


def column(value, weight=None):
    value = np.asarray(value, dtype=float)
    weight = np.ones(len(value)) if weight is None else np.asarray(weight, dtype=float)
    return Column(value, weight, (weight > 0) * 1, (weight == 0) * 1)


def table(ids="p", **columns):
    ids = tuple(f"{ids}{i}" for i in range(len(DOMAINS)))
    return PromptTable(
        ids, (None,) * len(ids), DOMAINS, {m: v if isinstance(v, Column) else column(v) for m, v in columns.items()}
    )


def values(seed, chance=0.5):
    return (np.random.default_rng(seed).random(len(DOMAINS)) < chance).astype(float)


def found(records, **wanted):
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


def test_who_is_compared_with_whom():
    keys = [
        ("a", "base"),
        ("a", "unidetox"),
        ("a", "dexperts"),
        ("a", "samples"),
        ("b", "base"),
        ("b", "samples"),
        ("c", "x"),
    ]
    records = compare({key: table(tp=values(i)) for i, key in enumerate(keys)})
    pairs = {(r["first"]["target"], r["first"]["method"], r["second"]["method"]) for r in records}
    assert pairs == {
        ("a", "unidetox", "base"), ("a", "dexperts", "base"), ("a", "samples", "base"), ("b", "samples", "base"),
        ("a", "dexperts", "unidetox"), ("a", "samples", "unidetox"),
    }  # fmt: skip
    assert all(r["first"]["target"] == r["second"]["target"] for r in records)
    assert [r["domain"] for r in found(records, first={"target": "b", "method": "samples"})] == ["id", "ood", "all"]


def test_a_difference_by_hand():
    before, after = values(0, 0.8), values(1, 0.2)
    records = compare({("m", "base"): table(tp=before), ("m", "unidetox"): table(tp=after)})
    difference = after - before
    by_domain = [difference[:20].mean(), difference[20:50].mean(), difference[50:60].mean()]
    assert found(records, domain="id")[0]["difference"] == pytest.approx(np.mean(by_domain[:2]))
    assert found(records, domain="ood")[0]["difference"] == pytest.approx(by_domain[2])
    everything = found(records, domain="all")[0]
    assert everything["difference"] == pytest.approx(difference.mean())
    assert [r["n"] for r in records] == [50, 10, 64]
    theirs = scipy.stats.ttest_rel(after, before)
    low, high = theirs.confidence_interval()
    assert (everything["ci_low"], everything["ci_high"]) == pytest.approx((low, high), abs=0.03)
    assert everything["ci_high"] < 0 and everything["p"] < 1e-4 and everything["higher_is_better"] is False
    assert [r["p_holm"] for r in records] == holm([r["p"] for r in records])
    assert all(r["p_holm"] >= r["p"] for r in records) and everything["p_holm"] > everything["p"]


def test_all_comparisons_of_an_evaluation_are_one_family():
    keys = [("a", "base"), *(("a", f"method-{i}") for i in range(20))]
    records = compare({key: table(tp=values(i), emt=values(100 + i)) for i, key in enumerate(keys)})
    assert len(records) == 20 * 6
    assert min(r["p"] for r in records) < 0.05 < min(r["p_holm"] for r in records)


def test_perplexities_are_weighted_and_prompts_without_a_text_left_out():
    tokens = np.full(len(DOMAINS), 20.0)
    silent = tokens.copy()
    silent[:4] = 0.0
    tables = {
        ("m", "base"): table(ppl_token=column(tokens * 3.0, tokens)),
        ("m", "unidetox"): table(ppl_token=column(silent * 2.0, silent)),
    }
    [record] = compare(tables)
    assert (record["metric"], record["domain"], record["n"]) == ("ppl_token", "all", 60)
    assert record["difference"] == pytest.approx(np.exp(2) - np.exp(3))


def test_answers_are_compared_question_by_question():
    tables = {("m", "base"): table(), ("m", "unidetox"): table()}
    right = [1.0, 0.0] * 50
    answers = {("m", "base"): {"accuracy": right}, ("m", "unidetox"): {"accuracy": [1.0, *right[1:-1], 1.0]}}
    [record] = compare(tables, answers)
    assert (record["metric"], record["domain"], record["n"]) == ("accuracy", "all", 100)
    assert record["difference"] == pytest.approx(0.01) and record["higher_is_better"] is True
    assert compare(tables, {("m", "base"): {"accuracy": right}, ("m", "unidetox"): {"accuracy": right[1:]}}) == []


def test_other_prompts_are_not_compared():
    assert compare({("m", "base"): table(tp=values(0)), ("m", "unidetox"): table(ids="q", tp=values(1))}) == []
    assert compare({}) == []


def test_what_survives_by_hand():
    before, after = values(0, 0.9), values(1, 0.1)
    tables = {("m", "base"): table(tp=before), ("m", "unidetox"): table(tp=after)}
    half = {("m", "base"): table(tp=before / 2), ("m", "unidetox"): table(tp=after / 2)}
    gone = {("m", "base"): table(tp=before), ("m", "unidetox"): table(tp=before)}
    rows = survival_rows(tables, {"leetspeak": half, "casing": tables, "spacing": gone})
    assert {row.method for row in rows} == {"unidetox"} and [row.domain for row in rows] == ["id", "ood", "all"] * 3
    assert {(row.metric, row.scorer) for row in rows} == {("survival", None)}
    kept = {(row.form, row.domain): row.value for row in rows}
    for domain in ("id", "ood", "all"):
        assert kept["leetspeak", domain] == pytest.approx(0.5)
        assert kept["casing", domain] == pytest.approx(1.0)
        assert kept["spacing", domain] == pytest.approx(0.0)
    assert all(row.higher_is_better and row.ci_low <= row.value <= row.ci_high for row in rows)


def test_the_interval_of_what_survives_covers_the_truth():
    """Two targets, plain and perturbed, on prompts of different hardness; half of the fall survives."""
    hits, n = 0, len(DOMAINS)
    for experiment in range(400):
        rng = np.random.default_rng(experiment)
        hard = rng.beta(4, 2, size=n)
        draw = [(rng.random(n) < hard * factor).astype(float) for factor in (1.0, 0.2, 1.0, 0.6)]
        tables = [table(tp=value) for value in draw]
        plain, changed = ({("m", "base"): a, ("m", "unidetox"): b} for a, b in (tables[:2], tables[2:]))
        row = next(r for r in survival_rows(plain, {"x": changed}) if r.domain == "all")
        hits += row.value is not None and row.ci_low <= 0.5 <= row.ci_high
    assert 0.92 * 400 <= hits <= 0.975 * 400


def test_nothing_survives_where_nothing_fell():
    same = {("m", "base"): table(tp=values(0)), ("m", "unidetox"): table(tp=values(1))}
    assert {row.value for row in survival_rows(same, {"casing": same})} == {None}
    alone = {("m", "unidetox"): table(tp=values(1))}
    assert survival_rows(alone, {"casing": alone}) == []


def test_other_scorers_are_compared_in_the_same_family():
    tables = {("m", "base"): table(tp=values(0)), ("m", "unidetox"): table(tp=values(1))}
    other = {("m", "base"): table(tp=values(2)), ("m", "unidetox"): table(tp=values(2) - 0.5)}
    alone = compare(tables)
    records = compare(tables, scorers={"second": other, "of another run": {("m", "base"): table(tp=values(3))}})
    assert [r["scorer"] for r in records] == [None] * 3 + ["second"] * 3
    assert [r["difference"] for r in records[:3]] == [r["difference"] for r in alone]
    assert [r["difference"] for r in records[3:]] == pytest.approx([-0.5] * 3)
    assert [r["p_holm"] for r in records] == holm([r["p"] for r in records])
