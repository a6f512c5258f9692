"""Many families of models: greedy decoding and likelihoods equal what plain transformers give."""

import logging
from typing import Any

import pytest
import torch
from decoding_zoo import BEYOND, CONFIGS, WITHOUT_CACHE, build, plain_logits, prompts, zoo

from unidetox.decoding import SamplingSettings, lm, loglikelihood, sample
from unidetox.decoding.decoders import CachedDecoder, RecomputeDecoder
from unidetox.decoding.ways import backbone, make_decoder, support

HEADS = prompts(4, longest=14, seed=6)


@pytest.mark.parametrize("name", CONFIGS)
def test_top_1_equals_greedy_generate(name: str) -> None:
    model = zoo(name)
    settings = SamplingSettings(10, top_k=1, eos_token_ids=(0,))
    rows = [row for batch in sample(lm(model), HEADS, 1, settings) for row in batch]
    assert len(rows) == len(HEADS)
    for row in rows:
        head = torch.tensor([HEADS[row.prompt_index]])
        with torch.inference_mode():
            whole = model.generate(
                head, attention_mask=torch.ones_like(head), do_sample=False, max_new_tokens=10, use_cache=False
            )
        theirs = whole[0, head.shape[1] :].tolist()
        theirs = theirs[: theirs.index(0)] if 0 in theirs else theirs
        assert row.token_ids == theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_loglikelihood_equals_a_plain_forward(name: str) -> None:
    model = zoo(name)
    shared = prompts(1, seed=8)[0] * 20
    contexts = [*HEADS, *[shared[:20] + head for head in HEADS[:3]], HEADS[0]]
    continuations = prompts(len(contexts), longest=7, seed=5)
    found = dict(loglikelihood(model, contexts, continuations))
    assert sorted(found) == list(range(len(contexts)))
    for index, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        logits = plain_logits(model, context + continuation).log_softmax(-1)[len(context) - 1 : -1]
        exact = logits.gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert torch.allclose(found[index], exact, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_right_decoder_is_chosen(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(CONFIGS[name]())
    with caplog.at_level(logging.WARNING):
        decoders = [make_decoder(model, 8, 32) for _ in range(3)]
    said = [record for record in caplog.records if "slow" in record.message and record.name.startswith("unidetox")]
    if name in WITHOUT_CACHE:
        assert all(isinstance(decoder, RecomputeDecoder) for decoder in decoders)
        assert len(said) == 1, "said once"
    else:
        assert all(isinstance(decoder, CachedDecoder) for decoder in decoders)
        assert not said


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_texts_far_beyond_a_window_and_from_states(name: str) -> None:
    """40 tokens where layers see 8 back, or keep a state: those of plain forward passes, whatever the batch."""
    model = zoo(name)
    found = [
        sorted(
            (row.prompt_index, row.token_ids)
            for rows in sample(lm(model), HEADS, 1, SamplingSettings(40, top_k=1), batch_size=size)
            for row in rows
        )
        for size in (1, 3, "auto")
    ]
    assert found[0] == found[1] == found[2]
    for index, tokens in found[0]:
        assert len(tokens) == 40
        logits = plain_logits(model, HEADS[index] + tokens)[len(HEADS[index]) - 1 : -1]
        assert tokens == logits.argmax(-1).tolist()


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_random_texts_equal_those_that_are_recomputed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, drawn from logits of whole texts read again: the same tokens; rows end and move meanwhile."""
    settings = SamplingSettings(20, eos_token_ids=tuple(range(0, 160, 16)))

    def texts() -> list[tuple[int, int, list[int]]]:
        rows = (row for rows in sample(lm(zoo(name)), HEADS, 6, settings, batch_size=16) for row in rows)
        return sorted((row.prompt_index, row.sample_index, row.token_ids) for row in rows)

    cached = texts()
    assert len({len(tokens) for _, _, tokens in cached}) > 4
    monkeypatch.setattr(
        "unidetox.decoding.sampling.make_decoder",
        lambda model, slots, capacity, exact: RecomputeDecoder(model, slots, capacity, support(model), exact),
    )
    assert cached == texts()


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_neo"])
def test_a_window_shorter_than_the_text(name: str) -> None:
    """These see 64 tokens back."""
    model, head = zoo(name), prompts(1, seed=7)[0] * 80
    (row,) = next(sample(lm(model), [head[:75]], 1, SamplingSettings(5, top_k=1)))
    expected = list(head[:75])
    for _ in range(5):
        expected.append(int(plain_logits(model, expected)[-1].argmax()))
    assert row.token_ids == expected[75:]


def test_transformers_stays_silent(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """A pad token among our padding is no reason to warn a user."""
    for name in ("gpt2", "gptj", "opt", "falcon_alibi"):
        list(sample(lm(build(CONFIGS[name]())), HEADS, 2, SamplingSettings(3)))
    assert "attention_mask" not in caplog.text + capsys.readouterr().err


def test_heads_are_applied_apart() -> None:
    """Logits only where they are needed, also where they are capped or scaled."""
    assert all(backbone(zoo(name)).has_head for name in CONFIGS)


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError])
def test_a_model_that_does_not_name_its_head(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    model = build(CONFIGS["gpt2"]())
    expected = [row.token_ids for rows in sample(lm(model), HEADS, 1, SamplingSettings(4)) for row in rows]

    def unnamed() -> None:
        raise error

    nameless = build(CONFIGS["gpt2"]())
    monkeypatch.setattr(nameless, "get_output_embeddings", unnamed)
    assert not backbone(nameless, exact=True).has_head
    assert [r.token_ids for rows in sample(lm(nameless), HEADS, 1, SamplingSettings(4)) for r in rows] == expected


def test_a_head_that_we_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(CONFIGS["gpt2"]())
    original = model.forward

    def forward(*args: Any, position_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = original(*args, position_ids=position_ids, past_key_values=past_key_values, **kwargs)
        output.logits = output.logits.sin()
        return output

    monkeypatch.setattr(model, "forward", forward)
    assert not backbone(model).has_head
    row = next(sample(lm(model), HEADS[:1], 1, SamplingSettings(4, top_k=1)))[0]
    text = list(HEADS[0])
    for token in row.token_ids:
        assert int(plain_logits(model, text)[-1].argmax()) == token
        text.append(token)
    (found,) = dict(loglikelihood(model, HEADS[:1], [row.token_ids])).values()
    exact = plain_logits(model, text).log_softmax(-1)[len(HEADS[0]) - 1 : -1]
    assert torch.allclose(found, exact.gather(1, torch.tensor(row.token_ids)[:, None])[:, 0], atol=1e-4)
