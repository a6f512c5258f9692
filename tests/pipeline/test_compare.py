"""`unidetox compare`: every method for every target in one run that survives kills; finished runs side by side."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from recipes import Inputs, call, redone, snapshot, stages, start

from unidetox.config.settings import Evaluate
from unidetox.evaluation import speed
from unidetox.evaluation.evaluate import load_inputs
from unidetox.models import LoadOptions

LISTED = """
[[target]]
model = "{gpt2}"
[[target]]
model = "{opt}"
[[method]]
name = "base"
[[method]]
name = "unidetox"
[[method]]
name = "samples"
steps = 2
[[method]]
name = "dexperts"
[[method]]
name = "dexperts"
label = "dexperts-anti"
alpha = 1.0
expert = "none"
[[method]]
name = "lm_steer"
steps = 3
batch_size = 4
max_length = 16
[[method]]
name = "task_arithmetic"
[[method]]
name = "safety_prompt"
prompt = "a small town "
"""
METHODS = {
    "base", "unidetox", "samples", "dexperts", "dexperts (anti)", "lm_steer", "task_arithmetic", "safety_prompt",
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)


def write_recipe(inputs: Inputs, path: Path, listed: str | None = None) -> Path:
    settings = inputs.settings()
    for key in ("targets", "methods"):
        del settings["detoxify"][key]
    settings["evaluate"] |= {"seeds": [42], "samples": 2}
    inputs.recipe(path, settings)
    text = LISTED.format(gpt2=inputs.models["gpt2"], opt=inputs.models["opt"]) if listed is None else listed
    path.write_text(path.read_text("utf-8") + text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    call("compare", write_recipe(inputs, folder / "tiny.toml"), "-o", folder / "run", "-q").ok()
    return folder / "run"


def results_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return content


def test_every_method_is_measured_on_every_target_and_shared_work_is_done_once(whole: Path):
    results = results_of(whole)
    assert {(r["target"], r["method"]) for r in results["rows"]} == {(t, m) for t in ("gpt2", "opt") for m in METHODS}
    shared = {name for name in stages(whole) if "/" not in name}
    assert shared == {"toxic_model", "toxic_model-opt", "expert_model", "expert_model-opt", "texts", "texts-samples"}
    for base in ("gpt2", "opt"):
        assert (whole / "targets" / f"{base}-dexperts" / "detox.json").exists()
        assert not list((whole / "targets" / f"{base}-dexperts").glob("*.safetensors"))
        assert (whole / "targets" / f"{base}-lm_steer" / "model.safetensors").exists()
    assert "[method.dexperts-anti]" in (whole / "recipe.toml").read_text("utf-8")


def test_methods_are_tested_against_base_and_unidetox(whole: Path):
    pairs = {(c["first"]["method"], c["second"]["method"]) for c in results_of(whole)["comparisons"]}
    assert pairs >= {(m, "base") for m in METHODS - {"base"}} | {
        (m, "unidetox") for m in METHODS - {"base", "unidetox"}
    }


def test_each_method_has_its_costs(whole: Path):
    records = results_of(whole)["costs"]
    assert {(r["target"], r["method"]) for r in records} == {
        (t, m) for t in ("gpt2", "opt") for m in METHODS - {"base"}
    }
    found = {record["method"]: record for record in records if record["target"] == "opt"}
    assert found["dexperts"]["steps"] == ["toxic_model-opt", "expert_model-opt", "targets/opt-dexperts"]
    assert found["unidetox"]["steps"] == ["toxic_model", "texts", "targets/opt-unidetox"]
    for record in records:
        assert record["seconds"] >= record["seconds_own"] >= 0
        assert record["peak_bytes"] > 2**20
        assert record["slow_down"] > 0
    # Three models take longer than one, by far.
    assert found["dexperts"]["slow_down"] > 1.5


def test_slow_down_is_against_the_base_before_and_after(inputs: Inputs, tmp_path: Path, monkeypatch):
    """With times that are planted, to the digit."""
    settings = Evaluate(prompts=inputs.file("prompts.csv"), max_new_tokens=5)
    read = load_inputs(settings, LoadOptions("cpu", "float32"))
    models = {"dexperts": str(inputs.models["opt"]), "base": str(inputs.models["gpt2"])}
    planted = {models["base"]: [2.0, 4.0], models["dexperts"]: [6.0]}
    asked: list[str] = []
    monkeypatch.setattr(speed, "_time", lambda model, *_: asked.append(model) or planted[model].pop(0))
    speed.measure_speed(models, tmp_path / "speed", read, settings)
    assert asked == [models["base"], models["dexperts"], models["base"]]
    tokens = len(read.prompts.prompts) * speed.SAMPLES * 5
    assert speed.read_speed(tmp_path / "speed") == {
        "base": {"tokens_per_second": tokens / 3, "slow_down": 1.0},
        "dexperts": {"tokens_per_second": tokens / 6, "slow_down": 2.0},
    }


def test_the_page_and_the_tables_show_standings_and_costs(whole: Path):
    page, table = ((whole / "report" / name).read_text("utf-8") for name in ("index.html", "results.md"))
    for text in (page, table):
        assert "Methods side by side" in text
        assert "What each method costs" in text


def test_the_terminal_shows_a_table_of_each_model_within_100_columns(whole: Path, inputs: Inputs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = call("compare", whole.parent / "tiny.toml", "-o", whole).ok()
    assert "gpt2 (* best, + second best)" in said.out
    assert "DExperts (anti)" in said.out
    assert "Costs" in said.out
    assert "…" not in said.out
    assert max(map(len, said.out.splitlines()[:-2])) <= 100


def test_what_is_complete_is_not_done_again(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "run")
    recipe = whole.parent / "tiny.toml"
    before = stages(tmp_path / "run")
    call("compare", recipe, "-o", tmp_path / "run", "-q").ok()
    assert redone(before, stages(tmp_path / "run")) == set()
    call("compare", recipe, "-o", tmp_path / "run", "-q", "--set", "method.task_arithmetic.scale=0.5").ok()
    changed = redone(before, stages(tmp_path / "run"))
    assert changed == {f"{kind}/{m}-task_arithmetic" for kind in ("targets", "evaluation") for m in ("gpt2", "opt")} | {
        "speed/gpt2", "speed/opt",
    }  # fmt: skip


def test_a_killed_comparison_goes_on_and_redoes_nothing_complete(whole: Path, inputs: Inputs, tmp_path: Path):
    few = f"""
[[target]]
model = "{inputs.models["opt"]}"
[[method]]
name = "dexperts"
[[method]]
name = "task_arithmetic"
"""
    recipe = write_recipe(inputs, tmp_path / "tiny.toml", few)
    process = start("compare", recipe, "-o", tmp_path / "run", "-q")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and len(stages(tmp_path / "run")) < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = stages(tmp_path / "run")
    assert len(before) >= 4
    assert not (tmp_path / "run" / "results.json").exists()
    call("compare", recipe, "-o", tmp_path / "run", "-q").ok()
    after = stages(tmp_path / "run")
    assert redone(before, after) == set(after) - set(before)
    # The same numbers as in the comparison of everything, which was never killed.
    theirs = [r for r in results_of(whole)["rows"] if r["target"] == "opt"]
    ours = results_of(tmp_path / "run")["rows"]
    assert ours == [r for r in theirs if r["method"] in ("base", "dexperts", "task_arithmetic")]


def test_dry_run_lists_every_stage_and_does_nothing(inputs: Inputs, tmp_path: Path):
    recipe = write_recipe(inputs, tmp_path / "tiny.toml")
    said = call("compare", recipe, "-o", tmp_path / "run", "--dry-run").ok()
    for name in (
        "toxic_model-opt",
        "expert_model",
        "targets/opt-dexperts-anti",
        "evaluation/gpt2-lm_steer",
        "speed/opt",
    ):
        assert name in said.out
    assert not (tmp_path / "run").exists()


def test_a_label_that_ends_like_the_base_model_is_a_label(inputs: Inputs, tmp_path: Path):
    """What is measured of it waits for it, as for any other."""
    listed = f'[[target]]\nmodel = "{inputs.models["gpt2"]}"\n[[method]]\nname = "dexperts"\nlabel = "of-base"\n'
    recipe = write_recipe(inputs, tmp_path / "tiny.toml", listed)
    plan = call("compare", recipe, "-o", tmp_path / "run", "--dry-run", "--json").ok().json
    assert "targets/gpt2-of-base is not fresh" in plan["evaluation/gpt2-of-base"]["reasons"]
    assert plan["evaluation/gpt2-base"]["reasons"] == []


# ---- finished runs


@pytest.mark.slow
def test_finished_runs_are_compared_and_what_they_share_counts_once(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "second")
    recipe = whole.parent / "tiny.toml"
    call("compare", recipe, "-o", tmp_path / "second", "-q", "--set", "method.task_arithmetic.scale=0.5").ok()
    call("compare", whole, tmp_path / "second", "-o", tmp_path / "both", "-q").ok()
    results = results_of(tmp_path / "both")
    assert {r["method"] for r in results["rows"]} == METHODS | {"task_arithmetic (second)"}
    first, second = (
        {c["method"]: c["seconds"] for c in results_of(folder)["costs"] if c["target"] == "gpt2"}
        for folder in (whole, tmp_path / "second")
    )
    found = {c["method"]: c["seconds"] for c in results["costs"] if c["target"] == "gpt2"}
    assert found["task_arithmetic (second)"] == second["task_arithmetic"]
    assert found["task_arithmetic"] == first["task_arithmetic"]
    assert (tmp_path / "both" / "report" / "index.html").exists()


def test_a_rule_is_measured_as_a_model_is(whole: Path, inputs: Inputs, tmp_path: Path):
    settings = ["--prompts", inputs.file("prompts.csv"), "--scorer", inputs.scorer, "--samples", 2, "--device", "cpu",
                "--max-new-tokens", 6, "--ppl-model", inputs.models["llama"], "--mmlu", inputs.file("mmlu"),
                "--dtype", "float32"]  # fmt: skip
    names = [whole / "targets" / f"gpt2-{key}" for key in ("dexperts", "safety_prompt")]
    call("evaluate", *names, "-o", tmp_path / "out", "-q", *settings).ok()
    ours = [r for r in results_of(tmp_path / "out")["rows"] if r["metric"] in ("tp", "emt", "ppl", "accuracy")]
    theirs = results_of(whole)["rows"]
    assert {row["method"] for row in ours} == {"dexperts", "safety_prompt"}
    assert all(row in theirs for row in ours)
    call("compare", whole, tmp_path / "out", "-o", tmp_path / "both", "-q").ok()
    assert {r["method"] for r in results_of(tmp_path / "both")["rows"]} == METHODS


def test_what_cannot_be_compared_is_said(whole: Path, inputs: Inputs, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    said = call("compare", whole, tmp_path / "empty", "-o", tmp_path / "out")
    assert (said.code, "holds no results" in said.err) == (3, True)
    said = call("compare", whole.parent / "tiny.toml", whole, "-o", tmp_path / "out")
    assert (said.code, "one of several" in said.err) == (2, True)
    said = call("compare", whole, "-o", tmp_path / "out", "--limit", 3)
    assert (said.code, "as they are" in said.err) == (2, True)
    before = snapshot(whole)
    said = call("compare", whole, "-o", whole)
    assert (said.code, "measurements of its own" in said.err) == (2, True)
    assert snapshot(whole) == before
    settings = inputs.small()
    call("run", inputs.recipe(tmp_path / "other.toml", settings), "-o", tmp_path / "other", "-q").ok()
    said = call("compare", whole, tmp_path / "other", "-o", tmp_path / "out")
    assert (said.code, "was not measured like" in said.err) == (2, True)
    assert not (tmp_path / "out").exists()
