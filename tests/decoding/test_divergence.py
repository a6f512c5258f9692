"""KL divergence against a direct computation, for plain models, mixtures and prefixes."""

from __future__ import annotations

import math

import pytest
import torch

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.decoding.divergence import kl_divergence
from unidetox.decoding.sources import contrast, dexperts
from unidetox.models import LoadOptions, load_lm

TEXTS = [[0, 5, 6, 7, 8], [0, 9], [0, 4, 4, 4, 30, 31, 32, 200, 201], [0]]


@pytest.fixture(scope="module")
def pair(tiny_models):
    return [load_lm(str(tiny_models[name]), LoadOptions("cpu", "float32")).model for name in ("gpt2", "gpt2_toxic")]


def log_probs(model, text):
    with torch.inference_mode():
        return model(torch.tensor([text])).logits[0].double().log_softmax(-1)


def directly(ours, theirs):
    return (ours.exp() * (ours - theirs)).sum(-1)


@pytest.mark.parametrize("batch_size", ["auto", 1, 2])
def test_divergences_equal_a_direct_computation(pair, batch_size):
    found = dict(kl_divergence(*pair, TEXTS, batch_size=batch_size))
    assert sorted(found) == [0, 1, 2, 3]
    for index, text in enumerate(TEXTS):
        expected = directly(*(log_probs(model, text)[:-1] for model in pair))
        assert found[index].dtype == torch.float32
        assert found[index].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert found[0].min() > 0.1


def test_a_model_does_not_diverge_from_itself_and_sides_matter(pair):
    assert all(values.eq(0).all() for _, values in kl_divergence(pair[0], pair[0], TEXTS))
    forward, backward = (dict(kl_divergence(*sides, TEXTS))[2] for sides in (pair, pair[::-1]))
    assert not torch.allclose(forward, backward, rtol=0.01)


def test_a_mixture_is_compared_as_it_speaks(pair):
    base, toxic = pair
    found = dict(kl_divergence(dexperts(base, toxic, alpha=0.5), base, TEXTS[:1]))[0]
    first, second = (log_probs(model, TEXTS[0])[:-1] for model in pair)
    mixed = (1.5 * first - 0.5 * second).log_softmax(-1)
    assert found.tolist() == pytest.approx(directly(mixed, first).tolist(), abs=1e-4)
    # A rule that strikes tokens out diverges by what is left: at alpha 1 all mass on the base's favourite.
    found = dict(kl_divergence(contrast(base, toxic, alpha=1.0), base, TEXTS[:1]))[0]
    assert found.tolist() == pytest.approx((-first.amax(-1)).tolist(), abs=1e-4)
    [(_, apart)] = kl_divergence(base, contrast(base, toxic, alpha=1.0), TEXTS[:1])
    assert apart.tolist() == [math.inf] * 4


def test_a_source_may_be_given_more_before_the_text(pair):
    prefixed = [[0, 77, 78, *text[1:]] for text in TEXTS[:3]]
    found = dict(kl_divergence(pair[0], pair[0], TEXTS[:3], source_sequences=prefixed))
    for index, (text, longer) in enumerate(zip(TEXTS, prefixed, strict=False)):
        ours, theirs = log_probs(pair[0], longer)[2:-1], log_probs(pair[0], text)[:-1]
        assert found[index].tolist() == pytest.approx(directly(ours, theirs).tolist(), abs=1e-4)


def test_memory_that_runs_out_halves_the_batch(pair, monkeypatch):
    from unidetox.decoding import divergence

    plain, sizes = dict(kl_divergence(*pair, TEXTS)), []
    measure = divergence._Meter.measure

    def greedy(self, batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return measure(self, batch)

    monkeypatch.setattr(divergence._Meter, "measure", greedy)
    halved = dict(kl_divergence(*pair, TEXTS))
    assert max(sizes) == 3 and all(torch.allclose(halved[i], plain[i], atol=1e-5) for i in plain)
    monkeypatch.setattr(divergence._Meter, "measure", lambda self, batch: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UniDetoxError, match="memory ran out"):
        list(kl_divergence(*pair, TEXTS))


def test_what_cannot_be_compared(pair, tiny_models):
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=1, n_positions=64)).eval()
    with pytest.raises(UsageError, match="different vocabularies"):
        list(kl_divergence(pair[0], other, TEXTS))
    with pytest.raises(UsageError, match="text 0 has no tokens"):
        list(kl_divergence(*pair, [[]]))
    with torch.no_grad():
        other.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UniDetoxError, match="not numbers"):
        list(kl_divergence(other, other, TEXTS))
