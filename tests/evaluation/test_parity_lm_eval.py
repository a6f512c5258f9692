"""MMLU's standard protocol against lm-evaluation-harness: the same model, the same questions, question by question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from unidetox.core.resolve import resolve_source
from unidetox.data import QuestionSet, load_questions
from unidetox.evaluation.metrics.mmlu import Answer
from unidetox.evaluation.mmlu import score_questions
from unidetox.models import LoadOptions, load_lm

pytestmark = pytest.mark.lm_eval

# lm-eval warns of much when it is imported; it runs in a process of its own, with its own templates of MMLU.
THEIRS = """
import json, sys
from pathlib import Path
import lm_eval
from lm_eval.tasks._yaml_loader import load_yaml

told = json.loads(Path(sys.argv[1]).read_text())
default = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"
tasks = []
for subject in told["subjects"]:
    own = default / f"mmlu_{subject}.yaml"
    config = load_yaml(own if own.exists() else default / "_default_template_yaml")
    if not own.exists():  # as tasks/mmlu/_generate_configs.py names a subject
        name = " ".join(subject.split("_"))
        config["description"] = f"The following are multiple choice questions (with answers) about {name}.\\n\\n"
    config.pop("tag", None)
    config.pop("dataset_name", None)
    files = {split: f"{told['folder']}/{subject}.{split}.jsonl" for split in ("test", "dev")}
    kwargs = {"data_files": files, "cache_dir": told["folder"]}
    tasks.append(config | {"task": subject, "dataset_path": "json", "dataset_kwargs": kwargs})
found = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": told["model"], "dtype": "float32"}, tasks=tasks,
    num_fewshot=told["shots"], device="cpu", batch_size=16, bootstrap_iters=0,
)
answers = {}
for subject in told["subjects"]:
    rows = sorted(found["samples"][subject], key=lambda row: row["doc_id"])
    answers[subject] = [
        {"logprobs": [scored[0] for scored in row["filtered_resps"]], "acc": row["acc"]} for row in rows
    ]
accuracy = {subject: found["results"][subject]["acc,none"] for subject in told["subjects"]}
Path(sys.argv[2]).write_text(json.dumps({"answers": answers, "accuracy": accuracy}))
"""


def by_lm_eval(folder: Path, model: Path | str, questions: QuestionSet, shots: int) -> dict[str, Any]:
    """What lm-eval says: for each subject the answers in order, and its accuracy."""
    subjects = sorted({question.subject for question in questions.questions})
    for subject in subjects:
        asked = [asdict(question) for question in questions.questions if question.subject == subject]
        solved = [asdict(question) for question in questions.dev[subject]]
        for split, rows in (("test", asked), ("dev", solved)):
            (folder / f"{subject}.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = {"folder": str(folder), "model": str(model), "subjects": subjects, "shots": shots}
    (folder / "told.json").write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, str(folder / "told.json"), str(folder / "found.json")],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def compare(folder: Path, model: Path | str, questions: QuestionSet, shots: int) -> tuple[list[Answer], float]:
    """Hold both to the question; return our answers and the largest difference of a log-likelihood."""
    lm = load_lm(str(model), LoadOptions("cpu", "float32"))
    ours = score_questions(lm, questions.questions, questions.dev, shots=shots, protocol="standard")
    theirs = by_lm_eval(folder, model, questions, shots)
    rows = {subject: iter(answers) for subject, answers in theirs["answers"].items()}
    largest = 0.0
    for answer in ours:
        row = next(rows[answer.subject])
        if answer.cut and lm.tokenizer("a")["input_ids"][0] == lm.tokenizer.bos_token_id:
            continue  # where a prompt does not fit, we keep BOS and lm-eval does not
        largest = max(largest, *(abs(a - b) for a, b in zip(answer.logprobs, row["logprobs"], strict=True)))
        best = sorted(row["logprobs"])
        if best[-1] - best[-2] > 1e-4:
            assert row["logprobs"].index(best[-1]) == answer.predicted
            assert row["acc"] == float(answer.is_right)
    for subject, accuracy in theirs["accuracy"].items():
        right = [answer.is_right for answer in ours if answer.subject == subject]
        if not any(answer.cut for answer in ours):
            assert accuracy == pytest.approx(sum(right) / len(right), abs=1e-9), subject
    return ours, largest


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_letters_of_the_sandbox_are_those_of_lm_eval(tmp_path: Path, model: str):
    questions = load_questions(resolve_source("sandbox:mmlu", None), split="test", limit=24)
    ours, largest = compare(tmp_path, resolve_source(f"sandbox:{model}", None), questions, shots=1)
    assert len(ours) == 24
    assert len({answer.subject for answer in ours}) > 1
    assert largest < 1e-4


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_letters_of_real_questions_are_those_of_lm_eval(tmp_path: Path, shared: Path, model: str, shots: int):
    questions = load_questions(str(shared / "data" / "mmlu"), split="val")
    ours, largest = compare(tmp_path, shared / "models" / model, questions, shots)
    assert len(ours) == 1531
    assert largest < 1e-3
    cut, right = sum(answer.cut for answer in ours), sum(answer.is_right for answer in ours)
    sys.stderr.write(
        f"{model}, {shots} shots: {right} of {len(ours)} right, {cut} cut, largest difference {largest:.1e}\n"
    )
