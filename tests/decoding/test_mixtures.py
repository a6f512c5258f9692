"""Rules over several models, and a beginning that all prompts share: exact against plain passes and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from decoding_zoo import CONFIGS, WITH_STATES, WITHOUT_CACHE, plain_logits, prompts, zoo
from transformers import TopPLogitsWarper

from unidetox.core.errors import UsageError
from unidetox.decoding import (
    LogitSource,
    SamplingSettings,
    contrast_scores,
    dexperts,
    expert_scores,
    lm,
    loglikelihood,
    sample,
)
from unidetox.decoding.sources import outside_nucleus

FAMILIES = ("gpt2", "opt", "falcon_rotary", "falcon_alibi", "llama")
CONTEXTS = prompts(7, longest=9, seed=3)
TARGETS = prompts(7, longest=5, seed=4)


def by_hand(source: LogitSource, context: list[int], target: list[int]) -> torch.Tensor:
    """Log-probabilities from one plain pass of each model over the whole text."""
    logits = [plain_logits(model, context + target)[len(context) - 1 : -1] for model in source.models]
    return source.log_prob_scores(logits).log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]


def scored(source: Any) -> list[torch.Tensor]:
    found = dict(loglikelihood(source, CONTEXTS, TARGETS))
    return [found[i] for i in range(len(CONTEXTS))]


def assert_alike(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_dexperts_with_alpha_zero_is_the_base_model(family: str) -> None:
    base, anti, expert = zoo(family), zoo(family, 1), zoo(family, 2)
    for source in (dexperts(base, anti, alpha=0.0), dexperts(base, anti, expert, alpha=0.0)):
        assert_alike(scored(source), scored(base))


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_under_dexperts_are_those_of_plain_passes(family: str) -> None:
    source = dexperts(zoo(family), zoo(family, 1), zoo(family, 2), alpha=1.5)
    wanted = [by_hand(source, c, t) for c, t in zip(CONTEXTS, TARGETS, strict=True)]
    assert_alike(scored(source), wanted, 1e-4)


def test_likelihoods_of_a_mixture_without_a_known_cache_are_right_too() -> None:
    family = "openai_gpt"
    assert family in WITHOUT_CACHE
    source = dexperts(zoo(family), zoo(family, 1), alpha=0.5)
    wanted = [by_hand(source, c, t) for c, t in zip(CONTEXTS, TARGETS, strict=True)]
    assert_alike(scored(source), wanted, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_anti_only_is_the_contrast_with_finite_beta_and_no_mask(family: str) -> None:
    base, toxic = zoo(family), zoo(family, 1)

    def unmasked(logits: Any) -> torch.Tensor:
        return contrast_scores(logits[0], logits[1], alpha=1e-30, beta=2.0)

    assert_alike(scored(dexperts(base, toxic, alpha=2.0)), scored(LogitSource((base, toxic), unmasked)))


def test_expert_scores_by_hand() -> None:
    base, anti, expert = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]), torch.tensor([2.0, 1.0])
    assert expert_scores(base, anti, expert, alpha=2.0).tolist() == [1 + 2 * 1.5, 2 + 2 * -2.0]
    assert expert_scores(base, anti, alpha=2.0).tolist() == [3 * 1 - 2 * 0.5, 3 * 2 - 2 * 3.0]


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("words", [7, 400, 1500])
def test_the_nucleus_is_that_of_transformers(top_p: float, words: int) -> None:
    logits = (
        torch.randn(20, words, generator=torch.Generator().manual_seed(words)) * torch.linspace(0.1, 6, 20)[:, None]
    )
    wanted = TopPLogitsWarper(top_p)(None, logits.clone()).isinf()
    assert (outside_nucleus(logits, top_p) != wanted).sum() <= 1  # a token whose mass is within rounding of the edge


def test_dexperts_samples_inside_the_nucleus_of_its_base_only() -> None:
    base, anti = zoo("gpt2"), zoo("gpt2", 1)
    source = dexperts(base, anti, alpha=3.0, top_p=0.3)
    settings = SamplingSettings(max_new_tokens=4, seed=5)
    found = [item for batch in sample(source, CONTEXTS, 6, settings) for item in batch]
    assert len(found) == 42
    for item in found:
        text = CONTEXTS[item.prompt_index] + item.token_ids
        logits = plain_logits(base, text)[len(CONTEXTS[item.prompt_index]) - 1 : -1]
        assert not outside_nucleus(logits, 0.3)[torch.arange(len(item.token_ids)), torch.tensor(item.token_ids)].any()


def test_a_rule_says_whether_it_filters() -> None:
    base, anti = zoo("gpt2"), zoo("gpt2", 1)
    assert dexperts(base, anti).filters
    assert not dexperts(base, anti, top_p=1.0).filters
    assert not lm(base).filters
    for wrong in ({"alpha": math.nan}, {"top_p": 0.0}):
        with pytest.raises(UsageError):
            dexperts(base, anti, **wrong)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(family: str, monkeypatch: Any) -> None:
    from unidetox.decoding import decoders

    beginning = [5, 9, 2, 40, 11, 3, 8]
    whole = [beginning + rest for rest in prompts(9, longest=12, seed=6)]
    settings = SamplingSettings(max_new_tokens=5, seed=1)
    read: list[int] = []
    original = decoders.CachedDecoder._read

    def counting(self: Any, texts: Any, *rest: Any) -> Any:
        read.extend(len(text) for text in texts)
        return original(self, texts, *rest)

    monkeypatch.setattr(decoders.CachedDecoder, "_read", counting)
    plain = {(s.prompt_index, s.sample_index): s for b in sample(lm(zoo(family)), whole, 3, settings) for s in b}
    read.clear()
    shared = {(s.prompt_index, s.sample_index): s
              for b in sample(lm(zoo(family)), whole, 3, settings, shared=7) for s in b}  # fmt: skip
    assert shared == plain
    if family in WITH_STATES:
        assert sum(read) == sum(len(text) for text in whole), "a state is not forked half-way"
    elif family not in WITHOUT_CACHE:
        assert sum(read) == 7 + sum(len(text) - 7 for text in whole)


def test_prompts_that_do_not_begin_alike_are_refused() -> None:
    with pytest.raises(UsageError, match="do not share 2 tokens"):
        list(sample(lm(zoo("gpt2")), [[1, 2, 3], [1, 4, 3]], 1, SamplingSettings(max_new_tokens=2), shared=2))
