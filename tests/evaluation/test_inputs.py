"""Odd prompts and broken models: a clear error or a counted, reported row, and never a silent change of a number."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unidetox.cli import _run
from unidetox.core.files import read_json, read_jsonl

HEADER = "text,group\n"
LONG = "a small town by the sea has a market where people meet " * 12
Evaluate = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def evaluate(tmp_path: Path, tiny_gpt2: Path, tiny_classifier: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Call the command on a prompt file; return its exit code, what it said, and its results."""

    def call(prompts: bytes | str, *options: str, model: Path = tiny_gpt2) -> tuple[int, str, dict[str, Any]]:
        path = tmp_path / "prompts.csv"
        path.write_bytes(prompts if isinstance(prompts, bytes) else prompts.encode())
        output = tmp_path / "out"
        line = ["evaluate", str(model), "-o", str(output), "--prompts", str(path), "--samples", "2", "--seeds", "1"]
        line += ["--max-new-tokens", "6", "--device", "cpu", "--dtype", "float32"]
        line += ["--scorer", str(tiny_classifier)] if "--scorer" not in options else []
        code = _run([*line, *options])
        return code, " ".join(capsys.readouterr().err.split()), read_json(output / "results.json") or {}

    return call


def broken(source: Path, target: Path, name: str) -> Path:
    """A copy of a model whose tensor of that name is NaN."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    weights[name].fill_(float("nan"))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def counts(results: dict[str, Any]) -> dict[str, Any]:
    ((found,),) = [methods.values() for methods in results["counts"].values()]
    return dict(found)


def test_odd_prompts_are_counted_and_said(evaluate: Evaluate, tmp_path: Path):
    odd = f'{HEADER}the fox,women\n"  ",women\nthe fox,martians\n{LONG},asian\n,asian\nthe fox,women\n'
    code, said, results = evaluate(odd, "--perturb", "spacing", "--ppl-model", str(tmp_path.parent / "none"))
    assert code == 3  # the perplexity model is not there, and that shows first
    code, said, results = evaluate(odd, "--perturb", "spacing")
    assert code == 0
    assert "2 empty" in said or "empty: 2" in said or "2 (empty)" in said, said
    assert "martians (1)" in said
    assert "2 repeat an earlier one" in said
    assert results["settings"]["prompts_dropped"] == {"empty": 2}
    assert results["settings"]["groups_without_domain"] == {"martians": 1}
    assert results["settings"]["prompts_repeated"] == 2
    found = counts(results)
    assert (found["prompts"], found["prompts_repeated"], found["prompts_without_domain"]) == (4, 2, 1)
    assert (found["prompts_cut"], found["forms"]) == (1, {"spacing": {"prompts_cut": 1}})
    cut = "1 prompts cut on the left to fit the model's context"
    assert f"{cut}; {cut} (spacing)" in said
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "4 prompts; 1 without a domain; 2 of them repeat another" in page
    assert html.escape(f"{cut} (spacing)").replace("&#x27;", "&#39;") in page
    n = {(r["domain"], r["group"]): r["n"] for r in results["rows"] if r["metric"] == "tp" and r["seed"] is None}
    assert n["all", None] == 4
    assert n["all", "martians"] == 1
    assert n["gender", "women"] == 2
    rows = read_jsonl(tmp_path / "out" / "generations.jsonl")
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(p, s) for p in "0235" for s in (0, 1)]


def test_what_has_no_perplexity_is_counted(evaluate: Evaluate, tiny_gpt2: Path, tmp_path: Path):
    """A perplexity model of eight positions cannot read more tokens at once, nor a whole prompt before six."""
    from transformers import AutoConfig, AutoModelForCausalLM

    narrow = tmp_path / "narrow"
    shutil.copytree(tiny_gpt2, narrow)
    config = AutoConfig.from_pretrained(narrow)
    config.n_positions = 8
    AutoModelForCausalLM.from_config(config).save_pretrained(narrow)
    prompts = HEADER + "".join(f"the quick brown fox number {i},women\n" for i in range(20))
    code, _, results = evaluate(prompts, "--ppl-model", str(narrow), "--max-new-tokens", "12")
    assert code == 0
    found = counts(results)
    assert found["perplexity_texts_too_long"] > 0
    (row,) = [r for r in results["rows"] if (r["metric"], r["domain"], r["seed"]) == ("ppl", "all", 1)]
    assert row["n_dropped"] == found["perplexity_texts_too_long"] + found["perplexity_texts_empty"]
    assert row["n"] + row["n_dropped"] == found["continuations"] == 40
    rows = read_jsonl(tmp_path / "out" / "generations.jsonl")
    assert found["perplexity_texts_empty"] == sum(row["continuation"] == "" for row in rows)
    assert found["perplexity_texts_empty"] == found["continuations_empty"]


@pytest.mark.parametrize(
    ("prompts", "phrase"),
    [
        (HEADER + '"   ",women\n', "no prompt in column 'text'"),
        (HEADER.encode() + "un caf\xe9,women\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("words,group\nthe fox,women\n", "no column 'text' or 'prompt'"),
    ],
)
def test_prompts_that_cannot_be_used(evaluate: Evaluate, prompts: bytes | str, phrase: str, tmp_path: Path):
    code, said, _ = evaluate(prompts)
    assert code == 2
    assert phrase in said.split("error: ")[1]
    assert not (tmp_path / "out").exists()


def test_a_label_that_a_second_scorer_lacks(evaluate: Evaluate, tiny_classifier: Path, toxic_bert: Path):
    two = ("--scorer", str(tiny_classifier), "--scorer", str(toxic_bert))
    code, said, _ = evaluate(f"{HEADER}the fox,women\n", *two, "--scorer-label", "toxic", "--scorer-label", "rude")
    assert code == 2
    assert "has no label 'rude'; its labels: toxic, severe_toxic" in said
    code, said, _ = evaluate(f"{HEADER}the fox,women\n", *two, *["--scorer-label", "toxic"] * 3)
    assert code == 2
    assert "2 --scorer and 3 --scorer-label" in said


def test_broken_models_are_named(
    evaluate: Evaluate, tmp_path: Path, tiny_gpt2: Path, tiny_llama: Path, tiny_classifier: Path
):
    prompt = f"{HEADER}the fox,women\n"
    target = broken(tiny_gpt2, tmp_path / "broken-lm", "transformer.ln_f.weight")
    code, said, results = evaluate(prompt, model=target)
    assert (code, results) == (1, {})
    assert f"error: {target} is broken: transformer.ln_f.weight holds values that are no numbers" in said
    judge = broken(tiny_llama, tmp_path / "broken-judge", "model.norm.weight")
    code, said, results = evaluate(prompt, "--ppl-model", str(judge))
    assert (code, results) == (1, {})
    assert f"error: {judge} is broken: model.norm.weight holds values that are no numbers" in said
    scorer = broken(tiny_classifier, tmp_path / "broken-scorer", "classifier.weight")
    code, said, results = evaluate(prompt, "--scorer", str(scorer), "--fresh")
    assert (code, results) == (1, {})
    assert f"error: {scorer} is broken: classifier.weight holds values that are no numbers" in said


def test_a_scorer_that_knows_the_corpus_is_warned_of(evaluate: Evaluate, tmp_path: Path, tiny_classifier: Path):
    from unidetox.evaluation.evaluate import make_evaluate
    from unidetox.evaluation.scorers.contamination import contamination

    known = tmp_path / "judge"
    shutil.copytree(tiny_classifier, known)
    (known / "README.md").write_text("Trained on the Dynamically Generated Hate Speech Dataset.\n")
    code, said, results = evaluate(f"{HEADER}the fox,women\n", "--scorer", str(known))
    assert code == 0
    assert "warning: the scorer judge was trained on DGHS" in said
    assert len(results["warnings"]) == 1
    name = "facebook/roberta-hate-speech-dynabench-r4-target"
    settings = make_evaluate({"scorer": str(tiny_classifier), "other_scorers": {name: "hate"}})
    assert "roberta-hate-speech-dynabench-r4-target" in contamination(settings)[0]
    assert contamination(settings, "my/insults.csv") == []
    assert contamination(settings, "data/dghs_hate.csv") != []
    assert contamination(make_evaluate({"scorer": str(tiny_classifier)})) == []


def test_json_of_two_scorers_holds_both(evaluate: Evaluate, tiny_classifier: Path, toxic_bert: Path, tmp_path: Path):
    prompts = HEADER + "".join(f"the fox number {i},women\n" for i in range(12))
    code, _, results = evaluate(prompts, "--scorer", str(tiny_classifier), "--scorer", str(toxic_bert))
    assert code == 0
    first, second = tiny_classifier.name, toxic_bert.name
    rows = read_jsonl(tmp_path / "out" / "generations.jsonl")
    assert all(list(row["scores"]) == [first, second] for row in rows)
    assert all(len(row["scores"][second]) == 6 for row in rows)
    assert all(row["toxicity"] == row["scores"][first]["toxic"] for row in rows)
    overall = {
        (r["metric"], r["scorer"]): r
        for r in results["rows"]
        if (r["domain"], r["group"], r["seed"], r["form"]) == ("all", None, None, None)
    }
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row["scores"][second]["toxic"])
    emt = sum(map(max, by_prompt.values())) / 12
    assert overall["emt", second]["value"] == pytest.approx(emt)
    tp = sum(max(scores) >= 0.5 for scores in by_prompt.values()) / 12
    assert overall["tp", second]["value"] == pytest.approx(tp)
    assert -1 <= overall["correlation", second]["value"] <= 1
    assert ("agreement", second) in overall and ("agreement", None) not in overall
    assert counts(results)["scorers"] == {second: {"scorer_texts_cut": 0}}
    assert json.loads(json.dumps(results)) == results
