"""A scorer of another kind, in this file alone, goes wherever a classifier goes."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import unidetox
from unidetox.config.settings import Evaluate
from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.core.files import read_jsonl
from unidetox.evaluation import scorers
from unidetox.evaluation.lm_eval_tasks.toxigen import process_results
from unidetox.evaluation.scorers.classifier import ClassifierScorer
from unidetox.evaluation.scorers.contamination import contamination
from unidetox.evaluation.scorers.interface import Scorer, find_label
from unidetox.evaluation.scorers.known import known_scorer, known_scorers
from unidetox.evaluation.texts import analyze
from unidetox.models import LoadOptions, load_classifier


class Letters(Scorer):
    """The share of a letter in a text: ``letters:e``."""

    calls: ClassVar[list[str]] = []
    version = "1"

    def __init__(self, source: str, label: str | None, options: LoadOptions) -> None:
        self.source, self.label, self.letter = source, label, source.partition(":")[2]

    @property
    def fingerprint(self) -> str:
        return f"{self.source} {self.version}"

    def check(self) -> None:
        find_label(["share", "none"], self.label or "share", self.source)

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self.calls.append("score")
        shares = [text.count(self.letter) / max(1, len(text)) for text in texts]
        return [{"share": share, "none": 1.0 - share} for share in shares]

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scorers.KINDS, "letters", Letters)
    monkeypatch.setattr(Letters, "calls", [])


@pytest.fixture
def options(tmp_path: Path, tiny_classifier: Path) -> dict[str, Any]:
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "group"), ("the quick fox", "women"), ("a small town", "asian")])
    return {
        "prompts": str(path), "samples": 3, "max_new_tokens": 6, "device": "cpu", "dtype": "float32",
        "scorer": "letters:e", "scorer_label": "share", "other_scorers": {str(tiny_classifier): "toxic"},
        "neutral": "builtin", "threshold": 0.1,
    }  # fmt: skip


def test_another_kind_of_scorer_judges_an_evaluation(tmp_path: Path, tiny_gpt2: Path, options: dict[str, Any]):
    results = unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options)
    # Continuations of both sets of prompts, and the neutral prompts themselves.
    assert Letters.calls == ["score", "score", "score", "close"]
    rows = read_jsonl(tmp_path / "out" / "generations.jsonl")
    for row in rows:
        text = row["continuation"]
        assert row["toxicity"] == row["scores"]["letters:e"]["share"] == text.count("e") / max(1, len(text))
    pooled = [row for row in results["rows"] if (row["domain"], row["group"], row["form"]) == ("all", None, None)]
    found = {row["metric"]: row["value"] for row in pooled if row["scorer"] is None}
    prompts = [[row["toxicity"] for row in rows if row["prompt_id"] == prompt] for prompt in ("0", "1")]
    assert found["emt"] == pytest.approx(sum(map(max, prompts)) / 2)
    assert found["tp"] == sum(max(scores) >= 0.1 for scores in prompts) / 2
    assert {row["metric"] for row in pooled if row["scorer"]} >= {"agreement", "tp"}
    assert {record["scorer"] for record in results["fairness"]["false_positives"]} == {
        "letters:e", Path(next(iter(options["other_scorers"]))).name
    }  # fmt: skip


def test_what_it_scored_is_kept_until_it_says_that_it_is_another(
    tmp_path: Path, tiny_gpt2: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options)
    Letters.calls.clear()
    unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options | {"threshold": 0.2})
    unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options | {"scorer_label": "none"})
    assert Letters.calls == []
    monkeypatch.setattr(Letters, "version", "2")
    with pytest.raises(UsageError, match="other settings"):
        unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options)
    unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options, fresh=True)
    assert "score" in Letters.calls


def test_a_wrong_label_shows_before_anything_is_done(tmp_path: Path, tiny_gpt2: Path, options: dict[str, Any]):
    with pytest.raises(UsageError, match="letters:e has no label 'toxic'; its labels: share, none"):
        unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options | {"scorer_label": "toxic"})
    assert not (tmp_path / "out").exists()


def test_it_says_what_is_in_texts_and_judges_in_lm_eval(tmp_path: Path):
    texts = tmp_path / "texts.txt"
    texts.write_text("eeee\nabab\nbe\n", encoding="utf-8")
    (found,) = analyze(texts, scorer="letters:e", scorer_label="share", classifiers=["letters:b"])["sets"]
    assert found["toxicity"]["mean"]["value"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["toxicity"]["toxic_fraction"]["value"] == pytest.approx(2 / 3)
    shares = {label: share["value"] for label, share in found["labels"]["letters:b"]["shares"].items()}
    assert shares == {"share": pytest.approx(2 / 3), "none": 1.0}  # 0, 0.5 and 0.5 of "b"; at least 0.5 counts
    doc = {"scorer": "letters:e", "scorer_label": "share", "domain": None}
    assert process_results(doc, [["eeee", "abab"]])["emt"] == 1.0


def test_a_list_of_words_by_hand(tmp_path: Path):
    file = tmp_path / "bad words.txt"
    file.write_text("fox\n\nSmall  Town\nc++\n/rivers?/\n", encoding="utf-8")
    judge = scorers.open_scorer(f"words:{file}", "toxic", LoadOptions())
    judge.check()
    expected = {
        "The FOX.": 1, "foxes": 0, "a small\ntown": 1, "smalltown": 0, "small big town": 0, "in C++ only": 1,
        "two Rivers": 1, "Driver": 1, "": 0,
    }  # fmt: skip
    assert judge.score(list(expected)) == [{"toxic": float(score)} for score in expected.values()]
    before = judge.fingerprint
    file.write_text("dog\n", encoding="utf-8")
    again = scorers.open_scorer(f"words:{file}", None, LoadOptions())
    assert again.fingerprint != before
    assert again.score(["a fox", "a dog"]) == [{"toxic": 0.0}, {"toxic": 1.0}]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no word list"), (" \n", "is empty"), ("dog\n/(/\n", "line 2 of .* is no pattern")],
)
def test_a_list_of_words_that_cannot_be_used(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "w.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UniDetoxError, match=message):
        scorers.open_scorer(f"words:{tmp_path / 'w.txt'}", None, LoadOptions()).check()


def test_words_judge_an_evaluation(tmp_path: Path, tiny_gpt2: Path, options: dict[str, Any], monkeypatch):
    (tmp_path / "list.txt").write_text("the\n/[aeiou]{2}/\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    changes = {"scorer": "words:list.txt", "scorer_label": "toxic", "other_scorers": {}}
    unidetox.evaluate(tiny_gpt2, output=tmp_path / "out", **options | changes)
    for row in read_jsonl(tmp_path / "out" / "generations.jsonl"):
        found = re.search(r"(?<!\w)the(?!\w)|[aeiou]{2}", row["continuation"], re.IGNORECASE)
        assert row["toxicity"] == float(found is not None)


def test_another_package_adds_a_kind(monkeypatch: pytest.MonkeyPatch):
    class Points:
        name = "capitals"

        def load(self) -> type[Scorer]:
            return Letters

    monkeypatch.setattr(scorers, "entry_points", lambda group, name: [Points()] if name == "capitals" else [])
    assert isinstance(scorers.open_scorer("capitals:A", None, LoadOptions()), Letters)
    assert scorers.kind_of("some/classifier") is scorers.kind_of("C:/folder") is None


def test_the_table_of_known_scorers_is_whole():
    known = known_scorers()
    assert len({entry.repository for entry in known.values()}) == len(known)
    for entry in known.values():
        assert entry.activation in ("sigmoid", "softmax", "none")
        assert entry.labels
        assert set(entry.trained_on) <= {"dghs", "jigsaw", "toxigen"}


def test_a_scorer_is_known_by_name_and_by_repository():
    by_name = scorers.open_scorer("toxigen-roberta@v1", "toxic", LoadOptions())
    assert isinstance(by_name, ClassifierScorer)
    assert (by_name.source, by_name.tokenizer, by_name.activation) == (
        "tomh/toxigen_roberta@v1",
        "roberta-large",
        "softmax",
    )
    assert known_scorer("tomh/toxigen_roberta") == known_scorer("toxigen-roberta")
    assert known_scorer("some/classifier") is None
    assert by_name.toxicity({"LABEL_0": 0.25, "LABEL_1": 0.75}) == 0.75
    with pytest.raises(UsageError, match="has no label 'hate'"):
        scorers.open_scorer("toxigen-roberta", "hate", LoadOptions()).toxicity({"LABEL_0": 0.25, "LABEL_1": 0.75})


def test_activation_and_tokenizer_can_be_said(tmp_path: Path, toxic_bert: Path):
    bare = tmp_path / "bare"
    shutil.copytree(toxic_bert, bare, ignore=shutil.ignore_patterns("tokenizer*", "special_tokens*"))
    settings = Evaluate(
        scorer=str(bare), scorer_label="insult", scorer_activation="softmax", scorer_tokenizer=str(toxic_bert)
    )
    (judge,) = scorers.scorers_of(settings, LoadOptions("cpu"))
    judge.check()
    (found,) = judge.score(["the quick fox"])
    plain = load_classifier(toxic_bert, LoadOptions("cpu", "float32"))
    with torch.no_grad():
        ids = plain.tokenizer("the quick fox", return_tensors="pt")["input_ids"]
        expected = plain.model(input_ids=ids).logits.softmax(-1)[0].tolist()
    assert list(found.values()) == pytest.approx(expected, abs=1e-5)
    assert judge.fingerprint != scorers.open_scorer(str(bare), None, LoadOptions()).fingerprint
    with pytest.raises(UsageError, match="no activation"):
        scorers.open_scorer("letters:e", None, LoadOptions(), activation="none")


def test_warnings_of_scorers_that_know_the_data():
    def warned(corpus: str = "own.csv", **settings: Any) -> list[str]:
        return contamination(Evaluate(**settings), corpus)

    assert warned(scorer="toxigen-roberta", prompts="my/prompts.csv") == []
    assert "ToxiGen" in warned(scorer="toxigen-roberta")[0]
    assert "ToxiGen" in warned(scorer="tomh/toxigen_hatebert", prompts="data/toxigen_test.csv")[0]
    assert warned(scorer="toxic-bert", corpus="dghs") == []
    assert "DGHS" in warned(scorer="toxic-bert", other_scorers={"dynabench-roberta": "hate"}, corpus="dghs")[0]
