"""How far one model's next-token distributions are from another's, over the whole vocabulary at each place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from unidetox.core.errors import UsageError
from unidetox.decoding.decoders import Backbone, backbone
from unidetox.decoding.drawing import not_numbers
from unidetox.decoding.likelihood import HEAD_BYTES, MAX_TOKENS
from unidetox.decoding.memory import in_halves
from unidetox.decoding.sequences import check_sequences
from unidetox.decoding.sources import LogitSource, lm

_Batch = list[int]


def kl_divergence(
    source: LogitSource | Any,
    base: LogitSource | Any,
    sequences: Sequence[Sequence[int]],
    *,
    source_sequences: Sequence[Sequence[int]] | None = None,
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Measure KL(source || base) wherever a token of some fixed texts is to be predicted.

    Both are in memory at once, and of the logits at each place only the divergence is kept.

    Args:
        source: The model whose distributions are compared (weights the sum), or models and the rule that mixes them. A
            rule that filters before it samples is taken without its filter.
        base: What it is compared with, of the same vocabulary.
        sequences: Token ids of each text, two or more each, the first of them given (BOS).
        source_sequences: What the source reads instead, where it is given more before the text (a safety prompt); each
            ends as its sequence does.
        batch_size: Texts side by side, or ``auto``; halved when memory runs out.

    Yields:
        (index, divergences in nats, float32 ``[len(sequence) - 1]``), in no particular order.

    Raises:
        UsageError: For texts too long or not of the vocabulary, or models with different vocabularies.
        UniDetoxError: Where a single text does not fit into memory, or the logits are not numbers.

    Reference:
        Kullback and Leibler 1951, On Information and Sufficiency.
    """
    sides = [side if isinstance(side, LogitSource) else lm(side) for side in (source, base)]
    read = [source_sequences or sequences, sequences]
    for side, texts in zip(sides, read, strict=True):
        check_sequences(side.models, texts, 0, "text")
    meter = _Meter(sides, read)
    order = sorted((i for i, text in enumerate(sequences) if len(text) > 1), key=lambda i: len(read[0][i]))
    todo = _batches(order, [len(text) for text in read[0]], batch_size, meter.token_budget)
    for batch, measured in in_halves(todo, lambda batch: (batch, meter.measure(batch)), _halves):
        if any(bool(values.isnan().any()) for values in measured):
            raise not_numbers()
        yield from zip(batch, measured, strict=True)
    yield from ((i, torch.zeros(0)) for i, text in enumerate(sequences) if len(text) < 2)


def _batches(
    order: list[int], lengths: list[int], batch_size: int | Literal["auto"], token_budget: int
) -> list[_Batch]:
    """Cut texts, the shortest first, into batches of at most so many texts and tokens, padding included."""
    rows = len(order) if batch_size == "auto" else max(1, batch_size)
    batches: list[_Batch] = []
    for index in order:
        full = not batches or len(batches[-1]) >= rows or lengths[index] * (len(batches[-1]) + 1) > token_budget
        if full:
            batches.append([])
        batches[-1].append(index)
    return batches


def _halves(batch: _Batch) -> list[_Batch]:
    middle = len(batch) // 2
    return [part for part in (batch[:middle], batch[middle:]) if part]


class _Meter:
    """Compares two sources on texts.

    Args:
        sides: The source and its base.
        read: What each of them reads.
    """

    def __init__(self, sides: Sequence[LogitSource], read: Sequence[Sequence[Sequence[int]]]) -> None:
        self.sides, self.read = sides, read
        # What two models differ by must not drown in the rounding of their logits.
        self.readers = [[backbone(model, exact=True) for model in side.models] for side in sides]

    @property
    def token_budget(self) -> int:
        """How many tokens go through a model at once."""
        return MAX_TOKENS.get(self.readers[0][0].device.type, 4096)

    @torch.inference_mode()
    def measure(self, batch: _Batch) -> list[torch.Tensor]:
        """Return the divergences of some texts."""
        counts = [len(self.read[1][i]) - 1 for i in batch]
        hidden = [
            [_vectors(reader, [texts[i] for i in batch], counts) for reader in readers]
            for readers, texts in zip(self.readers, self.read, strict=True)
        ]
        # Logits of both sides exist for `size` positions at a time, [size, vocabulary].
        size = max(1, HEAD_BYTES // (4 * self.sides[1].models[0].config.get_text_config().vocab_size))
        pieces = [self._compare(hidden, slice(start, start + size)) for start in range(0, sum(counts), size)]
        return list(torch.split(torch.cat(pieces).cpu(), counts))

    def _compare(self, hidden: Sequence[Sequence[torch.Tensor]], part: slice) -> torch.Tensor:
        """Return the divergences float32 ``[positions]`` at some positions."""
        ours, theirs = (
            side.log_prob_scores(
                [reader.logits(vectors[part]) for reader, vectors in zip(readers, states, strict=True)]
            )
            .float()
            .log_softmax(-1)
            for side, readers, states in zip(self.sides, self.readers, hidden, strict=True)
        )
        if ours.shape != theirs.shape:
            raise UsageError(f"the models have different vocabularies: {ours.shape[-1]} and {theirs.shape[-1]} logits")
        # ours, theirs: log-probabilities float32 [positions, vocabulary].
        # A token that the source never writes adds nothing, whatever the base thinks of it.
        terms = torch.where(ours == -torch.inf, 0.0, ours.exp() * (ours - theirs))
        return terms.sum(-1).clamp_min(0.0)


def _vectors(reader: Backbone, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> torch.Tensor:
    """Read texts, padded on the right; return vectors ``[places, hidden]`` where the last ``count`` tokens are due."""
    width = max(len(text) for text in texts)
    ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts], device=reader.device)
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    columns = [len(text) - 1 - count + i for text, count in zip(texts, counts, strict=True) for i in range(count)]
    places = torch.arange(width, device=reader.device)[None].expand_as(ids)
    chosen = (torch.tensor(side, device=reader.device) for side in (rows, columns))
    return reader.select(reader.inputs(ids, places) | {"use_cache": False}, *chosen)
