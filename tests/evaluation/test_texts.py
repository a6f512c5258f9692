"""What is said of texts: each number by hand, sets side by side, the real texts, and every way to ask wrongly."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from recipes import call, sentences, write_csv

from unidetox.evaluation.texts import wording


def split(*texts: str) -> list[list[str]]:
    return [wording.words(text) for text in texts]


# ---- pure functions ----


def test_words_are_runs_of_letters_and_digits():
    assert wording.words('Don\'t say "Café-42", they’re_HERE!') == ["don't", "say", "café", "42", "they’re", "here"]
    assert wording.words(" -- ... ") == []


def test_ngrams_span_no_two_texts():
    found = wording.all_ngrams(split("a b c", "c d"), 2)
    assert found == {("a", "b"), ("b", "c"), ("c", "d")}
    assert wording.ngrams(["a", "b"], 3) == set()


def test_jaccard_by_hand():
    a, b = wording.all_ngrams(split("a b c d"), 1), wording.all_ngrams(split("c d e"), 1)
    assert wording.jaccard(a, b) == 2 / 5
    assert wording.jaccard(a, a) == 1
    assert wording.jaccard(set(), set()) is None


def test_key_terms_by_hand():
    texts = split("sun sun moon the", "sun the star the", "once")
    reference = split("the moon", "the rain", "the sun")
    found = {term.term: term for term in wording.key_terms(texts, reference)}
    # `the` is in every reference text, `moon`, `star` and `once` are in one text only.
    assert set(found) == {"sun"}
    assert found["sun"].score == pytest.approx((2 / 4 + 1 / 4) / 3 * math.log(4 / 2))
    assert (found["sun"].share, found["sun"].reference_share) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_key_terms_are_sorted_and_limited():
    texts = split("b a c", "a b c c c")
    assert [term.term for term in wording.key_terms(texts, split("x"), number=2)] == ["c", "a"]


def brute_force(texts: list[list[str]], threshold: float, n: int) -> list[bool]:
    grams = [wording.ngrams(t, min(n, len(t)) or 1) for t in texts]
    found = [False] * len(texts)
    for i, j in itertools.combinations(range(len(texts)), 2):
        if grams[i] and grams[j] and len(grams[i] & grams[j]) / len(grams[i] | grams[j]) >= threshold:
            found[i] = found[j] = True
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_near_copies_are_those_of_comparing_all_pairs(threshold: float):
    rng = random.Random(5)
    texts = [[rng.choice("abcdef") for _ in range(rng.randint(0, 14))] for _ in range(60)]
    for text in texts[:25]:
        copy = list(text)
        for _ in range(rng.randint(0, 3)):
            copy.insert(rng.randint(0, len(copy)), rng.choice("abcdef"))
        texts.append(copy)
    expected = brute_force(texts, threshold, 3)
    assert 0 < sum(expected) < len(texts)
    assert wording.near_copies(texts, threshold=threshold, n=3) == expected


def test_near_copies_of_short_and_of_empty_texts():
    assert wording.near_copies(split("a b", "A, b!", "...", "!", "a c")) == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "ends"), [("He said so.\n", True), ('"Go!"', True), ("(no)", True), ("and then", False), ("one,", False)]
)
def test_endings(text: str, ends: bool):
    assert wording.ends_sentence(text) is ends


# ---- the command ----


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = sentences(12)
    rows = [(text, "eos" if i % 3 else "length") for i, text in enumerate(texts)]
    rows += [rows[0], (f"{texts[1]}.\n", ""), ("  ", "eos")]
    (tmp_path / "plain").mkdir()
    return {
        "made": write_csv(tmp_path / "made.csv", [("text", "finish_reason"), *rows]),
        "plain": write_csv(tmp_path / "plain" / "made.csv", [("text",), *([t] for t in sentences(30)[20:])]),
        "corpus": write_csv(tmp_path / "corpus.csv", [("text", "words"), ("the fox", texts[0]), ("zz yy", "qq")]),
    }


def analysed(*arguments: Any) -> dict[str, Any]:
    return call("analyze", *arguments, "--json", "-q").ok().json


def test_a_set_by_hand(files: dict[str, Path]):
    (found,) = analysed(files["made"])["sets"]
    assert (found["texts"], found["distinct"], found["dropped"]) == (14, 13, {"empty": 1})
    # Three more of the sentences share most of their words; what is nearly the same is tested above.
    assert (found["ended"], found["cut"], found["unknown_end"]) == (8, 5, 1)
    assert found["ends_sentence"]["value"] == pytest.approx(1 / 14)
    assert found["with_line_breaks"] == 1
    counts = [len(text.split()) for text in [*sentences(12), sentences(1)[0], sentences(2)[1]]]
    assert found["words"]["total"] == sum(counts)
    assert found["words"]["mean"]["value"] == pytest.approx(sum(counts) / 14)
    assert found["words"]["mean"]["ci_low"] < sum(counts) / 14 < found["words"]["mean"]["ci_high"]
    assert 0 < found["dist"]["1"] < found["dist"]["2"] < 1
    assert all(found[name] is None for name in ("overlap", "terms", "toxicity", "tokens"))


def test_sets_side_by_side_with_everything(files: dict[str, Path], tiny_classifier: Path, tiny_gpt2: Path):
    command = [
        files["made"], files["plain"], "--corpus", files["corpus"], "--column", "words", "--reference", files["plain"],
        "--scorer", tiny_classifier, "--scorer-label", "Toxic", "--classifier", tiny_classifier,
        "--tokenizer", tiny_gpt2, "--seed", 3, "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    found = analysed(*command)
    made, plain = found["sets"]
    assert [made["name"], plain["name"]] == [f"{files['made'].parent.name}/made.csv", "plain/made.csv"]
    assert [row["n"] for row in made["overlap"]] == [1, 2, 3, 4]
    # The corpus is the first sentence and one strange word; its 2-grams all occur in the set.
    own = wording.all_ngrams(split(*sentences(12)), 2)
    theirs = wording.all_ngrams(split(sentences(1)[0]), 2)
    assert made["overlap"][1]["jaccard"] == pytest.approx(len(theirs) / len(own))
    assert made["overlap"][1]["texts_with_any"]["n"] == 14
    assert plain["terms"] == [] or all(term["score"] > 0 for term in plain["terms"])
    assert made["terms"][0]["score"] >= made["terms"][-1]["score"] > 0
    for entry in (made, plain):
        toxicity, label = entry["toxicity"], entry["labels"]["classifier0"]["shares"]["toxic"]
        assert sum(toxicity["histogram"]) == entry["texts"]
        assert sum(toxicity["histogram"][5:]) / entry["texts"] == toxicity["toxic_fraction"]["value"] == label["value"]
        assert toxicity["quantiles"]["p50"] <= toxicity["mean"]["value"] + 1 <= toxicity["quantiles"]["max"] + 1
        assert entry["tokens"]["total"] >= entry["words"]["total"]
    assert analysed(*command) == found


def test_scores_are_those_of_the_classifier(files: dict[str, Path], tiny_classifier: Path):
    from unidetox.evaluation.scorers.classifier import ClassifierScorer

    (found,) = analysed(files["plain"], "--scorer", tiny_classifier)["sets"]
    scores = ClassifierScorer(str(tiny_classifier), "toxic").score(sentences(30)[20:])
    assert found["toxicity"]["mean"]["value"] == pytest.approx(sum(row["toxic"] for row in scores) / 10)


def test_one_of_many_labels_is_the_likeliest(files: dict[str, Path], tmp_path: Path, tiny_classifier: Path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = {0: "left", 1: "centre", 2: "right"}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_classifier, num_labels=3, id2label=labels, label2id={v: k for k, v in labels.items()},
        problem_type="single_label_classification", ignore_mismatched_sizes=True,
    )  # fmt: skip
    model.classifier.weight.data.normal_(0, 3)
    model.save_pretrained(tmp_path / "lean")
    AutoTokenizer.from_pretrained(tiny_classifier).save_pretrained(tmp_path / "lean")
    (found,) = analysed(files["made"], "--classifier", tmp_path / "lean")["sets"]
    lean = found["labels"]["lean"]
    assert list(lean["shares"]) == list(labels.values())
    assert lean["multi_label"] is False
    assert sum(share["value"] for share in lean["shares"].values()) == pytest.approx(1)
    assert all(s["ci_low"] <= s["value"] <= s["ci_high"] and s["n"] == 14 for s in lean["shares"].values())


def test_what_is_written_and_that_it_is_kept(files: dict[str, Path], tmp_path: Path, tiny_classifier: Path):
    out = tmp_path / "out"
    hostile = write_csv(tmp_path / "<b>x</b>.csv", [("text",), ["<script>alert(1)</script> town"], ["town fair town"]])
    command = ["analyze", hostile, files["made"], "--reference", files["plain"], "--scorer", tiny_classifier]
    said = call(*command, "--output", out).ok()
    assert "distinct texts" in said.out
    assert str(out / "analysis.html") in said.out
    page = (out / "analysis.html").read_text(encoding="utf-8")
    for heading in ("Form", "Key terms", "Toxicity", "How this was measured"):
        assert f">{heading}</h2>" in page
    assert "<b>x</b>" not in page
    assert "http" not in page.replace("http-equiv", "")
    found = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
    assert found == analysed(*command[1:])
    mark = (out / "stage.json").read_bytes()
    assert "nothing to do" in call(*command, "-o", out).ok().err
    assert (out / "stage.json").read_bytes() == mark
    assert call(*command, "-o", out, "--limit", 1).code == 2
    assert (out / "stage.json").read_bytes() == mark
    call(*command, "-o", out, "--limit", 1, "--fresh").ok()
    again = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
    assert [entry["texts"] for entry in again["sets"]] == [1, 1]


def test_a_killed_analysis_keeps_its_scores(
    files: dict[str, Path], tmp_path: Path, tiny_classifier: Path, monkeypatch: pytest.MonkeyPatch
):
    from unidetox.evaluation.scorers.classifier import ClassifierScorer
    from unidetox.evaluation.texts import describe

    command = ["analyze", files["made"], "--scorer", tiny_classifier, "-o", tmp_path / "out", "-q"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(describe, "render_analysis", killed)
        assert call(*command).code == 130
    assert not (tmp_path / "out" / "analysis.json").exists()
    monkeypatch.setattr(ClassifierScorer, "score", lambda *_: pytest.fail("asked again"))
    call(*command).ok()
    shutil.rmtree(tmp_path / "out")


MISTAKES = {
    "no such file": (3, "no-such.csv does not exist", ["no-such.csv"]),
    "no such corpus": (3, "no-such.csv does not exist", ["MADE", "--corpus", "no-such.csv"]),
    "no such column": (2, "no column 'nope'", ["MADE", "--corpus", "CORPUS", "--column", "nope"]),
    "no such reference": (3, "no-such.csv does not exist", ["MADE", "--reference", "no-such.csv"]),
    "no such label": (2, "no label 'nice'", ["MADE", "--scorer", "SCORER", "--scorer-label", "nice"]),
    "scorer is a language model": (2, "", ["MADE", "--scorer", "LM"]),
    "classifier is not cached": (3, "hf download nobody/nothing", ["MADE", "--classifier", "nobody/nothing"]),
    "nothing in it": (2, "nothing to use", ["EMPTY"]),
    "no texts at all": (2, "argument", []),
    "fresh without output": (2, "-o", ["MADE", "--fresh"]),
    "limit is 0": (2, "--limit", ["MADE", "--limit", "0"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    files: dict[str, Path], tmp_path: Path, tiny_classifier: Path, tiny_gpt2: Path, name: str
):
    code, phrase, arguments = MISTAKES[name]
    empty = write_csv(tmp_path / "empty.csv", [("text",), [" "]])
    words = {
        "MADE": files["made"], "CORPUS": files["corpus"], "SCORER": tiny_classifier, "LM": tiny_gpt2, "EMPTY": empty,
    }  # fmt: skip
    said = call("analyze", *(words.get(word, word) for word in arguments))
    assert said.code == code, said
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert phrase in errors[0]
    assert said.out == ""


# ---- the authors' texts ----


@pytest.mark.real_data
def test_the_published_texts_are_as_they_were_measured(shared: Path, tmp_path: Path):
    """The facts of ../shared/reference/protocol.md, with GPT-2's own tokens."""
    from transformers import GPT2Config, GPT2TokenizerFast

    folder = shared / "models" / "gpt2_tokenizer"
    GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(tmp_path / "gpt2")
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    texts = shared / "data" / "unidetox_published_texts.csv"
    (found,) = analysed(texts, "--tokenizer", tmp_path / "gpt2", "--corpus", shared / "data" / "dghs_hate.csv")["sets"]
    assert (found["texts"], found["distinct"], found["near_copies"]) == (640, 640, 0)
    tokens = found["tokens"]
    assert (tokens["min"], tokens["max"], tokens["median"]) == (36, 256, 255)
    assert tokens["p5"] == pytest.approx(83, abs=0.5)
    assert tokens["mean"]["value"] == pytest.approx(234.7, abs=0.05)
    assert (tokens["mode"], tokens["at_mode"]) == (255, 496)
    assert found["words"]["mean"]["value"] == pytest.approx(187, abs=0.5)
    assert found["ends_sentence"]["value"] == 155 / 640
    assert found["with_line_breaks"] == 608
    assert found["unknown_end"] == 640
    overlap = [row["jaccard"] for row in found["overlap"]]
    assert overlap == sorted(overlap, reverse=True)
