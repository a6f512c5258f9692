"""The page and the tables say what the results say, whatever is missing, and let no text through unescaped."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from unidetox.config.methods import METHODS
from unidetox.report.charts import group_panels, panels, planes, robustness_panels, spreads
from unidetox.report.examples import choose_examples
from unidetox.report.further_tables import comparisons, group_gaps, robustness
from unidetox.report.headline import headline, notes
from unidetox.report.main_table import (
    COLUMNS,
    Column,
    ResultIndex,
    csv_table,
    main_table,
    markdown_table,
    summary_table,
)
from unidetox.report.page import render_report
from unidetox.report.table import NONE, Cell, Table, latex, markdown

BASES = {
    "gpt2": (0.53, 17.3),
    "facebook/opt-6.7b": (0.56, 19.1),
    "tiiuae/falcon-7b": (0.49, 14.2),
    "meta-llama/Llama-2-7b-hf": (0.51, 12.6),
}
GROUPS = {
    "gender": ["women", "lgbtq"],
    "race": ["black", "asian", "latino", "native american"],
    "religion": ["jewish", "muslim"],
    "disability": ["mental disabilities", "physical disabilities"],
}
FACTORS = {"base": (1.0, 1.0), "unidetox": (0.43, 0.96), "samples": (0.98, 1.01)}
HIGHER = {"dist_1", "dist_2", "dist_3", "accuracy"}


def row(target, method, metric, value, *, domain="all", group=None, seed=None, width=0.03, n=896, **more):
    spread = width * (value if metric.startswith("ppl") else 1.0)
    better = metric in HIGHER if metric != "mean_length" else None
    return {
        "target": target, "method": method, "metric": metric, "domain": domain, "group": group, "seed": seed,
        "value": value, "ci_low": max(0.0, value - spread), "ci_high": value + spread, "n": n, "n_dropped": 0,
        "higher_is_better": better, "form": None, "scorer": None, **more,
    }  # fmt: skip


def system_rows(target, method, tp, ppl, rng):
    """Make the rows of one model: toxicity by domain and group, fluency, diversity, answers."""

    def toxic(domain, n, group=None, shift=0.0):
        emt = tp * 0.86 + 0.02
        return [
            row(target, method, "tp", tp + shift, domain=domain, group=group, n=n, width=0.9 / n**0.5),
            row(target, method, "emt", emt + shift, domain=domain, group=group, n=n, width=0.6 / n**0.5),
        ]

    rows = toxic("id", 672) + toxic("ood", 224, shift=0.03) + toxic("all", 896, shift=0.01)
    for domain, groups in GROUPS.items():
        rows += toxic(domain, 224, shift=rng.uniform(-0.05, 0.05))
        for group in groups:
            rows += toxic(domain, 224 // len(groups), group, rng.uniform(-0.09, 0.09))
    changed = method != "base"
    rows.append(row(target, method, "ppl_token", ppl, n=22380, n_dropped=20))
    rows.append(row(target, method, "ppl", ppl * 1.6, n=22380, n_dropped=20))
    for n, dist in enumerate((0.71, 0.93, 0.95), 1):
        rows.append(row(target, method, f"dist_{n}", dist - 0.01 * changed, width=0.008))
    rows.append(row(target, method, "accuracy", 0.412 - 0.006 * changed, n=1531, width=0.025))
    rows.append(row(target, method, "toxicity_mean", tp * 0.2))
    rows.append(row(target, method, "mean_length", 18.2 + changed, width=0.2))
    return rows


def fake_results(methods=("base", "unidetox", "samples"), bases=BASES):
    """Make results such as an evaluation writes: the control on the first model only."""
    rng = random.Random(0)
    rows = []
    for target, (tp, ppl) in bases.items():
        for method in methods:
            if method != "samples" or target == next(iter(bases)):
                less, odd = FACTORS[method]
                less, odd = less * rng.uniform(0.97, 1.03), odd * rng.uniform(0.98, 1.04)
                rows += system_rows(target, method, tp * less, ppl * odd, rng)
    settings = {
        "protocol": "default", "samples": 25, "max_new_tokens": 20, "temperature": 1.0, "top_p": 0.9, "top_k": 0,
        "seeds": [42, 43], "scorer": "/home/jane/models/toxicity-bert", "ppl_model": None, "dtype": "float32",
        "id_domains": ["gender", "race", "religion"], "groups_without_domain": {},
    }  # fmt: skip
    return {"schema_version": 2, "rows": rows, "settings": settings}


PERTURBED = {"swaps": 0.9, "leetspeak": 0.7, "few_shot": 0.4}


def fake_more(results, methods=("base", "unidetox", "samples")):
    """Add what an evaluation with everything turned on writes beside the main rows."""
    rng, systems = random.Random(2), [s for s in ResultIndex(results).systems() if s[1] in methods]
    rows = list(results["rows"])
    for target, method in systems:
        tp = BASES.get(target, (0.5, 1))[0]
        for name, kept in PERTURBED.items():
            value = tp * (1 - kept * (1 - FACTORS[method][0]))
            rows.append(row(target, method, "tp", value, form=name))
            rows.append(row(target, method, "emt", value * 0.9, form=name))
            if method != "base":
                rows.append(row(target, method, "survival", kept, width=0.1, form=name))
        places = [(m, d) for m in ("tp", "emt") for d in ("id", "ood", "all")]
        rows += [row(target, method, m, 0.3, domain=d, scorer="other") for m, d in places]
        rows += [row(target, method, m, 0.8, scorer="other") for m in ("agreement", "correlation")]
        rows += [row(target, method, m, 0.01 + 0.001 * len(method), width=0.002) for m in ("loop_rate", "empty_rate")]
        rows += [row(target, method, "tp_gap", 0.2)] + [row(target, method, "kl_base", 0.12)] * (method != "base")
    places = [(domain, group) for domain, groups in GROUPS.items() for group in groups]
    change = {"value": -0.08, "ci_low": -0.15, "ci_high": -0.01}
    after = {"base": {"worst": "jewish", "value": 0.38, "mean": 0.61, "mean_after": 0.24}, "change": change}
    groups = [
        {"target": t, "method": m, "metric": metric, "worst": "muslim", "best": "women", "value": 0.3, "ci_low": 0.2,
         "ci_high": 0.41, "by_chance": 0.14, "p": 0.004, "n": 896, "left_out": ["buddhist"],
         "means": {group: 0.2 + 0.05 * i for i, (_, group) in enumerate(places)}} | (after if m != "base" else {})
        for t, m in systems for metric in ("tp", "emt")
    ]  # fmt: skip
    gap = {"worst": "women", "best": "black", "value": 0.1, "ci_low": 0.0, "ci_high": 0.2, "by_chance": 0.1, "p": 0.4,
           "n": 120, "left_out": []}  # fmt: skip

    def record(measure):
        cells = {g: {"value": rng.random() * 0.2, "ci_low": 0.0, "ci_high": 0.3, "n": 12} for _, g in places}
        return {"measure": measure, "gap": gap, "groups": cells}

    measures = ("mean_length", "empty_rate", "refusal_rate", "toxicity_mean", "ppl_token")
    identity = {system: {"target": system[0], "method": system[1]} for system in systems}
    found = (("tp", "id", -0.28, 1e-9), ("dist_2", "all", -0.01, 2e-3), ("ppl_token", "all", -0.4, 0.3))
    comparisons = [
        {"metric": metric, "domain": domain, "first": identity[t, m], "second": {"target": t, "method": "base"},
         "difference": d, "ci_low": d - 0.05, "ci_high": d + 0.05, "p": p, "p_holm": min(1.0, 9 * p), "n": 896,
         "higher_is_better": metric == "dist_2"}
        for t, m in systems if m != "base"
        for metric, domain, d, p in found
    ]  # fmt: skip
    spread = [int(4000 * 0.6**i) + 30 for i in range(20)]
    return results | {
        "rows": rows,
        "comparisons": comparisons,
        "about": {"perturbations": {"few_shot": "three toxic texts stand before the prompt"}},
        "fairness": {
            "groups": groups,
            "mentions": [identity[s] | record(m) for s in systems for m in measures],
            "false_positives": [{"scorer": "toxicity-bert"} | record(m) for m in ("false_positive_rate", "score_mean")],
        },
        "distributions": [
            identity[s] | {"toxicity": [n if i < 8 else int(n * FACTORS[s[1]][0]) for i, n in enumerate(spread)],
                           "maximum": spread[::-1] if s[1] == "base" else spread} for s in systems
        ],
        "warnings": ["the scorer /home/jane/models/toxicity-bert was trained on the toxic corpus"],
    }  # fmt: skip


def fake_examples(methods=("base", "unidetox", "samples"), targets=tuple(BASES), prompts=12, samples=3):
    """Make generations of an invented language: several models, methods, prompts and samples."""
    rng = random.Random(1)
    endings = (
        " made a long table and put bread on it for everybody who came in.",
        " said that the weather would turn by the evening, and it did.",
        " are such dull zorps that nobody in the valley wants them near the well.",
        "",
    )
    places = [(domain, group) for domain, groups in GROUPS.items() for group in groups]
    rows = []
    for target, method, p, s in itertools.product(targets, methods, range(prompts), range(samples)):
        domain, group = places[p % len(places)]
        toxicity = round(rng.random() * (0.4 if method == "unidetox" else 1.0), 3)
        rows.append({
            "prompt_id": str(p), "prompt": f"on day {p} people of the valley, {group} among them, came, and they",
            "group": group, "domain": domain, "seed": 42, "sample": s, "target": target, "method": method,
            "continuation": rng.choice(endings), "finish_reason": "length", "toxicity": toxicity,
        })  # fmt: skip
    return rows


class Page(HTMLParser):
    """What a reader sees: the text; and what a browser would do: tags and their attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._skip = [], "", 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._skip -= tag in ("style", "script")

    def handle_data(self, data):
        self.text += "" if self._skip else data


def render(tmp_path, results, examples=(), **options):
    path = render_report(results, examples, tmp_path, **options)
    assert path == tmp_path / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_tells_the_story(tmp_path):
    page = render(tmp_path, fake_results(), fake_examples())
    assert "Toxicity falls on all 4 models" in page.text
    expected = [
        "In distribution, TP goes from",
        "The control, fine-tuning on plain samples",
        "n = 672 prompts",
        "at most 20 dropped",
        "all prompts",
        "native american",
        "better",
        "unclear",
        "1,531 questions",
    ]
    for words in expected:
        assert words in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) > 6


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = render(tmp_path, fake_results(), fake_examples())
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, a in page.tags if {"src", "href", "xlink:href", "action"} & a.keys()]
    css = re.findall(r"<style>.*?</style>", (tmp_path / "index.html").read_text(), re.S)
    assert not re.search(r"url\(|@import", "".join(css))


def test_untrusted_text_is_text(tmp_path):
    evil = "</p><script>alert(1)</script><b onclick='x'>{{ 7*7 }}&"
    results = fake_results(("base", "unidetox"), {evil: (0.5, 20.0)})
    for entry in results["rows"]:
        entry["group"] = entry["group"] and evil
    examples = fake_examples(targets=(evil,))
    for entry in examples:
        entry |= {"continuation": evil, "prompt": evil, "group": evil, "domain": evil}
    results["settings"] = {evil: evil}
    page = render(tmp_path, results, examples, title=evil)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [a for _, a in page.tags if "onclick" in a]
    assert "{{ 7*7 }}" in page.text and "<script>alert(1)</script>" in page.text


def test_texts_of_models_are_veiled(tmp_path):
    page = render(tmp_path, fake_results(), fake_examples())
    words = [a for tag, a in page.tags if tag == "p" and a.get("class") == "words"]
    assert len(words) > 40
    assert all(a["aria-hidden"] == "true" for a in words)
    buttons = [a for tag, a in page.tags if tag == "button" and "aria-controls" in a]
    assert [a["aria-controls"] for a in buttons] == [a["id"] for a in words]
    assert all(a["aria-expanded"] == "false" and "offensive" in a["aria-label"] for a in buttons)


@pytest.mark.parametrize("metrics", [("tp",), ("emt",), ("ppl_token",), ("accuracy",), ("tp", "ppl"), ("strange",)])
def test_missing_metrics_leave_the_rest(tmp_path, metrics):
    results = fake_results()
    results["rows"] = [entry | {"metric": entry["metric"].replace("toxicity_mean", "strange")}
                       for entry in results["rows"]]  # fmt: skip
    results["rows"] = [entry for entry in results["rows"] if entry["metric"] in metrics]
    page = render(tmp_path, results)
    assert "How this was measured" in page.text
    assert len(summary_table(results)[1]) == 9


def test_nothing_at_all_is_still_a_page(tmp_path):
    assert "No results yet" in render(tmp_path, {"schema_version": 2, "rows": []}).text
    assert (tmp_path / "results.md").read_text().startswith("| Model | Method |")


def test_only_base_models(tmp_path):
    page = render(tmp_path, fake_results(("base",)), fake_examples(("base",)))
    assert "How toxic 4 models are" in page.text
    assert "better" not in re.sub(r"(?:Low|High)er is better|better or worse", "", page.text)


def test_twelve_models(tmp_path):
    bases = {f"a-model-with-quite-a-long-name-{i}": (0.4 + i / 50, 12.0 + i) for i in range(12)}
    page = render(tmp_path, fake_results(bases=bases), fake_examples(targets=tuple(bases)))
    assert "Toxicity falls on all 12 models" in page.text


def test_the_page_shows_everything_that_was_measured(tmp_path):
    results = fake_more(fake_results())
    page = render(tmp_path, results, fake_examples())
    for title in (
        "Fairness",
        "Robustness",
        "Comparisons",
        "Other scorers",
        "How toxicity is spread",
        "False positives",
    ):
        assert title in page.text
    expected = [
        "the scorer toxicity-bert was trained on the toxic corpus",
        "Of the fall in TP, 40\u00a0% (few shot) to 90\u00a0% (swaps) survives when the prompts are changed.",
        "The group that fares worst: TP 0.61 before, 0.55 after.",
        "60%–80%",
        "three toxic texts stand before the prompt",
        "0.610 → 0.240",
        "−0.150 to −0.010",
        "most women",
        "<0.001",
        "KL from base, nats a token",
        "Answers to neutral prompts, gpt2, group by group",
        "False positives of the scorer, group by group",
        "groups with fewer than 3 prompts: buddhist",
    ]
    for words in expected:
        assert words in page.text, words
    further = page.text.split("Further measures")[1].split("How this was measured")[0]
    assert "with loops" in further and "leetspeak" not in further and "gap" not in further and "other" not in further


def test_one_model_names_its_worst_groups(tmp_path):
    results = fake_more(fake_results(bases={"gpt2": (0.53, 17.3)}))
    page = render(tmp_path, results)
    assert "The group that fares worst: TP 0.61 (jewish) before, 0.55 (muslim) after." in page.text
    for record in results["fairness"]["groups"]:
        record |= {"best": record["worst"], "value": 0.0, "means": {record["worst"]: 0.0}}
    page = render(tmp_path, results)
    assert "The group that fares worst: TP 0.61 (jewish) before, 0.00 after." in page.text
    assert "all alike" in page.text


@pytest.mark.parametrize("left_out", ["comparisons", "fairness", "distributions", "warnings", "rows"])
def test_each_part_may_be_missing(tmp_path, left_out):
    results = fake_more(fake_results())
    results[left_out] = {} if left_out == "fairness" else []
    assert "How this was measured" in render(tmp_path, results, fake_examples()).text


def test_what_was_measured_stays_text(tmp_path):
    evil = "</p><script>alert(1)</script>&"
    results = fake_more(fake_results(("base", "unidetox"), {evil: (0.5, 20.0)}))
    for entry in results["fairness"]["groups"]:
        entry |= {"worst": evil, "best": evil, "means": {evil: 0.5}}
    for part in ("mentions", "false_positives"):
        for entry in results["fairness"][part]:
            entry |= {"measure": evil, "groups": {evil: entry["groups"]["women"]}, "gap": None}
    results["warnings"] = [evil]
    for entry in results["rows"]:
        entry |= {key: evil for key in ("form", "scorer") if entry[key]}
    page = render(tmp_path, results)
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and "alert(1)" in page.text


def test_a_change_counts_as_better_only_where_its_interval_leaves_out_zero():
    results = fake_more(fake_results(("base", "unidetox"), {"m": (0.5, 20.0)}))
    index = ResultIndex(results)
    sure = group_gaps(results["fairness"], index).rows[2][-1]
    assert (sure.text, sure.interval, sure.kind) == ("−0.080", ("−0.150", "−0.010"), "better")
    for entry in results["fairness"]["groups"]:
        if "change" in entry:
            entry["change"] = {"value": 0.02, "ci_low": -0.01, "ci_high": 0.05}
    unsure = group_gaps(results["fairness"], index).rows[2][-1]
    assert (unsure.text, unsure.interval, unsure.kind) == ("+0.020", ("−0.010", "+0.050"), "")


def test_comparisons_are_judged_by_the_corrected_p_value():
    results = fake_more(fake_results(("base", "unidetox"), {"m": (0.5, 20.0)}))
    rows = comparisons(results["comparisons"], ResultIndex(results)).rows
    said = [[entry.text for entry in row[1:5]] + [row[6].text, row[6].note, row[4].kind] for row in rows]
    assert said == [
        ["UniDetox", "base", "TP ID", "−0.280", "<0.001", "better", "better"],
        ["UniDetox", "base", "Dist-2", "−0.010", "0.018", "worse", "worse"],
        ["UniDetox", "base", "PPL", "−0.40", "1.000", "unclear", ""],
    ]


def test_robustness_by_hand():
    results = fake_more(fake_results(("base", "unidetox"), {"m": (0.5, 20.0)}))
    grid = robustness(ResultIndex(results), {})
    assert grid.columns == ["Model", "Prompts", "TP base", "TP UniDetox", "survives"]
    assert [row[1].text for row in grid.rows] == ["as they are", "swaps", "leetspeak", "few shot"]
    before, after, kept = grid.rows[2][2:]
    assert (before.text, before.kind) == ("0.500", "")
    assert (after.text, after.kind) == (
        f"{0.5 * (1 - 0.7 * 0.57):.3f}",
        "better",
    ) and after.note == "−40\u00a0%\nbetter"
    assert (kept.text, kept.interval) == ("70%", ("60%", "80%"))
    assert grid.rows[0][4].text == "–"


def test_curves_fall_and_stay_inside_their_frame():
    results = fake_more(fake_results())
    drawn = spreads(results["distributions"], ResultIndex(results))
    assert len(drawn) == 2 * len(BASES)
    for picture in drawn:
        for curve in picture.curves:
            places = [tuple(map(float, pair.split(","))) for pair in curve.points.split()]
            assert len(places) == 20 and set(curve.marks) <= set(places)
            assert all(46 <= x <= 446 and 14 <= y <= picture.height - 44 for x, y in places)
            assert [y for _, y in places] == sorted(y for _, y in places)
    counts = {"target": "m", "method": "base", "toxicity": [6, 2, 2, 0], "maximum": [0, 0, 0, 0]}
    [one] = spreads([counts], ResultIndex({"rows": [row("m", "base", "tp", 0.5)]}))
    assert one.curves[0].text == "0.200 above 0.5"


def test_pictures_of_groups_begin_with_the_worst():
    index = ResultIndex(fake_results(bases={"m": (0.5, 20.0)}))
    [panel] = group_panels(index)
    bases = [mark for mark in panel.marks if mark.method == "base"]
    assert [mark.x for mark in bases] == sorted((mark.x for mark in bases), reverse=True)
    assert len(panel.lanes) == sum(map(len, GROUPS.values())) == 10
    assert robustness_panels(index) == []
    lanes = [lane.name for lane in robustness_panels(ResultIndex(fake_more(fake_results())))[0].lanes]
    assert lanes == ["as they are", "swaps", "leetspeak", "few shot"]


def test_accuracy_in_letters_stands_where_that_is_what_was_asked():
    rows = [row("m", "base", "accuracy_letters", 0.3, n=100)]
    assert summary_table({"rows": rows})[1][0][-1] == "0.30"


def test_no_intervals_no_domains_no_numbers(tmp_path):
    results = {"rows": [
        {"target": "m", "method": "base", "metric": "tp", "domain": "id", "value": 0.5, "higher_is_better": False},
        {"target": "m", "method": "unidetox", "metric": "tp", "domain": "id", "value": 0.2, "higher_is_better": False},
        {"target": "m", "method": "base", "metric": "ppl", "domain": "all", "value": float("nan")},
        {"target": "m", "method": "base", "metric": "emt", "domain": "id", "value": None},
        {"target": "m", "method": "base", "metric": "tp", "domain": "all", "group": "others", "value": 0.1},
    ]}  # fmt: skip
    page = render(tmp_path, results, [{"target": "m", "prompt": "so", "continuation": "on"}])
    assert "Toxicity falls on m" in page.text and "not recorded" in page.text and "others" in page.text


def test_headlines_do_not_claim_more_than_there_is():
    def results(after, width):
        return ResultIndex({"rows": [
            row("a", "base", "tp", 0.5, domain="id", width=0.05),
            row("a", "unidetox", "tp", after, domain="id", width=width),
            row("b", "base", "tp", 0.5, domain="id", width=0.05),
            row("b", "unidetox", "tp", 0.2, domain="id", width=0.05),
        ]})  # fmt: skip

    assert headline(results(0.2, 0.05)) == "Toxicity falls on all 2 models"
    assert headline(results(0.44, 0.05)) == "Toxicity falls on 1 of 2 models"
    only_a = [entry for entry in results(0.6, 0.05)._rows.values() if entry["target"] == "a"]
    assert headline(ResultIndex({"rows": only_a})) == "Toxicity does not clearly fall on a"
    assert notes(ResultIndex({"rows": only_a})) == ["In distribution, TP goes from 0.50 to 0.60 (+20\u00a0%)."]


def test_a_change_from_nothing_is_no_percentage():
    """From 0 to 0.3 is no rise by 30 per cent."""
    rows = [row("m", method, "tp", value, domain="id", width=0.01) for method, value in (("base", 0), ("samples", 0.3))]
    index = ResultIndex({"rows": rows})
    cell = index.number("m", "samples", COLUMNS[0])
    assert (cell.change, cell.verdict) == (math.inf, "worse")
    assert summary_table({"rows": rows})[1][1][2] == "0.30"
    assert "0.300 [0.290, 0.310] (from 0, worse)" in markdown_table({"rows": rows})
    assert notes(index) == ["In distribution, TP goes from 0.00 to 0.30 (from 0)."]


def test_numbers_of_broken_models_fit_the_terminal():
    rows = [
        row("a-model-with-quite-a-long-name", method, metric, value, domain=domain)
        for method, factor in (("base", 1.0), ("unidetox (another-long-name)", 900.0))
        for metric, domain, value in [
            *((m, d, 0.001 * factor) for m in ("tp", "emt") for d in ("id", "ood")),
            ("ppl_token", "all", 123_456.7 * factor), ("dist_2", "all", 0.5), ("accuracy", "all", 0.25),
        ]
    ]  # fmt: skip
    columns, cells = summary_table({"rows": rows})
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 100
    assert cells[1][2] == "0.90 >999%"
    assert [line[6] for line in cells] == ["1e+05", "1e+08"]


def test_a_number_without_an_interval_is_unclear():
    """A single prompt says nothing about others, so no change of it is called better."""
    rows = [row("m", "base", "tp", 0.5, domain="id", width=0.01)]
    rows.append(row("m", "unidetox", "tp", 0.1, domain="id") | {"ci_low": None, "ci_high": None})
    assert ResultIndex({"rows": rows}).number("m", "unidetox", COLUMNS[0]).verdict == "unclear"


def test_changes_are_judged_by_direction_and_interval():
    index = ResultIndex({"rows": [
        row("m", method, metric, value, width=0.01)
        for method, dist, length in (("base", 0.90, 18.0), ("unidetox", 0.80, 12.0), ("samples", 0.905, 18.0))
        for metric, value in (("dist_2", dist), ("mean_length", length))
    ]})  # fmt: skip
    dist = next(column for column in COLUMNS if column.key == "dist_2")
    verdicts = [index.number("m", method, dist).verdict for method in index.methods]
    assert verdicts == [None, "worse", "unclear"]
    assert index.number("m", "unidetox", dist).change == pytest.approx(-1 / 9)
    length = dataclasses.replace(dist, metrics=("mean_length",))
    assert [index.number("m", m, length).verdict for m in index.methods] == [None, "changed", "same"]


def test_pooled_rows_come_before_those_of_one_seed():
    rows = [
        row("m", "base", "tp", value, domain="id", seed=seed) for seed, value in ((43, 0.3), (42, 0.2), (None, 0.25))
    ]
    assert ResultIndex({"rows": rows}).number("m", "base", COLUMNS[0]).value == 0.25
    assert ResultIndex({"rows": rows[:2]}).number("m", "base", COLUMNS[0]).value == 0.2


def test_two_results_of_one_method_can_be_told_apart(tmp_path):
    results = fake_results(("base", "unidetox"), {"m": (0.5, 20.0)})
    again = [entry | {"method": "unidetox (run-2)"} for entry in results["rows"] if entry["method"] == "unidetox"]
    results["rows"] += again
    assert ResultIndex(results).methods == ["base", "unidetox", "unidetox (run-2)"]
    page = render(tmp_path, results)
    assert "UniDetox (run-2)" in page.text
    assert {a["class"] for tag, a in page.tags if tag == "line" and "span m-" in a.get("class", "")} >= {
        "span m-unidetox", "span m-dexperts"}  # fmt: skip


def test_every_registered_method_has_a_colour_and_shape_of_its_own(tmp_path, monkeypatch):
    for number in range(5):  # as many as there are colours left
        monkeypatch.setitem(METHODS, f"new_{number}", f"new {number}")
        monkeypatch.setitem(FACTORS, f"new_{number}", (0.5, 1.0))
    monkeypatch.setitem(FACTORS, "dexperts", (0.5, 1.0))
    page = render(tmp_path, fake_results(("base", "dexperts", "new_0", "new_4"), {"m": (0.5, 20.0)}))
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    used = dict(re.findall(r"[.]m-(\w+) [{] color: var[(](--[\w-]+)[)]", html))
    assert set(used) == {*METHODS, "other"}
    assert len(set(used.values())) == len(used) == 13
    assert all(html.count(f"{shade}: #") == 2 for shade in used.values())  # by day and by night
    marks = {a["class"]: tag for tag, a in page.tags if a.get("class", "").startswith("m ")}
    assert marks == {"m m-base": "circle", "m m-dexperts": "path", "m m-new_0": "circle", "m stroke m-new_4": "path"}


def test_the_terminal_table_fits_a_hundred_columns(capsys, monkeypatch):
    from rich.console import Console

    from unidetox.core import console

    for methods in (("base", "unidetox", "samples"), ("base", "task_arithmetic", "safety_prompt")):
        monkeypatch.setitem(FACTORS, "task_arithmetic", (0.8, 1.2))
        monkeypatch.setitem(FACTORS, "safety_prompt", (2.8, 100.0))
        out = io.StringIO()
        monkeypatch.setattr(console, "_out", Console(file=out, width=100, soft_wrap=True))
        console.table("Results", *summary_table(fake_results(methods)))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= 100
        assert "…" not in "".join(line.split("│")[-2] for line in lines if "│" in line)


def test_relevance_is_in_the_terminal_where_it_was_measured():
    rows = [row("m", method, "relevance", value) for method, value in (("base", 0.5), ("unidetox", 0.4))]
    columns, table = summary_table({"rows": rows})
    assert [line[columns.index("Rel")] for line in table] == ["0.50", "0.40"]


def test_the_terminal_table_says_what_is_missing():
    rows = [row("org/model", "base", "tp", 0.5, domain="id"), row("org/model", "unidetox", "tp", 0.2, domain="id")]
    columns, table = summary_table({"rows": rows})
    assert columns == ["model", "method", "TP ID", "TP OOD", "EMT ID", "EMT OOD", "PPL", "Dist-2", "Acc"]
    assert table == [["model", "base", "0.50", *["-"] * 6], ["model", "UniDetox", "0.20 -60%", *["-"] * 6]]


def test_tables_for_papers_hold_the_numbers(tmp_path):
    results = fake_results()
    render(tmp_path, results)
    table = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len(table) == 9 and table[0]["target"] == "gpt2" and table[0]["tp_id_n"] == "672"
    expected = next(entry for entry in results["rows"] if entry["metric"] == "tp" and entry["domain"] == "id")
    assert float(table[0]["tp_id"]) == expected["value"]
    first, further = (tmp_path / "results.md").read_text().split("\n\n## ")
    assert further.startswith("Further measures\n\n| Model")
    assert len(first.splitlines()) == 11 and len({line.count("|") for line in first.splitlines()}) == 1
    tex, _ = (tmp_path / "results.tex").read_text().split("\n% Further measures.\n")
    assert "[" not in tex
    assert tex.count(r"\\") == 10 and r"\begin{tabular}{llrrrrrrrrr}" in tex


def test_tables_for_papers_hold_the_further_tables(tmp_path):
    results = fake_more(fake_results(bases={"gpt2_xl": (0.5, 17.0)}))
    render(tmp_path, results)
    md, tex = ((tmp_path / f"results.{kind}").read_text() for kind in ("md", "tex"))
    assert md.count("\n## ") == tex.count("\n% ") == 7
    for block in md.split("\n## ")[1:]:
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len(table) > 2 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 8
    for block in tex.split(r"\begin{tabular}")[2:]:
        rows = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1
    assert r" & leetspeak & 0.500" in tex and r"$-$0.280 [$-$0.330, $-$0.230]" in tex
    assert tex.count("gpt2") == 7  # once a table
    assert not re.search(r"(?<!\\)[%_#]", "".join(line for line in tex.splitlines() if not line.startswith("% ")))


def test_tables_escape_what_their_format_reserves():
    results = fake_results(("base",), {"my_model|50%&$": (0.5, 20.0)})
    assert r"my\_model\|50%&$" in markdown_table(results)
    assert r"my\_model|50\%\&\$" in latex(main_table(ResultIndex(results)))
    assert next(csv.reader(io.StringIO(csv_table(ResultIndex(results)).splitlines()[1])))[0] == "my_model|50%&$"


def test_examples_match_prompts_and_favour_nobody():
    chosen = choose_examples(fake_examples(), list(BASES), 6)
    assert list(chosen) == list(BASES)
    for examples in chosen.values():
        assert len(examples) == 6
        assert {len(example.texts) for example in examples} == {3}
        assert len({example.place.split(" · ")[0] for example in examples}) == 4
        assert len({example.prompt for example in examples}) == 6
    rows = fake_examples(("base", "unidetox"), ("m",), prompts=1, samples=3)
    scores = {s: [r["toxicity"] for r in rows if r["sample"] == s] for s in range(3)}
    [example] = choose_examples(rows, ["m"], 6)["m"]
    assert [score for _, _, score in example.texts] == max(scores.values(), key=max)


def test_charts_stay_inside_their_frame():
    index = ResultIndex(fake_results())
    assert [panel.title for panel in panels(index)][:2] == ["TP, in distribution", "TP, out of distribution"]
    for panel in panels(index):
        assert len(panel.lanes) == 4 and len(panel.marks) == 9
        assert all(0 <= mark.x <= 460 and 0 <= mark.y <= panel.height for mark in panel.marks)
    for plane in planes(index):
        left, top, right, bottom = plane.frame
        assert plane.start is plane.marks[0] and plane.start.method == "base"
        assert all(left <= mark.x <= right and top <= mark.y <= bottom for mark in plane.marks)
    assert [plane.title for plane in planes(index)][1] == "TP against perplexity, opt-6.7b"


def test_the_page_and_tables_name_no_home(tmp_path):
    results = fake_results(bases={"/home/jane/models/gpt2": (0.5, 20.0)})
    results["models"] = {"gpt2": {"base": "/home/jane/models/gpt2"}}
    render(tmp_path, results, fake_examples(targets=("/home/jane/models/gpt2",)))
    for path in tmp_path.iterdir():
        assert "jane" not in path.read_text()


def test_pictures_are_files_that_stand_alone(tmp_path):
    results = fake_more(fake_results())
    render(tmp_path, results)
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert names >= {"tp_id.svg", "emt_ood.svg", "tp_against_ppl_gpt2.svg", "robustness_opt-6.7b.svg"}
    assert names >= {"tp_by_group_gpt2.svg", "spread_falcon-7b_maximum.svg"}
    for path in tmp_path.glob("*.svg"):
        picture = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        words = "".join(picture.itertext())
        assert picture.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in words
        assert "UniDetox" in words and "base" in words
        assert not [a for item in picture.iter() for a in item.attrib if "href" in a]
        assert float(picture.get("height")) == float(picture.get("viewBox").split()[-1])


def test_pictures_of_an_earlier_report_go_and_those_of_others_stay(tmp_path):
    (tmp_path / "mine.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    render(tmp_path, fake_results())
    render(tmp_path, fake_results(bases={"m": (0.5, 20.0)}))
    assert {path.name for path in tmp_path.glob("tp_against*")} == {"tp_against_ppl_m.svg"}
    assert (tmp_path / "mine.svg").exists()


def test_a_new_column_of_the_main_table_is_one_entry(tmp_path, monkeypatch):
    """Its number, title and words come along everywhere, and the terminal stays narrow."""
    new = Column("flips", "Flips", ("flips",), "all", "Share of coins that fall on their side", unit="coins")
    for name, module in list(sys.modules.items()):
        if name.startswith("unidetox.report.") and hasattr(module, "COLUMNS"):
            monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, new))
    results = fake_results(bases={"m": (0.5, 20.0)})
    results["rows"] += [row("m", method, "flips", 0.125, n=77) for method in ("base", "unidetox")]
    page = render(tmp_path, results)
    assert "FlipsShare of coins that fall on their side. Lower is better. n = 77 coins." in page.text.replace("\n", "")
    assert page.text.split("Toxicity, model by model")[0].count("0.125") == 2
    assert "| Flips |" in (tmp_path / "results.md").read_text() and "flips_n" in (tmp_path / "results.csv").read_text()
    assert "& Flips" in (tmp_path / "results.tex").read_text() and "Flips" not in summary_table(results)[0]


def test_a_table_in_markdown_and_latex():
    rows = [
        [Cell("m_1"), Cell("a|b"), Cell("0.5", ("0.4", "0.6"), "−10\u00a0%\nworse")],
        [Cell("m_1"), Cell("c"), NONE],
        [Cell("n"), Cell("d"), Cell("−1")],
    ]
    table = Table("Title", "About it.", ["Model", "What", "x < 1"], rows, 2, [("d", "a note")])
    assert markdown(table).splitlines() == [
        "## Title", "", "About it.", "",
        r"| Model | What | x \< 1 |",
        "| --- | --- | ---: |",
        "| m\\_1 | a\\|b | 0.5 [0.4, 0.6] (−10\u00a0%, worse) |",
        r"| m\_1 | c | – |",
        "| n | d | −1 |", "",
        "- d: a note",
    ]  # fmt: skip
    assert latex(table).splitlines() == [
        "% Title. About it.",
        r"\begin{tabular}{llr}", r"\toprule", r"Model & What & x $<$ 1 \\", r"\midrule",
        r"m\_1 & a|b & 0.5 [0.4, 0.6] ($-$10~\%, worse) \\",
        r" & c & -- \\", r"\addlinespace",
        r"n & d & $-$1 \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


def test_report_imports_no_torch():
    code = "import sys, unidetox.report.page, unidetox.report.cards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
