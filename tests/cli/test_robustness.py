"""A detoxified model of the sandbox under perturbed prompts, group by group, and on polite mentions of groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tools.sandbox.words import DOMAINS, LEXICON
from tools.sandbox.world import Writer

from unidetox import api
from unidetox.config import recipe
from unidetox.core.resolve import sandbox_asset as asset
from unidetox.evaluation.evaluate import evaluate
from unidetox.evaluation.metrics.perturbations import NAMES

SCORING = {"scorer": "sandbox:scorer", "scorer_label": "toxic", "ppl_model": "sandbox:judge"}
PERTURBED = {"few_shot": "sandbox:toxic_corpus.csv", "neutral": "sandbox:prompts_neutral.csv"}
PRESET = Path(recipe.__file__).parent / "presets" / "sandbox.toml"
GROUPS = {group for domain in DOMAINS for group in LEXICON.groups[domain]}


def measure(detoxified: Path, output: Path, **options: Any) -> dict[str, Any]:
    models = [str(asset("gpt2")), detoxified]
    chosen = {"prompts": "sandbox:prompts_test.csv", **SCORING, **PERTURBED, **options}
    return evaluate(models, output=output, device="cpu", dtype="float32", **chosen)


class Numbers:
    """The rows of some results, over all prompts and seeds."""

    def __init__(self, results: dict[str, Any]) -> None:
        rows = [r for r in results["rows"] if (r["domain"], r["group"], r["seed"]) == ("all", None, None)]
        self.rows = {(row["method"], row["metric"], row["form"]): row for row in rows}

    def __call__(self, method: str, metric: str, form: str | None = None) -> float:
        return float(self.rows[method, metric, form]["value"])


def check_robustness(results: dict[str, Any], names: tuple[str, ...]) -> None:
    """The detoxified model is better under every perturbation, and the results say how much of that survives."""
    number = Numbers(results)
    for name in names:
        for metric in ("tp", "emt", "toxicity_mean", "toxic_fraction"):
            assert number("unidetox", metric, name) < number("base", metric, name), (metric, name)
        row = number.rows["unidetox", "survival", name]
        fell = [number("base", "tp", form) - number("unidetox", "tp", form) for form in (name, None)]
        assert row["value"] == pytest.approx(fell[0] / fell[1]) and row["ci_low"] < row["value"] < row["ci_high"]
        assert row["value"] > 0.2 and row["n"] == results["settings"]["prompts_used"]
        assert ("base", "survival", name) not in number.rows
    plain = {row["metric"] for row in results["rows"] if row["form"] is None}
    assert {"tp", "loop_rate", "empty_rate", "eos_rate", "mean_length", "tp_gap", "emt_gap", "kl_base"} <= plain


def check_fairness(results: dict[str, Any]) -> None:
    """The worst group is named before and after, and so is how polite mentions of all groups are answered."""
    number, fairness = Numbers(results), results["fairness"]
    before, after = (
        next(r for r in fairness["groups"] if (r["method"], r["metric"]) == (method, "tp"))
        for method in ("base", "unidetox")
    )
    by_group = {
        (row["method"], row["group"]): row["value"]
        for row in results["rows"]
        if row["metric"] == "tp" and row["group"] and row["seed"] is None and row["form"] is None
    }
    assert before["worst"] in GROUPS and before["worst"] == after["base"]["worst"]
    assert after["base"]["mean"] == pytest.approx(by_group["base", before["worst"]]) == max(before["means"].values())
    assert after["base"]["mean_after"] == pytest.approx(by_group["unidetox", before["worst"]])
    assert after["base"]["mean_after"] < after["base"]["mean"]
    assert after["means"][after["worst"]] == pytest.approx(max(after["means"].values()))
    assert number("base", "tp_gap") == pytest.approx(before["value"])
    for method in ("base", "unidetox"):
        mine = {r["measure"]: r for r in fairness["mentions"] if r["method"] == method}
        assert set(mine) == {"mean_length", "empty_rate", "refusal_rate", "toxicity_mean", "ppl_token"}
        assert set(mine["mean_length"]["groups"]) == GROUPS
        # In the sandbox nobody insults who was spoken of politely, and all groups are answered at the same length.
        assert all(cell["value"] < 0.2 for cell in mine["toxicity_mean"]["groups"].values())
        assert mine["mean_length"]["gap"]["p"] > 0.001
    alarms = {r["measure"]: r for r in fairness["false_positives"]}
    assert set(alarms) == {"false_positive_rate", "score_mean"} and alarms["score_mean"]["scorer"] == "scorer"
    assert all(cell["value"] == 0.0 for cell in alarms["false_positive_rate"]["groups"].values())
    assert 0 < number("unidetox", "kl_base") < 1.0


@pytest.fixture(scope="module")
def non_toxic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GPT-2 of the sandbox after a few steps on non-toxic texts: no distillation, but quick."""
    folder = tmp_path_factory.mktemp("non_toxic")
    texts = folder / "texts.jsonl"
    lines = (json.dumps({"text": text}) for text in Writer("robustness").non_toxic_documents(240, DOMAINS))
    texts.write_text("\n".join(lines), encoding="utf-8")
    told = {"steps": 30, "lr": 3e-4, "batch_size": 8, "max_length": 96, "device": "cpu", "dtype": "float32"}
    return api.detoxify(asset("gpt2"), output=folder / "model", texts=texts, preset="sandbox", **told)


def test_robustness_and_fairness_of_a_model_made_non_toxic(non_toxic: Path, tmp_path: Path):
    names = ("leetspeak", "spacing")
    results = measure(non_toxic, tmp_path / "out", samples=4, perturbations=list(names))
    check_robustness(results, names)
    check_fairness(results)
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    for title in ("Robustness", "Fairness", "Comparisons", "How toxicity is spread"):
        assert f">{title}</h2>" in page
    tables = (tmp_path / "out" / "report" / "results.md").read_text(encoding="utf-8")
    assert "| leetspeak |" in tables and "## Answers to neutral prompts" in tables


@pytest.mark.slow
def test_the_method_survives_every_perturbation(tmp_path: Path):
    """Texts distilled from the GPT-2 of the sandbox, as in the demo; some three minutes on one core."""
    overrides = ('detoxify.targets=["sandbox:gpt2"]', 'detoxify.methods=["unidetox"]', "evaluate.samples=1")
    api.run(PRESET, output=tmp_path / "run", overrides=overrides)
    results = measure(tmp_path / "run" / "targets" / "gpt2-unidetox", tmp_path / "out", perturbations=["all"])
    check_robustness(results, NAMES)
    check_fairness(results)
    for name in NAMES:
        rows = Numbers(results).rows
        assert rows["unidetox", "tp", name]["ci_high"] < rows["base", "tp", name]["ci_low"], name
