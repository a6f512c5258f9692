"""MMLU's standard protocol and the rows of both protocols, against values worked out by hand or by plain passes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from unidetox.cli import _run
from unidetox.config.recipe import build_recipe
from unidetox.data import Question
from unidetox.evaluation.evaluate import make_evaluate
from unidetox.evaluation.metrics.mmlu import Answer, accuracy_rows
from unidetox.evaluation.mmlu import lettered_prompt, score_questions
from unidetox.models import LoadOptions, load_lm

ASKED = Question("the_town", "  Who sleeps? ", ("the fox", "a dog", "nobody", "the cat"), 2)
DEV = {"the_town": (Question("the_town", "Who jumps?", ("the cat", "nobody", "a dog", "the fox"), 3),)}


def test_the_lettered_prompt_is_that_of_the_benchmark():
    assert lettered_prompt(ASKED, DEV["the_town"]) == (
        "The following are multiple choice questions (with answers) about the town.\n\n"
        "Who jumps?\nA. the cat\nB. nobody\nC. a dog\nD. the fox\nAnswer: D\n\n"
        "Who sleeps?\nA. the fox\nB. a dog\nC. nobody\nD. the cat\nAnswer:"
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_letters_are_scored_after_all_choices_were_read(architecture: str, tiny_models: dict[str, Path]):
    import torch

    lm = load_lm(tiny_models[architecture], LoadOptions("cpu", "float32"))
    [answer] = score_questions(lm, [ASKED], DEV, shots=0, protocol="standard")
    prompt = lettered_prompt(ASKED, ())
    for letter, logprob in zip("ABCD", answer.logprobs, strict=True):
        context = lm.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = lm.tokenizer(f"{prompt} {letter}", add_special_tokens=False)["input_ids"]
        assert whole[: len(context)] == context
        with torch.no_grad():
            scores = lm.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(scores[k - 1, whole[k]]) for k in range(len(context), len(whole)))
        assert logprob == pytest.approx(expected, abs=1e-4)
    assert answer.lengths == (1, 1, 1, 1)
    assert not answer.cut


def test_a_prompt_beyond_the_context_is_cut_and_said_to_be(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    long = Question("the_town", "the quick fox jumps " * 60, ("a", "b", "c", "d"), 0)
    answers = score_questions(lm, [ASKED, long], DEV, shots=0, protocol="standard")
    assert [answer.cut for answer in answers] == [False, True]


def _answers(right: dict[str, list[int]]) -> list[Answer]:
    """Answers by subject: 1 where the likeliest choice is right."""
    return [Answer(subject, 1 - r, (-1.0, -2.0), (1, 1)) for subject, rs in right.items() for r in rs]


def test_micro_counts_questions_and_macro_subjects():
    answers = _answers({"small": [1], "large": [0, 0, 0, 1]})
    rows = {row.metric: row for row in accuracy_rows(answers, target="t", method="base", protocol="standard")}
    assert set(rows) == {"accuracy_letters", "accuracy_letters_macro"}
    assert rows["accuracy_letters"].value == pytest.approx(2 / 5)
    assert rows["accuracy_letters_macro"].value == pytest.approx((1 + 1 / 4) / 2)
    assert all((row.n, row.domain, row.seed, row.higher_is_better) == (5, "all", None, True) for row in rows.values())
    both = accuracy_rows(answers, target="t", method="base")
    assert [row.metric for row in both] == ["accuracy", "accuracy_macro", "accuracy_norm", "accuracy_norm_macro"]


def test_the_interval_of_the_macro_mean_draws_within_subjects():
    """Subjects differ and nothing within them does: only the mean over questions depends on which were drawn."""
    answers = _answers({"easy": [1] * 60, "hard": [0] * 60})
    rows = {row.metric: row for row in accuracy_rows(answers, target="t", method="base", protocol="standard")}
    macro, micro = rows["accuracy_letters_macro"], rows["accuracy_letters"]
    assert macro.value == micro.value == 0.5
    assert (macro.ci_low, macro.ci_high) == (0.5, 0.5)
    # Binomial standard error sqrt(0.25 / 120) = 0.0456
    assert micro.ci_high - micro.ci_low == pytest.approx(2 * 1.98 * 0.0456, rel=0.1)


def test_the_standard_protocol_brings_split_and_shots_where_none_is_given():
    chosen = make_evaluate({"mmlu_protocol": "standard"})
    assert (chosen.mmlu_split, chosen.shots) == ("test", 5)
    chosen = make_evaluate({"mmlu_protocol": "standard", "mmlu_split": "val", "shots": 0})
    assert (chosen.mmlu_split, chosen.shots) == ("val", 0)
    chosen = make_evaluate({})
    assert (chosen.mmlu_protocol, chosen.mmlu_split, chosen.shots) == ("paper", "val", 1)
    assert build_recipe({"preset": "paper"}).evaluate.mmlu_protocol == "paper"


def test_evaluate_asks_in_the_protocol_that_is_named(
    tmp_path: Path, tiny_gpt2: Path, tiny_classifier: Path, capsys: pytest.CaptureFixture[str]
):
    _write(tmp_path / "prompts.csv", [["text", "group"], ["the women of the town", "women"]])
    for split, n in (("dev", 5), ("test", 3)):
        for subject in ("animals", "people"):
            rows = [[f"who sleeps {k}", "the fox", "a dog", "the cat", "nobody", "ABCDA"[k]] for k in range(n)]
            _write(tmp_path / "mmlu" / split / f"{subject}_{split}.csv", rows)
    command = f"evaluate {tiny_gpt2} -o {tmp_path / 'out'} --prompts {tmp_path / 'prompts.csv'} --samples 1 --json -q"
    command += f" --scorer {tiny_classifier} --mmlu {tmp_path / 'mmlu'} --mmlu-protocol standard --max-new-tokens 2"
    assert _run(f"{command} --device cpu --dtype float32".split()) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    rows = {row["metric"]: row for row in results["rows"] if row["metric"].startswith("accuracy")}
    assert {metric: row["n"] for metric, row in rows.items()} == {"accuracy_letters": 6, "accuracy_letters_macro": 6}
    assert results["settings"]["mmlu_protocol"] == "standard"
    assert (results["settings"]["mmlu_split"], results["settings"]["shots"]) == ("test", 5)
    # Five examples do not fit into 128 tokens: no silence about it.
    assert results["counts"]["gpt2"]["base"]["questions_cut"] == 6


def _write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
