"""The contrast rule, and that every model of a source has a cache of its own (audit rows 1, 3 and 8)."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from decoding_zoo import VOCAB, gpt2, plain_logits, prompts, zoo

from unidetox.core.errors import UsageError
from unidetox.decoding import LogitSource, SamplingSettings, contrast, contrast_scores, lm, sample
from unidetox.decoding.ways import make_decoder


def random_logits(rows: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base, toxic = 3 * torch.randn(2, rows, VOCAB, generator=generator)
    return base, toxic


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 0.99])
def test_mask_is_the_plausible_set(alpha: float) -> None:
    base, toxic = random_logits()
    probabilities = base.softmax(-1)
    kept = contrast_scores(base, toxic, alpha=alpha).isfinite()
    assert torch.equal(kept, probabilities >= alpha * probabilities.amax(-1, keepdim=True))


def test_infinite_beta_is_base_minus_toxic() -> None:
    base, toxic = random_logits()
    scores = contrast_scores(base, toxic, alpha=0.1)
    kept = scores.isfinite()
    assert torch.equal(scores[kept], (base - toxic)[kept])


@pytest.mark.parametrize("beta", [0.5, 1.0, 20.0])
def test_finite_beta(beta: float) -> None:
    base, toxic = random_logits()
    scores = contrast_scores(base, toxic, alpha=0.1, beta=beta)
    kept = scores.isfinite()
    assert torch.allclose(scores[kept], ((1 + beta) * base - beta * toxic)[kept])


def test_finite_beta_tends_to_the_limit() -> None:
    """Scaled by 1 / beta, so that both are on one scale, the finite rule becomes ``base - toxic``."""
    base, toxic = random_logits()
    finite = contrast_scores(base.double().float(), toxic, alpha=0.1, beta=1e4) / 1e4
    infinite = contrast_scores(base, toxic, alpha=0.1)
    assert torch.allclose(finite.softmax(-1), infinite.softmax(-1), atol=1e-3)


def test_equal_models_are_uniform_over_the_plausible_set() -> None:
    base, _ = random_logits()
    probabilities = contrast_scores(base, base.clone(), alpha=0.1).softmax(-1)
    kept = base.softmax(-1) >= 0.1 * base.softmax(-1).amax(-1, keepdim=True)
    assert torch.allclose(probabilities, kept / kept.sum(-1, keepdim=True))


def test_alpha_one_keeps_the_best_token_only() -> None:
    base, toxic = random_logits()
    kept = contrast_scores(base, toxic, alpha=1.0).isfinite()
    assert kept.sum(-1).eq(1).all()
    assert torch.equal(kept.int().argmax(-1), base.argmax(-1))


def test_bfloat16_logits_are_contrasted_in_float32() -> None:
    base, toxic = random_logits()
    base, toxic = base.bfloat16() + 40, toxic.bfloat16()
    scores = contrast_scores(base, toxic, alpha=0.1)
    kept = scores.isfinite()
    assert scores.dtype == torch.float32
    assert torch.equal(scores[kept], (base.float() - toxic.float())[kept])


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.0, 1.0), (-0.1, 1.0), (1.1, 1.0), (math.nan, 1.0), (0.1, 0.0), (0.1, -1.0), (0.1, math.nan)]
)
def test_bad_settings(alpha: float, beta: float) -> None:
    with pytest.raises(UsageError, match=r"alpha is|beta is"):
        contrast(gpt2(0), gpt2(1), alpha=alpha, beta=beta)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon_alibi", "mamba"])
def test_cached_steps_equal_one_uncached_forward(name: str) -> None:
    """Two different models, ragged prompts, six forced tokens: log-probabilities agree to 1e-4 (check d)."""
    base, toxic = zoo(name, 0), zoo(name, 1)
    source = contrast(base, toxic, alpha=0.05)
    heads, tails = prompts(5, longest=20, seed=1), prompts(5, longest=6, seed=2)
    tails = [(tail * 6)[:6] for tail in tails]
    decoders = [make_decoder(model, 5, 32) for model in source.models]
    read = [decoder.prefill(heads) for decoder in decoders]
    for decoder, (_, prefixes) in zip(decoders, read, strict=True):
        for slot, prefix in enumerate(prefixes):
            decoder.place(prefix, torch.tensor([slot]))
    steps = [source.mix([d.logits(v) for d, (v, _) in zip(decoders, read, strict=True)])]
    positions = torch.tensor([len(head) for head in heads])
    for column in range(6):
        tokens = torch.tensor([tail[column] for tail in tails])
        steps.append(source.mix([d.logits(d.step(tokens, positions + column)) for d in decoders]))
    ours = torch.stack(steps, 1).log_softmax(-1)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        logits = [plain_logits(model, head + tail)[len(head) - 1 :] for model in (base, toxic)]
        exact = contrast_scores(logits[0], logits[1], alpha=0.05).log_softmax(-1)
        assert torch.equal(ours[row].isfinite(), exact.isfinite())
        kept = exact.isfinite()
        assert (ours[row][kept] - exact[kept]).abs().max() < 1e-4


def test_plain_source_is_the_model() -> None:
    base, _ = random_logits()
    assert torch.equal(lm(gpt2()).mix([base.bfloat16()]), base.bfloat16().float())


def test_logits_that_are_mixed_are_not_rounded_to_bfloat16() -> None:
    """Both heads run in float32 on bfloat16 models: the contrast has steps finer than bfloat16 can show."""
    models = tuple(copy.deepcopy(gpt2(seed)).bfloat16() for seed in (0, 1))
    seen: list[torch.Tensor] = []

    def mix(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        seen.extend(logits)
        return logits[0] - logits[1]

    list(sample(LogitSource(models, mix), [[5, 6, 7]], 8, SamplingSettings(max_new_tokens=3)))
    assert seen
    for logits in seen:
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())
