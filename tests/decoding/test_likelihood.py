"""Likelihoods: what is shared is read once, what is asked for is exact, boundaries stand where the tokens put them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_zoo import build, gpt2, plain_logits, prompts, zoo

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.decoding import encode_pair, loglikelihood, scoring
from unidetox.decoding.backbone import Backbone

SHOTS = prompts(1, longest=1, seed=2)[0] * 3 + list(range(1, 50))
CONTEXTS = [*prompts(6, longest=15), *[[*SHOTS, i, i + 1] for i in range(4)], SHOTS, [1], *[[5, 6, 7]] * 3]
CONTINUATIONS = [[1], [], [2, 3], list(range(10, 40)), [7] * 3, [], *prompts(9, longest=4, seed=3)]


def exact(model: Any, context: list[int], continuation: list[int]) -> torch.Tensor:
    logits = plain_logits(model, context + continuation).log_softmax(-1)[len(context) - 1 : -1]
    return logits.gather(1, torch.tensor(continuation, dtype=torch.long)[:, None])[:, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64, "auto"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_mixed_lengths_and_shared_beginnings(name: str, batch_size: Any) -> None:
    found = dict(loglikelihood(zoo(name), CONTEXTS, CONTINUATIONS, batch_size=batch_size))
    assert sorted(found) == list(range(len(CONTEXTS)))
    for index, (context, continuation) in enumerate(zip(CONTEXTS, CONTINUATIONS, strict=True)):
        assert found[index].shape == (len(continuation),)
        assert found[index].dtype == torch.float32
        assert torch.allclose(found[index], exact(zoo(name), context, continuation), atol=1e-4)


def count_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that go through the model, one entry a pass."""
    seen: list[int] = []
    original = Backbone.select

    def spy(self: Any, inputs: dict[str, Any], *where: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return original(self, inputs, *where)

    monkeypatch.setattr(Backbone, "select", spy)
    return seen


def test_a_few_shot_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [SHOTS + head for head in prompts(10, longest=10, seed=1)]
    contexts = [question for question in questions for _ in range(4)]
    continuations = [[choice] for _ in questions for choice in (3, 4, 5, 6)]
    dict(loglikelihood(gpt2(), [[1]], [[1]]))
    seen = count_tokens(monkeypatch)
    found = dict(loglikelihood(gpt2(), contexts, continuations))
    assert sum(seen) <= len(SHOTS) + 10 * 11
    assert len(seen) == 2
    for index in (0, 17, 39):
        assert torch.allclose(found[index], exact(gpt2(), contexts[index], continuations[index]), atol=1e-4)


def test_continuations_of_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    context, continuations = list(range(1, 31)), [list(range(i, i + 5)) for i in range(1, 26)]
    dict(loglikelihood(gpt2(), [[1]], [[1]]))
    seen = count_tokens(monkeypatch)
    dict(loglikelihood(gpt2(), [context] * 25, continuations))
    assert sum(seen) == 30 + 25 * 4


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    whole = dict(loglikelihood(gpt2(), CONTEXTS, CONTINUATIONS))
    original, failed = scoring.GroupScorer.score, []

    def fragile(self: Any, group: Any) -> Any:
        if sum(len(member.targets) for member in group.members) > 2 and len(failed) < 20:
            failed.append(group)
            raise error("no memory (injected)")
        return original(self, group)

    monkeypatch.setattr(scoring.GroupScorer, "score", fragile)
    squeezed = dict(loglikelihood(gpt2(), CONTEXTS, CONTINUATIONS))
    assert failed
    assert squeezed.keys() == whole.keys()
    assert all(torch.allclose(squeezed[index], whole[index], atol=1e-5) for index in whole)


def test_running_out_of_memory_for_good_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(scoring.GroupScorer, "score", broken)
    with pytest.raises(UniDetoxError, match="memory"):
        dict(loglikelihood(gpt2(), [[1], [2]], [[1], [2]]))


def test_bfloat16_stays_close() -> None:
    model = build(gpt2().config).bfloat16()
    found = dict(loglikelihood(model, CONTEXTS, CONTINUATIONS))
    for index, (context, continuation) in enumerate(zip(CONTEXTS, CONTINUATIONS, strict=True)):
        assert found[index].dtype == torch.float32
        assert torch.allclose(found[index], exact(gpt2(), context, continuation), atol=0.25)


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="context 1 has no tokens"):
        next(loglikelihood(gpt2(), [[1], []], [[1], [1]]))
    with pytest.raises(UsageError, match="96 positions"):
        next(loglikelihood(gpt2(), [[1] * 90], [[1] * 8]))
    assert dict(loglikelihood(gpt2(), [[1] * 90], [[1] * 7]))[0].shape == (7,)
    assert dict(loglikelihood(gpt2(), [], [])) == {}


def test_a_broken_model_is_said() -> None:
    model = build(gpt2().config)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = float("nan")
    with pytest.raises(UniDetoxError, match="not numbers"):
        next(loglikelihood(model, [[1, 2]], [[3]]))


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_gpt2)


CASES = [
    ("the quick brown", " fox jumps"),
    ("the quick brown ", "fox jumps"),  # white space belongs to the word after it
    ("the qui", "ck brown fox"),  # the word is one token, or few: the boundary falls inside
    ("She said", "..."),
    ("the", "n it sleeps"),
    ("a market", ""),
    ("", "the river"),
    ("  ", "the river"),
    ("a\n\n", "b"),
    ("naïve café ☕", " ünïcode 🦊"),
]


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize(("context", "continuation"), CASES)
def test_boundary(tokenizer: Any, context: str, continuation: str, bos: int | None) -> None:
    head, tail = encode_pair(tokenizer, context, continuation, bos)
    if bos is not None:
        assert head[0] == bos
        head = head[1:]
    whole = context + continuation
    assert head + tail == tokenizer(whole, add_special_tokens=False)["input_ids"], "the text as a model meets it"
    assert context.startswith(tokenizer.decode(head)) or not head, "nothing of the continuation is given away"
    alone = tokenizer(context.rstrip(), add_special_tokens=False)["input_ids"] if context.rstrip() else []
    if alone == head + tail[:0] or alone == (head + tail)[: len(alone)]:
        assert len(head) == len(alone), "no more is scored than has to be"


def test_a_token_across_the_boundary_is_scored(tokenizer: Any) -> None:
    whole = tokenizer(" the sea", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(whole[:1]) == " the", "the case is meant to have a longer token"
    assert encode_pair(tokenizer, " t", "he sea", 0) == ([0], whole)
