"""A row's logits are the same to the last bit whatever shares its batch (float32, CPU)."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from decoding_zoo import BEYOND, VOCAB, gpt2, prompts, zoo

from unidetox.decoding.decoders import CachedDecoder
from unidetox.decoding.ways import support

EXPERTS = {"gpt_oss", "jamba", "qwen3_next"}  # how many rows an expert gets depends on the batch, and so do last bits
OTHERS = ["llama", "opt", "falcon_rotary", "falcon_alibi", "bloom", "gemma2"]
HEADS = prompts(70, longest=40, seed=9)
STEPS = 3


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Two threads are slow where other work keeps the second core busy, so most such cases are left for `-m slow`.
both = pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)], indirect=True)


def decode(model: Any, rows: list[int], capacity: int = 60) -> torch.Tensor:
    """Logits ``[rows, steps + 1, vocabulary]`` after each prompt and after each of the tokens forced upon it."""
    decoder = CachedDecoder(model, len(rows), capacity, support(model))
    logits, positions = [], torch.tensor([len(HEADS[row]) for row in rows])
    by_width: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        by_width.setdefault(-(-len(HEADS[row]) // 8), []).append(place)
    first: list[Any] = [None] * len(rows)
    for places in by_width.values():
        after, prefixes = decoder.prefill([HEADS[rows[place]] for place in places])
        for place, vector, prefix in zip(places, decoder.logits(after).clone(), prefixes, strict=True):
            first[place] = vector
            decoder.place(prefix, torch.tensor([place]))
    logits.append(torch.stack(first))
    for step in range(STEPS):
        tokens = torch.tensor([(7 * row + 3 * step) % VOCAB for row in rows])
        logits.append(decoder.logits(decoder.step(tokens, positions + step)).clone())
    return torch.stack(logits, 1)


def check(model: Any, sizes: tuple[int, ...]) -> None:
    everything = decode(model, list(range(70)))
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        rows = torch.randperm(70, generator=generator)[:size].tolist()
        assert torch.equal(decode(model, rows, capacity=50), everything[rows])


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_a_small_gpt2(threads: int) -> None:
    check(gpt2(0, 64, VOCAB, 2, 0.1), (1, 13))


@both
@pytest.mark.parametrize("width", [128, 256])
def test_gpt2_of_several_widths(width: int, threads: int) -> None:
    check(gpt2(0, width, VOCAB, 2, 0.1), (2, 7, 40))


@both
@pytest.mark.parametrize(
    "name", ["llama", "opt", "falcon_rotary", "falcon_alibi", "bloom", "gemma2", *sorted(BEYOND - EXPERTS)]
)
def test_other_architectures(name: str, threads: int) -> None:
    check(zoo(name), (1, 9))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_gpt2_small_sized(threads: int) -> None:
    check(gpt2(0, 768, 5000, 2, 0.02), (1, 2, 7, 13, 40))


@both
def test_short_rows_alone_and_beside_long_ones(threads: int) -> None:
    """All rows at the same length, where nothing is masked, against rows of many lengths."""
    model = gpt2(0, 64, VOCAB, 2, 0.1)
    everything = decode(model, list(range(70)))
    for length in {len(head) for head in HEADS[:10]}:
        rows = [row for row, head in enumerate(HEADS) if len(head) == length]
        assert torch.equal(decode(model, rows), everything[rows])
