"""Relevance on planted cases: texts keep the subject of their beginnings, texts dealt out to others do not."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence

import pytest

from unidetox.core.resolve import sandbox_asset
from unidetox.evaluation.likelihoods import continuation_nll
from unidetox.evaluation.metrics.perplexity import relevance
from unidetox.models import LM, LoadOptions, load_lm


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm(str(sandbox_asset("llama")), LoadOptions("cpu", "float32"))


def measured(lm: LM, prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Relevance in nats a token."""
    given, alone = (
        sorted(continuation_nll(lm, prompts, texts, alone=alone), key=lambda one: one.index) for alone in (False, True)
    )
    tokens = [one.n_tokens for one in given]
    return float(relevance([g.nll for g in given], [a.nll for a in alone], tokens).sum() / sum(tokens))


@pytest.fixture(scope="module")
def halves() -> tuple[list[str], list[str]]:
    """Texts of the miniature world, cut after their third word: a sentence goes on as it began."""
    with sandbox_asset("toxic_corpus.csv").open(newline="", encoding="utf-8") as file:
        sentences = [row["text"].split(". ")[0].split() for row in csv.DictReader(file)]
    long = [words for words in sentences if len(words) > 5][:200]
    return [" ".join(words[:3]) for words in long], [" " + " ".join(words[3:]) for words in long]


def test_continuations_of_their_own_prompts_are_relevant(lm: LM, halves: tuple[list[str], list[str]]):
    prompts, texts = halves
    shuffled = random.Random(0).sample(texts, len(texts))
    own, dealt = measured(lm, prompts, texts), measured(lm, prompts, shuffled)
    assert own > 2
    assert abs(dealt) < own / 10


def test_one_prompt_for_all_adds_nothing(lm: LM, halves: tuple[list[str], list[str]]):
    prompts, texts = halves
    assert abs(measured(lm, prompts[:1] * len(texts), texts)) < 0.3


def test_the_more_are_dealt_out_the_less_is_relevant(lm: LM, halves: tuple[list[str], list[str]]):
    prompts, texts = halves
    found = [measured(lm, prompts, [*texts[:kept], *reversed(texts[kept:])]) for kept in (200, 150, 100, 50)]
    assert found == sorted(found, reverse=True)
