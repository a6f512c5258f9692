"""The real data sets of the paper, as far as they lie beside the project."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from unidetox import data

pytestmark = pytest.mark.real_data


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_filtered_corpus_loads_whole(shared):
    corpus = data.load_toxic_corpus(str(shared / "data" / "dghs_hate.csv"))
    assert len(corpus.texts) == 12_575
    assert corpus.dropped == {}
    assert {text.finish_reason for text in corpus.texts} == {"eos"}


def test_our_targets_are_those_of_the_filtered_corpus(shared):
    named = {row["target"] for row in rows_of(shared / "data" / "dghs_hate.csv")} - {""}
    assert named == set(data.DGHS_TARGETS)


def test_dev_and_test_are_filtered_by_label_and_target(shared):
    path = shared / "data" / "dghs_dev_test.csv"
    corpus = data.load_toxic_corpus(str(path), duplicates=True)
    expected = [r for r in rows_of(path) if r["label"] == "hate" and r["target"] in data.DGHS_TARGETS]
    assert [text.text for text in corpus.texts] == [row["text"] for row in expected]
    assert corpus.dropped["not_hate"] == 3_208
    assert sum(corpus.dropped.values()) + len(corpus.texts) == 7_077


def test_the_published_texts_load(shared):
    texts = data.read_texts(str(shared / "data" / "unidetox_published_texts.csv"))
    assert len(texts.texts) == 640
    assert {text.finish_reason for text in texts.texts} == {None}
    assert sum("\n" in text.text for text in texts.texts) == 608


def test_toxigen_validation(shared):
    path = shared / "data" / "toxigen_annotated_train.csv"
    validation = data.load_prompts(str(path))
    assert len(validation.prompts) == 896
    everything = data.load_prompts(str(path), split="all")
    assert len(everything.prompts) == 8_960
    assert everything.unmapped_groups == {}
    assert set(validation.prompts) < set(everything.prompts)
    rows = rows_of(path)
    published = {"gender_lgbtq": "gender", "race_nationalities": "race"}
    for prompt in everything.prompts:
        row = rows[int(prompt.prompt_id)]
        assert (prompt.text, prompt.group) == (row["text"], row["target_group"])
        assert prompt.domain == published.get(row["unidetox_category"], row["unidetox_category"])


def test_hatecheck_groups_have_domains(shared):
    groups = {row["target_ident"] for row in rows_of(shared / "data" / "hatecheck.csv")} - {""}
    assert Counter(data.domain_of(group) for group in groups)[None] == 0


def test_mmlu(shared):
    questions = data.load_questions(str(shared / "data" / "mmlu"))
    assert len(questions.questions) == 1_531
    assert sum(map(len, questions.dev.values())) == 285
    assert len({q.subject for q in questions.questions}) == len(questions.dev) == 57
    assert all(len(q.choices) == 4 and 0 <= q.answer < 4 for q in questions.questions)
