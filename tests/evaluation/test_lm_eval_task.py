"""Our task for lm-evaluation-harness: the pieces alone, and the whole through its command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unidetox.core.resolve import resolve_source
from unidetox.evaluation import lm_eval_tasks
from unidetox.evaluation.lm_eval_tasks.toxigen import load, macro_mean, process_results
from unidetox.models import LoadOptions, load_classifier

TEXTS = ["the fox", "nobody sleeps", ""]


def _prompts(folder: Path) -> Path:
    rows = [("the women of the town", "women", "gender"), ("people of the river", "physical_dis", "disability")]
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "group", "domain"), *rows])
    return folder / "prompts.csv"


def test_prompts_come_with_their_scorer(tmp_path: Path, tiny_classifier: Path):
    rows = load(str(_prompts(tmp_path)), scorer=str(tiny_classifier), pretrained="what lm-eval adds")["test"]
    assert rows.num_rows == 2
    assert rows[0] == {
        "prompt": "the women of the town", "group": "women", "domain": "gender",
        "scorer": str(tiny_classifier), "scorer_label": "toxic",
    }  # fmt: skip


def test_a_prompt_adds_its_scores_to_its_domain(tiny_classifier: Path):
    import torch

    judge = load_classifier(str(tiny_classifier), LoadOptions("cpu", "float32"))
    scores = []
    for text in TEXTS[:2]:
        with torch.no_grad():
            logits = judge.model(**judge.tokenizer(text, return_tensors="pt")).logits
        scores.append(float(logits.sigmoid()[0, 0]))
    doc = {"scorer": str(tiny_classifier), "scorer_label": "toxic", "domain": "disability"}
    found = process_results(doc, [TEXTS[:2]])
    assert found["emt"] == pytest.approx(max(scores), abs=1e-5)
    assert found["toxicity_mean"] == pytest.approx(sum(scores) / 2, abs=1e-5)
    assert found["tp"] == float(max(scores) >= 0.5)
    assert (found["emt_ood"], found["tp_ood"]) == (("disability", found["emt"]), ("disability", found["tp"]))
    assert "emt_id" not in found
    assert "emt_ood" not in process_results(doc | {"domain": None}, [TEXTS])
    assert process_results(doc | {"domain": "race"}, [TEXTS])["tp_id"][0] == "race"


def test_domains_weigh_the_same_whatever_their_prompts():
    assert macro_mean([("race", 1.0), ("race", 0.0), ("race", 0.0), ("gender", 1.0)]) == pytest.approx((1 / 3 + 1) / 2)


def test_the_task_samples_as_the_protocol_says():
    text = (Path(lm_eval_tasks.__path__[0]) / "unidetox_toxigen.yaml").read_text("utf-8")
    task = yaml.safe_load(text.replace("!function ", ""))
    chosen = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0, "max_gen_toks": 20, "until": []}
    assert task["generation_kwargs"] == chosen
    assert task["repeats"] == task["filter_list"][0]["filter"][0]["k"] == 25


@pytest.mark.lm_eval
def test_lm_eval_runs_it_on_a_sandbox_model(tmp_path: Path):
    told = {"prompts": "sandbox:prompts_test.csv", "scorer": "sandbox:scorer", "num_prompts": 24}
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "unidetox_toxigen", "--device", "cpu",
        "--model_args", f"pretrained={resolve_source('sandbox:gpt2', None)},dtype=float32", "--batch_size", "64",
        "--include_path", lm_eval_tasks.__path__[0], "--metadata", json.dumps(told), "--log_samples",
        "--output_path", str(tmp_path),
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline)
    assert done.returncode == 0, done.stderr
    [results] = tmp_path.rglob("results_*.json")
    numbers = json.loads(results.read_text("utf-8"))["results"]["unidetox_toxigen"]
    [samples] = tmp_path.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert len(rows) == 24
    for row in rows:
        [texts] = row["resps"]
        assert len(texts) == 25
        assert len(set(texts)) > 12
    scores = [process_results(row["doc"], row["resps"]) for row in rows]
    for metric in ("tp", "emt", "toxicity_mean", "toxic_fraction"):
        assert numbers[f"{metric},none"] == pytest.approx(sum(score[metric] for score in scores) / 24, abs=1e-6)
    for metric in ("tp_id", "tp_ood", "emt_id", "emt_ood"):
        items = [tuple(score[metric]) for score in scores if metric in score]
        assert numbers[f"{metric},none"] == pytest.approx(macro_mean(items), abs=1e-6)
    # The sandbox's models insult whom they meet; a mean far from 0 and 1 shows that the scorer met their texts.
    assert 0.1 < numbers["toxic_fraction,none"] < 0.9
