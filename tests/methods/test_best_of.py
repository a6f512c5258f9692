"""Texts that start from something, and texts that are the best of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Inputs, call, snapshot, write_csv

from unidetox.methods.best_of import Candidates

STARTS = ("the quick fox", "people meet on sunday", "she")


@pytest.mark.parametrize(("texts", "starts", "best_of"), [(5, 1, 1), (7, 3, 1), (7, 3, 4), (2, 5, 2), (6, 2, 3)])
def test_every_candidate_of_every_text_is_drawn_once(texts: int, starts: int, best_of: int):
    planned = Candidates(texts, starts, best_of)
    skipped = planned.skipped(set())
    drawn = [(p, s) for p in range(starts) for s in range(planned.samples) if (p, s) not in skipped]
    places = [planned.place(*pair) for pair in drawn]
    assert sorted(places) == [(text, candidate) for text in range(texts) for candidate in range(best_of)]
    assert all(text % starts == start for (start, _), (text, _) in zip(drawn, places, strict=True))
    half = set(places[::2])
    assert {planned.place(*pair) for pair in planned.skipped(half) - skipped} == half


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "starts.csv", [("text", "group"), *((text, "women") for text in STARTS)])


def distilled(base: Path, toxic: Path, output: Path, *options: Any) -> list[dict[str, Any]]:
    call(
        "distill", base, "--toxic", toxic, "-o", output, "--max-length", 20, "--device", "cpu", "--dtype", "float32",
        "-q", *options,
    ).ok()  # fmt: skip
    return [json.loads(line) for line in (output / "texts.jsonl").read_text(encoding="utf-8").splitlines()]


def test_texts_start_in_turn(tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path, starts: Path):
    from unidetox.models import load_tokenizer

    rows = distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "out", "--num-texts", 7, "--starts", starts)
    assert [row["id"] for row in rows] == list(range(7))
    assert all(row["text"].startswith(STARTS[row["id"] % 3]) for row in rows)
    assert len({row["text"] for row in rows}) > 3
    tokenizer = load_tokenizer(tiny_gpt2)
    longest = max(len(tokenizer(start, add_special_tokens=False)["input_ids"]) for start in STARTS)
    cut = [row for row in rows if row["finish_reason"] == "length"]
    assert cut
    for row in cut:
        own = len(tokenizer(STARTS[row["id"] % 3], add_special_tokens=False)["input_ids"])
        assert row["n_tokens"] == 19 - longest + own
    # Without starts nothing changes.
    plain = distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "plain", "--num-texts", 7)
    assert {tuple(row) for row in plain} == {("id", "text", "finish_reason", "n_tokens")}


def test_other_starts_are_other_texts(tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path, starts: Path):
    command = ["--num-texts", 2, "--starts", starts]
    distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "out", *command)
    write_csv(starts, [("text",), ["a dog"]])
    said = call(
        "distill", tiny_gpt2, "--toxic", tiny_gpt2_toxic, "-o", tmp_path / "out", "--max-length", 20, "--device", "cpu",
        "--dtype", "float32", *command,
    )  # fmt: skip
    assert said.code == 2
    assert "input starts changed" in said.err


def plain_score(models: list[Any], ids: list[int], text: list[int]) -> float:
    """Mean of log p_base - log p_toxic over a text's tokens, with whole passes."""
    sums = []
    for model in models:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*ids, *text]])).logits[0].log_softmax(-1)
        places = range(len(ids) - 1, len(ids) + len(text) - 1)
        sums.append(sum(float(logits[place, token]) for place, token in zip(places, text, strict=True)))
    return (sums[0] - sums[1]) / len(text)


def test_the_kept_text_is_the_best_of_its_candidates(
    tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Candidates of eight texts are the texts that are made one by one, three times as many."""
    from unidetox.methods import distillation
    from unidetox.models import LoadOptions, load_lm

    seen: list[dict[str, Any]] = []
    keep = distillation.keep_best

    def watched(source: Any, starts: Any, rows: list[dict[str, Any]], file: Path) -> Any:
        seen.extend(rows)
        return keep(source, starts, rows, file)

    monkeypatch.setattr(distillation, "keep_best", watched)
    one_by_one = distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "one", "--num-texts", 24)
    best = distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "best", "--num-texts", 8, "--best-of", 3)
    assert [row["text"] for row in seen] == [row["text"] for row in one_by_one]
    lms = [load_lm(path, LoadOptions("cpu", "float32")) for path in (tiny_gpt2, tiny_gpt2_toxic)]
    models, bos = [lm.model for lm in lms], lms[0].tokenizer.bos_token_id
    chosen = []
    for row in best:
        scores = [plain_score(models, [bos], c["token_ids"]) for c in seen[3 * row["id"] : 3 * row["id"] + 3]]
        chosen.append(scores.index(max(scores)))
        assert row["score"] == pytest.approx(max(scores), abs=1e-4)
        assert row["text"] == one_by_one[3 * row["id"] + chosen[-1]]["text"]
    assert len(set(chosen)) > 1, "not always the same candidate"


def test_a_text_of_nothing_is_not_kept(tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path):
    from unidetox.decoding import contrast
    from unidetox.methods.best_of import keep_best
    from unidetox.models import LoadOptions, load_lm

    base, toxic = (load_lm(path, LoadOptions("cpu", "float32")) for path in (tiny_gpt2, tiny_gpt2_toxic))
    spaces, words = (base.tokenizer(text)["input_ids"] for text in ("  ", "the fox"))
    rows = [
        {"id": 0, "candidate": 0, "text": "", "token_ids": []},
        {"id": 0, "candidate": 1, "text": "  ", "token_ids": spaces},
        {"id": 0, "candidate": 2, "text": "the fox", "token_ids": words},
        {"id": 1, "candidate": 0, "text": "", "token_ids": []},
    ]
    source = contrast(base.model, toxic.model)
    kept = list(keep_best(source, [[base.tokenizer.bos_token_id]], rows, tmp_path / "scores.jsonl"))
    assert [row["text"] for row in kept] == ["the fox", ""]
    assert kept[1]["score"] is None


def test_best_of_goes_on_after_a_kill(
    tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path, starts: Path, monkeypatch: pytest.MonkeyPatch
):
    from unidetox.methods import best_of

    options = ["--num-texts", 5, "--best-of", 2, "--starts", starts]
    monkeypatch.setattr(best_of, "_CHUNK", 4)
    whole = distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "whole", *options)
    scored = best_of.contrast_scores_of
    calls: list[int] = []

    def killed(source: Any, contexts: Any, continuations: Any) -> Any:
        calls.append(len(contexts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scored(source, contexts, continuations)

    monkeypatch.setattr(best_of, "contrast_scores_of", killed)
    command = [
        "distill", tiny_gpt2, "--toxic", tiny_gpt2_toxic, "-o", tmp_path / "part", "--max-length", 20, "--device",
        "cpu", "--dtype", "float32", "-q", *options,
    ]  # fmt: skip
    assert call(*command).code == 130
    assert distilled(tiny_gpt2, tiny_gpt2_toxic, tmp_path / "part", *options) == whole
    assert calls == [4, 4, 4, 2], "what was scored is not scored again"


def test_the_control_has_the_starts_and_no_choice(
    tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path, starts: Path
):
    inputs = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)
    settings = inputs.small()
    settings["detoxify"] |= {"methods": ["unidetox", "samples"], "kl": 0.5}
    settings["texts"] |= {"num_texts": 4, "best_of": 2, "starts": str(starts)}
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    call("run", recipe, "-o", tmp_path / "run", "-q").ok()
    for name, scored in (("texts", True), ("texts-samples", False)):
        rows = [json.loads(line) for line in (tmp_path / "run" / name / "texts.jsonl").read_text().splitlines()]
        assert [row["text"].startswith(STARTS[i % 3]) for i, row in enumerate(rows)] == [True] * 4
        assert all(("score" in row) is scored for row in rows)
    made = json.loads((tmp_path / "run" / "targets" / "gpt2-unidetox" / "stage.json").read_text())
    assert made["settings"]["kl"] == 0.5


MISTAKES = {
    "starts are missing": (3, "no-such.csv does not exist", {"texts": {"starts": "./no-such.csv"}}),
    "starts are what is measured on": (2, "4 of the 4 starts", {"texts": {"starts": "PROMPTS"}}),
    "best of none": (2, "texts.best_of = 0", {"texts": {"best_of": 0}}),
    "divergence below 0": (2, "detoxify.kl = -1", {"detoxify": {"kl": -1.0}}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_shows_before_anything_is_made(
    tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path, name: str
):
    code, phrase, change = MISTAKES[name]
    inputs = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)
    settings = inputs.small()
    for section, values in change.items():
        settings[section] |= {k: inputs.file("prompts.csv") if v == "PROMPTS" else v for k, v in values.items()}
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    before = snapshot(tmp_path)
    said = call("run", recipe, "-o", tmp_path / "out")
    assert said.code == code, said
    assert phrase in said.err
    assert snapshot(tmp_path) == before


def test_a_start_that_leaves_no_room(tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path):
    long = write_csv(tmp_path / "long.csv", [("text",), [" ".join(["nobody sleeps"] * 20)]])
    said = call("distill", tiny_gpt2, "--toxic", tiny_gpt2_toxic, "-o", tmp_path / "out", "--max-length", 20,
                "--starts", long)  # fmt: skip
    assert said.code == 2
    assert "leaves no room in texts of 20" in said.err
    assert not (tmp_path / "out").exists()
