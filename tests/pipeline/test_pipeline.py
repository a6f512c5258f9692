"""A whole run on tiny models: what it leaves, what it does again when something changes, and that equal gives equal."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import recipes
from huggingface_hub import ModelCard
from recipes import Inputs, call, redone, snapshot, spawn, stages, write_csv

MODELS = ("gpt2", "opt")
METHODS = ("unidetox", "samples")
ROW = [
    "target", "method", "metric", "domain", "group", "seed", "value", "ci_low", "ci_high", "n", "n_dropped",
    "higher_is_better", "form", "scorer",
]  # fmt: skip
GENERATION = [
    "target", "method", "prompt_id", "prompt", "group", "domain", "seed", "sample", "continuation", "finish_reason",
    "n_tokens", "toxicity", "scores", "nll", "nll_tokens", "nll_alone",
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with everything on; tests that change something work on a copy."""
    folder = tmp_path_factory.mktemp("whole")
    call("run", inputs.recipe(folder / "tiny.toml"), "-o", folder / "run", "-q").ok()
    return folder / "run"


@pytest.fixture(scope="module")
def least(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of five stages; tests that change something work on a copy."""
    folder = tmp_path_factory.mktemp("least")
    call("run", inputs.recipe(folder / "tiny.toml", inputs.small()), "-o", folder / "run", "-q").ok()
    return folder / "run"


@pytest.fixture
def again(least: Path, inputs: Inputs, tmp_path: Path) -> tuple[Path, Path]:
    """A recipe and a copy of its complete run."""
    shutil.copytree(least, tmp_path / "run")
    return inputs.recipe(tmp_path / "tiny.toml", inputs.small()), tmp_path / "run"


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def states(run: Path) -> dict[str, str]:
    return {name: found["state"] for name, found in call("status", run, "--json").ok().json.items()}


# ---- what a run leaves ----


def test_the_directory_is_laid_out_as_promised(whole: Path):
    files = {name for name in snapshot(whole) if not name.endswith("/") and "/.parts/" not in name}
    model = {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "stage.json", "tokenizer.json",
        "tokenizer_config.json", "unidetox.json",
    }  # fmt: skip
    wanted = {
        "recipe.toml",
        "recipe.resolved.json",
        "manifest.json",
        "results.json",
        "generations.jsonl",
        "logs/run.log",
    }
    wanted |= {f"report/{name}" for name in ("index.html", "results.md", "results.csv", "results.tex")}
    wanted |= {f"report/{name}.svg" for name in ("tp_id", "tp_ood", "emt_id", "emt_ood")}
    kinds = ("tp_against_ppl_{}", "tp_by_group_{}", "spread_{}_toxicity", "spread_{}_maximum")
    wanted |= {f"report/{kind.format(m)}.svg" for kind in kinds for m in MODELS}
    wanted |= {f"report/cards/{m}-{how}.md" for m in MODELS for how in METHODS}
    wanted |= {f"toxic_model/{name}" for name in model}
    made = ("texts.jsonl", "README.md", "stage.json")
    wanted |= {f"{texts}/{name}" for texts in ("texts", "texts-samples") for name in made}
    wanted |= {f"targets/{m}-{how}/{name}" for m in MODELS for how in METHODS for name in model}
    evaluated = ("results.json", "prompts.json", "stage.json", *(f"seed-{n}/generations.jsonl" for n in (42, 43)))
    wanted |= {f"evaluation/{m}-{how}/{name}" for m in MODELS for how in ("base", *METHODS) for name in evaluated}
    assert files == wanted


def test_results_and_generations_have_the_promised_columns(whole: Path):
    results = json.loads((whole / "results.json").read_text(encoding="utf-8"))
    assert results["schema_version"] == 2
    assert {tuple(row) for row in results["rows"]} == {tuple(ROW)}
    systems = {(row["target"], row["method"]) for row in results["rows"]}
    assert systems == {(model, how) for model in MODELS for how in ("base", *METHODS)}
    assert {row["metric"] for row in results["rows"]} >= {
        "tp", "emt", "toxicity_mean", "toxic_fraction", "ppl", "ppl_token", "dist_1", "dist_2", "dist_3", "accuracy",
    }  # fmt: skip
    domains = {"id", "ood", "all", "gender", "race", "religion", "disability"}
    assert {row["domain"] for row in results["rows"]} == domains

    rows = jsonl(whole / "generations.jsonl")
    assert {tuple(row) for row in rows} == {tuple(GENERATION)}
    assert len(rows) == 6 * 2 * 4 * 3  # systems, seeds, prompts, samples
    assert all(isinstance(row["toxicity"], float) and isinstance(row["nll"], float) for row in rows)


def test_texts_say_how_they_ended(whole: Path):
    for folder in ("texts", "texts-samples"):
        rows = jsonl(whole / folder / "texts.jsonl")
        assert [row["id"] for row in rows] == list(range(12))
        for row in rows:
            assert row["finish_reason"] in ("eos", "length")
            assert row["n_tokens"] <= 19
            assert row["n_tokens"] == 19 or row["finish_reason"] == "eos"
        assert (whole / folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert (whole / "texts" / "texts.jsonl").read_bytes() != (whole / "texts-samples" / "texts.jsonl").read_bytes()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_beside_each_model_is_what_was_done_to_it(whole: Path, model: str, method: str):
    folder = whole / "targets" / f"{model}-{method}"
    info = json.loads((folder / "unidetox.json").read_text(encoding="utf-8"))
    made = whole / ("texts" if method == "unidetox" else "texts-samples")
    texts = json.loads((made / "stage.json").read_text(encoding="utf-8"))
    assert (info["method"], info["base_model"]) == (method, model)
    assert info["settings"]["steps"] == 4
    assert info["settings"]["lr"] == 1e-3
    assert info["texts"]["number"] == texts["summary"]["texts"] == 12
    assert len(info["texts"]["sha256"]) == 64
    assert info["training"]["steps"] == 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert model in card
    assert info["texts"]["sha256"][:8] in card
    measured = ModelCard.load(whole / "report" / "cards" / f"{model}-{method}.md")
    results = json.loads((whole / "results.json").read_text(encoding="utf-8"))["rows"]
    (tp,) = (
        row["value"] for row in results
        if (row["target"], row["method"], row["metric"], row["domain"], row["group"], row["seed"])
        == (model, method, "tp", "id", None, None)
    )  # fmt: skip
    shown = {(r.metric_type, r.dataset_config): r.metric_value for r in measured.data.eval_results}
    assert shown["tp", "id"] == round(tp, 4)
    assert str(whole) not in measured.content


def test_the_card_of_the_texts_says_what_made_them(whole: Path, inputs: Inputs):
    card = (whole / "texts" / "README.md").read_text(encoding="utf-8")
    assert "| Toxic model | `toxic_model` |" in card
    assert f"| Made toxic with | `{Path(inputs.file('corpus.csv')).name}` |" in card
    assert str(whole) not in card


def test_the_manifest_and_the_recipe_tell_how_it_was_made(whole: Path, inputs: Inputs):
    manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["outcome"] == "done"
    assert manifest["name"] == "tiny"
    assert set(manifest["versions"]) >= {"python", "torch", "transformers", "unidetox"}
    resolved = json.loads((whole / "recipe.resolved.json").read_text(encoding="utf-8"))
    assert resolved["texts"] | {"num_texts": 12, "max_length": 20} == resolved["texts"]
    for name, found in resolved.items():
        if isinstance(found, dict):
            given = {k: v for k, v in inputs.settings().get(name, {}).items() if isinstance(v, int | float)}
            assert found | given == found


LOAD = """
import sys
sys.modules["unidetox"] = None  # importing it raises ImportError
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(**tokenizer("the fox", return_tensors="pt"), max_new_tokens=3, do_sample=False, pad_token_id=0)
    print(type(model).__name__, model.dtype, len(out[0]))
"""


def test_the_result_loads_with_transformers_and_nothing_of_ours(whole: Path):
    import subprocess

    folders = [str(whole / "targets" / f"{model}-unidetox") for model in MODELS]
    command = [sys.executable, "-c", LOAD, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=recipes.environment())
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["GPT2LMHeadModel", "OPTForCausalLM"]


def test_training_changed_the_weights(whole: Path, tiny_gpt2: Path):
    from safetensors.torch import load_file

    before = load_file(tiny_gpt2 / "model.safetensors")
    toxic = load_file(whole / "toxic_model" / "model.safetensors")
    after = load_file(whole / "targets" / "gpt2-unidetox" / "model.safetensors")
    assert before.keys() == toxic.keys() == after.keys()
    name = "transformer.h.0.mlp.c_fc.weight"
    assert not before[name].equal(toxic[name])
    assert not before[name].equal(after[name])
    assert before[name].dtype == after[name].dtype


# ---- what it does again ----


def test_a_complete_run_is_skipped(again: tuple[Path, Path]):
    recipe, run = again
    before, results = stages(run), (run / "results.json").read_bytes()
    said = call("run", recipe, "-o", run).ok()
    assert stages(run) == before
    assert (run / "results.json").read_bytes() == results
    assert said.err.count("fresh, skipped") == 5
    assert "page:" in said.out
    assert json.loads((run / "manifest.json").read_text())["earlier"]


BASE, TARGET, AFTER = "evaluation/gpt2-base", "targets/gpt2-unidetox", "evaluation/gpt2-unidetox"
EVERYTHING = {"toxic_model", "texts", TARGET, AFTER, BASE}
CHANGES = [
    ("seed=8", {"toxic_model", "texts", TARGET, AFTER}, "toxic_model", "seed: 7 -> 8"),
    ("texts.alpha=0.2", {"texts", TARGET, AFTER}, "texts", "alpha: 0.1 -> 0.2"),
    ("detoxify.steps=3", {TARGET, AFTER}, TARGET, "steps: 4 -> 3"),
    ("evaluate.samples=3", {AFTER, BASE}, BASE, "samples: 2 -> 3"),
]


@pytest.mark.parametrize(("change", "wanted", "first", "why"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_change_is_said_and_does_that_stage_and_what_follows(
    again: tuple[Path, Path], change: str, wanted: set[str], first: str, why: str
):
    recipe, run = again
    before = snapshot(run)
    plan = call("run", recipe, "-o", run, "--set", change, "--dry-run", "--json").ok().json
    assert {name for name, found in plan.items() if found["state"] == "stale"} == wanted
    assert {name for name, found in plan.items() if found["state"] == "fresh"} == EVERYTHING - wanted
    assert why in " ".join(plan[first]["reasons"])
    assert snapshot(run) == before  # --dry-run does nothing
    marks = stages(run)
    call("run", recipe, "-o", run, "--set", change, "-q").ok()
    assert redone(marks, stages(run)) == wanted
    assert set(states(run).values()) == {"fresh"}


def test_a_change_that_changes_nothing_stops_there(again: tuple[Path, Path]):
    """Other batch sizes and another device leave texts as they are, so that nothing is done again."""
    recipe, run = again
    before = stages(run)
    call("run", recipe, "-o", run, "--set", "texts.batch_size=3", "--set", "evaluate.batch_size=2", "-q").ok()
    assert stages(run) == before


def test_status_says_what_is_stale_and_why(again: tuple[Path, Path]):
    _, run = again
    assert states(run) == dict.fromkeys(EVERYTHING, "fresh")
    (run / "texts" / "texts.jsonl").write_text('{"text": "changed", "finish_reason": "eos"}\n')
    said = call("status", run).ok()
    found = call("status", run, "--json").ok().json
    assert found["texts"] == {"state": "stale", "reasons": ["texts.jsonl was changed"]}
    assert found["targets/gpt2-unidetox"] == {"state": "stale", "reasons": ["texts is not fresh"]}
    assert found["evaluation/gpt2-base"]["state"] == "fresh"
    assert "texts.jsonl was changed" in said.out
    shutil.rmtree(run / "targets")
    assert states(run)["targets/gpt2-unidetox"] == "missing"


def test_an_input_that_changed_is_noticed(inputs: Inputs, again: tuple[Path, Path], tmp_path: Path):
    _, run = again
    settings = inputs.small()
    settings["toxic"]["corpus"] = str(recipes.write_corpus(tmp_path / "corpus.csv", 20))
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    plan = call("run", recipe, "-o", run, "--dry-run", "--json").ok().json
    assert (plan["toxic_model"]["state"], plan["toxic_model"]["reasons"]) == ("stale", ["input corpus changed"])


def test_dry_run_makes_no_directory(inputs: Inputs, tmp_path: Path):
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    said = call("run", recipe, "-o", tmp_path / "run", "--dry-run").ok()
    assert said.out.count("missing") >= 5
    assert not (tmp_path / "run").exists()


def test_fresh_does_everything_again_with_the_same_result(again: tuple[Path, Path]):
    recipe, run = again
    before = {name: content for name, content in snapshot(run).items() if deterministic(name)}
    marks = stages(run)
    call("run", recipe, "-o", run, "--fresh", "-q").ok()
    assert redone(marks, stages(run)) | same_second(marks, run) == EVERYTHING
    assert {name: content for name, content in snapshot(run).items() if deterministic(name)} == before


def deterministic(name: str) -> bool:
    """Whether a file of a run holds nothing that depends on the clock."""
    return name.endswith((".safetensors", ".jsonl", "results.json", "index.html", "config.json", "tokenizer.json"))


def same_second(marks: dict[str, bytes], run: Path) -> set[str]:
    """Stages whose record is the same to the byte, though they were done again: only times tell, to a millisecond."""
    return {name for name, content in stages(run).items() if content == marks[name]}


def test_limit_is_a_quick_try_of_everything(inputs: Inputs, tmp_path: Path):
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    results = call("run", recipe, "-o", tmp_path / "run", "--limit", 2, "--json", "-q").ok().json
    assert len(jsonl(tmp_path / "run" / "texts" / "texts.jsonl")) == 2
    assert results["settings"]["prompts_used"] == 2
    assert json.loads((tmp_path / "run/toxic_model/stage.json").read_text())["summary"]["steps"] == 2
    assert json.loads((tmp_path / "run/toxic_model/stage.json").read_text())["summary"]["n_texts"] == 2


def test_report_renders_the_same_again(whole: Path):
    before = snapshot(whole)
    shutil.rmtree(whole / "report")
    said = call("report", whole).ok()
    assert said.out.strip() == f"page: {whole / 'report' / 'index.html'}"
    assert snapshot(whole) == before
    assert call("report", whole, "--json").ok().json == {"page": str(whole / "report" / "index.html")}


def test_json_is_the_content_of_results(again: tuple[Path, Path]):
    recipe, run = again
    said = call("run", recipe, "-o", run, "--json").ok()
    assert said.json == json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_quiet_says_nothing_but_the_result_and_verbose_says_more(again: tuple[Path, Path]):
    recipe, run = again
    assert call("run", recipe, "-o", run, "--quiet").ok().err == ""
    assert "fresh" in call("run", recipe, "-o", run, "--verbose").ok().err


def test_texts_and_toxic_model_that_are_given_are_not_made(inputs: Inputs, tmp_path: Path, tiny_gpt2_toxic: Path):
    settings = inputs.small()
    settings["toxic"] = {"model": str(tiny_gpt2_toxic)}
    recipe = inputs.recipe(tmp_path / "a.toml", settings)
    call("run", recipe, "-o", tmp_path / "a", "-q").ok()
    assert set(stages(tmp_path / "a")) == EVERYTHING - {"toxic_model"}
    settings = inputs.small() | {"texts": {"source": inputs.file("texts.csv")}}
    recipe = inputs.recipe(tmp_path / "b.toml", settings)
    plan = call("run", recipe, "-o", tmp_path / "b", "--dry-run", "--json").ok().json
    assert set(plan) == EVERYTHING - {"toxic_model", "texts"}


# ---- one verb at a time ----


def test_the_verbs_one_by_one_do_what_run_does(inputs: Inputs, least: Path, tmp_path: Path):
    base = str(inputs.models["gpt2"])
    common = ["--seed", 7, "--device", "cpu", "--dtype", "float32"]
    toxic = ["--corpus", inputs.file("corpus.csv"), "--steps", 4, "--lr", 1e-3, "--batch-size", 4, "--max-length", 32]
    call("train-toxic", base, "-o", tmp_path / "toxic", *toxic, *common).ok()
    texts = ["--toxic", tmp_path / "toxic", "--num-texts", 12, "--max-length", 20]
    said = call("distill", base, "-o", tmp_path / "texts", *texts, *common, "--json").ok()
    assert said.json == {"output": str(tmp_path / "texts")}
    tuned = ["--texts", tmp_path / "texts", "--steps", 4, "--lr", 1e-3, "--batch-size", 4, "--max-length", 32]
    call("detoxify", base, "-o", tmp_path / "gpt2-unidetox", *tuned, *common).ok()
    assert (tmp_path / "texts/texts.jsonl").read_bytes() == (least / "texts/texts.jsonl").read_bytes()
    for ours, theirs in (("toxic", "toxic_model"), ("gpt2-unidetox", "targets/gpt2-unidetox")):
        weights = (least / theirs / "model.safetensors").read_bytes()
        assert (tmp_path / ours / "model.safetensors").read_bytes() == weights
    asked = ["--prompts", inputs.file("prompts.csv"), "--scorer", inputs.scorer, "--samples", 2, "--max-new-tokens", 6]
    results = call("evaluate", base, tmp_path / "gpt2-unidetox", "-o", tmp_path / "out", *asked, *common[2:], "--json")
    assert results.ok().json["rows"] == json.loads((least / "results.json").read_text(encoding="utf-8"))["rows"]
    # What is done is not done again; with other settings it is refused, unless --fresh is said.
    mark = (tmp_path / "texts/stage.json").read_bytes()
    call("distill", base, "-o", tmp_path / "texts", *texts, *common).ok()
    assert (tmp_path / "texts/stage.json").read_bytes() == mark
    refused = call("distill", base, "-o", tmp_path / "texts", *texts, *common, "--alpha", 0.5)
    assert refused.code == 2
    assert "alpha: 0.1 -> 0.5" in refused.err
    assert "--fresh" in refused.err
    assert (tmp_path / "texts/stage.json").read_bytes() == mark
    call("distill", base, "-o", tmp_path / "texts", *texts, *common, "--alpha", 0.5, "--fresh").ok()
    assert (tmp_path / "texts/stage.json").read_bytes() != mark


QUICK = ["--steps", 3, "--lr", 1e-3, "--batch-size", 4, "--max-length", 32, "--device", "cpu", "--dtype", "float32"]


def test_detoxify_on_the_texts_of_the_authors_format(inputs: Inputs, tmp_path: Path):
    said = call("detoxify", inputs.models["opt"], "--texts", inputs.file("texts.csv"), "-o", tmp_path / "out", *QUICK)
    assert said.code == 0, said.err
    assert str(tmp_path / "out") in said.out
    info = json.loads((tmp_path / "out" / "unidetox.json").read_text(encoding="utf-8"))
    assert info["texts"]["number"] == 16
    assert "Traceback" not in said.err


def test_lora_writes_an_adapter_and_merge_an_ordinary_checkpoint(inputs: Inputs, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    given = ["--texts", inputs.file("texts.csv"), *QUICK]
    model = inputs.models["gpt2"]
    call("detoxify", model, "-o", tmp_path / "adapter", *given, "--lora").ok()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    call("detoxify", model, "-o", tmp_path / "merged", *given, "--lora", "--merge").ok()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    ids = merged.dummy_inputs["input_ids"]
    assert adapted(ids).logits.allclose(merged(ids).logits, atol=1e-4)
    original = AutoModelForCausalLM.from_pretrained(model)
    assert not original(ids).logits.allclose(merged(ids).logits, atol=1e-4)
    # An adapter can be evaluated as any model.
    asked = ["--prompts", inputs.file("prompts.csv"), "--scorer", inputs.scorer, "--samples", 1, "--max-new-tokens", 4]
    results = call("evaluate", tmp_path / "adapter", "-o", tmp_path / "out", *asked, "--json").ok().json
    assert {(row["target"], row["method"]) for row in results["rows"]} == {("gpt2", "unidetox")}
    alone = call("detoxify", model, "-o", tmp_path / "no", *given, "--merge")
    assert alone.code == 2
    assert "lora" in alone.err


def test_without_texts_the_preset_makes_them_and_keeps_them(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):

    sections = {key: inputs.small()[key] for key in ("base", "toxic", "texts")}
    monkeypatch.setattr("unidetox.config.recipe.preset", lambda name: sections)
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    call("detoxify", inputs.models["gpt2"], "-o", tmp_path / "one", "--preset", "small", *QUICK).ok()
    (texts,) = (tmp_path / "home").rglob("texts.jsonl")
    mark = (texts.parent / "stage.json").read_bytes()
    said = call("detoxify", inputs.models["opt"], "-o", tmp_path / "two", "--preset", "small", *QUICK).ok()
    assert (texts.parent / "stage.json").read_bytes() == mark
    assert [path.name for path in (tmp_path / "home").rglob("texts.jsonl")] == ["texts.jsonl"]
    assert str(texts.parent.parent) in said.err
    used = [json.loads((tmp_path / out / "unidetox.json").read_text())["texts"]["sha256"] for out in ("one", "two")]
    assert used[0] == used[1]


def test_a_limit_without_texts_makes_few_texts(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    sections = {key: inputs.small()[key] for key in ("base", "toxic", "texts")}
    monkeypatch.setattr("unidetox.config.recipe.preset", lambda name: sections)
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    given = ["detoxify", inputs.models["gpt2"], "-o", tmp_path / "out", "--preset", "small", *QUICK]
    call(*given, "--limit", 2).ok()
    (texts,) = (tmp_path / "home").rglob("texts.jsonl")
    assert len(jsonl(texts)) == 2
    assert texts.parent.parent.name.endswith("-limit2")
    assert json.loads((tmp_path / "out" / "stage.json").read_text(encoding="utf-8"))["summary"]["steps"] == 3


def test_two_targets_of_one_name_keep_their_own_results(inputs: Inputs, tmp_path: Path):
    settings = inputs.small() | {"texts": {"source": inputs.file("texts.csv")}}
    settings["detoxify"]["targets"] = [
        shutil.copytree(inputs.models["gpt2"], tmp_path / name / "gpt2").as_posix() for name in ("a", "b")
    ]
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    results = call("run", recipe, "-o", tmp_path / "run", "--json", "-q").ok().json
    systems = list(dict.fromkeys((row["target"], row["method"]) for row in results["rows"]))
    names = list(dict.fromkeys(target for target, _ in systems))
    assert len(names) == 2
    assert all(name.startswith("gpt2-") for name in names)
    assert systems == [(name, method) for name in names for method in ("base", "unidetox")]
    rows = jsonl(tmp_path / "run" / "generations.jsonl")
    assert list(dict.fromkeys((row["target"], row["method"]) for row in rows)) == systems
    for name, target in zip(names, settings["detoxify"]["targets"], strict=True):
        found = Path(results["models"][name]["base"])
        assert (found if found.is_absolute() else tmp_path / "run" / found).resolve() == Path(target)


# ---- equal gives equal ----


def test_two_runs_give_the_same_bytes(least: Path, inputs: Inputs, tmp_path: Path):
    """In a process of its own, so that nothing is left over from the first."""
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    assert spawn("run", recipe, "-o", tmp_path / "run", "-q").code == 0
    first = {name: content for name, content in snapshot(least).items() if deterministic(name)}
    second = {name: content for name, content in snapshot(tmp_path / "run").items() if deterministic(name)}
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("batch_size", ["1", "7", "auto"])
def test_the_batch_size_changes_no_text(least: Path, inputs: Inputs, tmp_path: Path, batch_size: str):
    texts = ["--toxic", least / "toxic_model", "--num-texts", 12, "--max-length", 20, "--batch-size", batch_size]
    common = ["--seed", 7, "--device", "cpu", "--dtype", "float32"]
    call("distill", inputs.models["gpt2"], "-o", tmp_path / "texts", *texts, *common).ok()
    assert (tmp_path / "texts/texts.jsonl").read_bytes() == (least / "texts/texts.jsonl").read_bytes()


def test_another_seed_gives_other_texts(least: Path, inputs: Inputs, tmp_path: Path):
    texts = ["--toxic", least / "toxic_model", "--num-texts", 12, "--max-length", 20]
    call("distill", inputs.models["gpt2"], "-o", tmp_path / "texts", *texts, "--seed", 8, "--dtype", "float32").ok()
    assert (tmp_path / "texts/texts.jsonl").read_bytes() != (least / "texts/texts.jsonl").read_bytes()


def test_a_file_of_texts_in_another_format_is_the_same_texts(inputs: Inputs, tmp_path: Path):
    given = [tmp_path / "texts.jsonl", tmp_path / "texts.tsv"]
    given[0].write_text("".join(json.dumps({"text": text}) + "\n" for text in recipes.sentences(16)))
    given[1].write_text("text\n" + "".join(text + "\n" for text in recipes.sentences(16)))
    write_csv(tmp_path / "texts.csv", [("sentence",), *([text] for text in recipes.sentences(16))])
    for source in [*given, tmp_path / "texts.csv"]:
        call("detoxify", inputs.models["gpt2"], "--texts", source, "-o", tmp_path / "out", *QUICK).ok()
    assert len(stages(tmp_path)) == 1
