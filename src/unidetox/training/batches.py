"""Batches of texts of like length, in an order that only the seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

# Texts are sorted by length within so many batches of the shuffled order: little padding, much chance.
_POOL = 16
Batch = dict[str, torch.Tensor]


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of row numbers; each row once an epoch, rows of like length together, batches in random order.

    The order depends on seed and epoch alone, so that a resumed run sees the batches that an undisturbed one sees.

    Args:
        lengths: Length of each row.
        batch_size: Rows a batch; the last one made may have fewer.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        batches: list[list[int]] = []
        for start in range(0, len(order), _POOL * self.batch_size):
            pool = order[start : start + _POOL * self.batch_size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + self.batch_size].tolist() for i in range(0, len(pool), self.batch_size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]

    def tokens_in(self, steps: int) -> int:
        """Tokens that are learnt (all but the first of a row) in the first so many batches of training."""
        full, rest = divmod(steps, len(self))
        self.set_epoch(full)
        partial = [self.lengths[batch].sum() - len(batch) for _, batch in zip(range(rest), self, strict=False)]
        self.set_epoch(0)
        return full * int(self.lengths.sum() - len(self.lengths)) + int(sum(partial))


class TextLoader(DataLoader[Batch]):
    """A loader that passes the epoch on to its batches."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def collate(rows: Sequence[Sequence[int] | torch.Tensor], pad: int = 0) -> Batch:
    """Pad rows on the right to the longest of them.

    Args:
        rows: Token ids.
        pad: Token to fill with. It may be one that also stands in texts: labels go by length, not by token.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (-100 where there is no text), each ``[rows, longest]``.
    """
    tensors = [torch.as_tensor(row) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=pad)
    real = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~real, -100)}


def count_supervised(batch: Batch) -> int:
    """Tokens of a batch that the loss is taken over: all real ones but the first of each row."""
    return int(batch["labels"][:, 1:].ne(-100).sum())


def split_batch(batch: Batch, micro_tokens: int) -> list[Batch]:
    """Split a batch into parts of like length with at most so many tokens each, padding included.

    A part holds at least one row. Training on the parts, each loss divided by the whole batch's count, gives the
    gradient of the whole.
    """
    lengths = batch["attention_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    parts = []
    while len(order):
        width = int(lengths[order[0]])
        rows, order = order[: max(1, micro_tokens // width)], order[max(1, micro_tokens // width) :]
        parts.append({key: value[rows, :width] for key, value in batch.items()})
    return parts
