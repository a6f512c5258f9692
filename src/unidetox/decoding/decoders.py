"""Next-token logits of one model: with a cache of our own, or by recomputing where that is not known to be right."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch

from unidetox.decoding.attention import SMALLEST_PRODUCT, DecodingAttention
from unidetox.decoding.backbone import MAX_TOKENS, ROW_MULTIPLE, Backbone
from unidetox.decoding.cache import Prefix, SlotCache, growing_cache, has_states, memories
from unidetox.decoding.masks import Masks
from unidetox.decoding.memory import free_bytes
from unidetox.decoding.support import Support

LENGTH_MULTIPLE = 16
"""Visible lengths are rounded up to this, so that vectorised sums meet no ragged tail."""


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is not below ``number``."""
    return -(-number // multiple) * multiple


class Decoder(Protocol):
    """One model with room for a number of sequences, each in a slot of its own."""

    def prefill(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> tuple[torch.Tensor, list[Any]]:
        """Read prompts; return a vector after each, ``[prompts, width]``, for `logits`, and what `place` takes.

        The first ``shared`` tokens are the same in all prompts, those of other calls included.
        """

    def place(self, prefix: Any, slots: torch.Tensor) -> None:
        """Start sequences in these slots that all go on from one prompt."""

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy sequences of at most ``length`` tokens from slot to slot."""

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Read one token ``[rows]`` at its position ``[rows]`` in slots 0..rows-1; return ``[rows, width]``."""

    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """Turn vectors ``[rows, width]`` into next-token logits ``[rows, vocabulary]``, a few rows at a time."""


class CachedDecoder:
    """A decoder with the slots of `SlotCache`.

    Args:
        model: A causal LM whose cache is known to be right.
        slots: How many sequences fit.
        capacity: How many tokens of each.
        known: What is right for the model.
        exact: Compute logits in float32.
    """

    def __init__(self, model: Any, slots: int, capacity: int, known: Support, exact: bool = False) -> None:
        self._backbone = Backbone(model, known, exact)
        self._style = known.decode or "none"
        self._masks = Masks(model.config, model.dtype)
        self._slots = round_up(slots, ROW_MULTIPLE)
        self._longest = getattr(model.config.get_text_config(), "max_seq_len", None)  # where MPT's ALiBi ends
        self._shortest = round_up(-(-SMALLEST_PRODUCT // _head_width(model.config)), LENGTH_MULTIPLE)
        self._cache = SlotCache(model.config, self._slots, round_up(capacity, LENGTH_MULTIPLE))
        self._has_states = has_states(model.config)
        self._beginning: Prefix | None = None  # of what all prompts share

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> tuple[torch.Tensor, list[Prefix]]:
        """Read prompts; see `Decoder`. All are padded on the right to one length, a multiple of eight.

        Where layers keep a state, which would run on over padding, each prompt is read alone and as a whole.
        """
        if self._has_states:
            read = [self._read([prompt], None, 1) for prompt in prompts]
            return torch.cat([vectors for vectors, _ in read]), [prefix for _, (prefix,) in read]
        if shared and self._beginning is None:
            self._beginning = self._read([prompts[0][:shared]], None)[1][0]
        return self._read([prompt[shared:] for prompt in prompts], self._beginning if shared else None)

    def _read(
        self, prompts: Sequence[Sequence[int]], beginning: Prefix | None, multiple: int = ROW_MULTIPLE
    ) -> tuple[torch.Tensor, list[Prefix]]:
        """Read prompts that go on from one beginning, if any; return what `prefill` does."""
        # 1. A cache that begins with what all share: [heads, past, dim] -> [prompts, heads, past, dim], not copied.
        cache, past = growing_cache(self._backbone.model.config), 0
        for layer, memory in zip(cache.layers, beginning or (), strict=False):
            if memory.keys is not None and memory.values is not None:
                layer.update(*(states.expand(len(prompts), -1, -1, -1) for states in (memory.keys, memory.values)))
                past = memory.keys.shape[1]
        # 2. Token ids [prompts, width], padded on the right.
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._backbone.device)
        width = round_up(int(lengths.max()), multiple)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row] = prompt[-1]  # padding: no token that a model could take for its pad token and warn about
            ids[row, : len(prompt)] = torch.as_tensor(prompt)
        # 3. One forward pass. No mask: causal attention keeps real tokens from seeing the padding on their right.
        positions = torch.arange(width, device=lengths.device).expand(len(prompts), -1)
        positions = past + torch.minimum(positions, lengths[:, None] - 1)
        inputs = self._backbone.inputs(ids.to(lengths.device), positions, cache)
        # 4. Vectors [prompts, width] at each prompt's last token, and what is remembered without the padding.
        selected = self._backbone.select(inputs, torch.arange(len(prompts), device=lengths.device), lengths - 1)
        return selected, [memories(cache, row, past + length) for row, length in enumerate(lengths.tolist())]

    @torch.inference_mode()
    def place(self, prefix: Prefix, slots: torch.Tensor) -> None:
        """Fork a prompt into slots; see `Decoder`."""
        self._cache.place(prefix, slots)

    @torch.inference_mode()
    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy slots; see `Decoder`."""
        self._cache.move(source, target, length)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Decode one token a row; see `Decoder`."""
        # 1. Pad the rows to a multiple of eight.
        rows = tokens.shape[0]
        spare = round_up(rows, ROW_MULTIPLE) - rows
        if spare:  # idle rows rewrite position 0 of free slots, which `place` will overwrite
            tokens, positions = (torch.nn.functional.pad(x, (0, spare)) for x in (tokens, positions))
        # 2. Show the cache as far as the longest row reaches.
        length = max(round_up(int(positions.max()) + 1, LENGTH_MULTIPLE), self._shortest)
        length = min(length, self._longest or length)
        self._cache.show(positions, length)
        # 3. A token sees the places of its own row up to its own, and of those what its layer's window leaves.
        columns = torch.arange(length, device=tokens.device)[None]
        seen = columns <= positions[:, None]  # [rows, length]
        mask = self._masks.make(self._style, seen[:, None], positions[:, None], columns)
        # 4. One forward pass over [rows, 1] tokens; vectors [rows, width] of the rows that count.
        inputs = self._backbone.inputs(tokens[:, None], positions[:, None], self._cache)
        row_ids = self._cache.window.row_ids[:rows]
        with DecodingAttention() if tokens.device.type == "cpu" else nullcontext():
            return self._backbone.select(inputs | mask, row_ids, torch.zeros_like(row_ids))

    @torch.inference_mode()
    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """Apply the LM head; see `Decoder`."""
        return self._backbone.logits(vectors)


def _head_width(config: Any) -> int:
    """Width of a head, the narrowest where layers differ."""
    layers = config.get_text_config().per_layer_config
    heads = [getattr(layer, "num_attention_heads", None) or 1 for layer in layers]  # a state-space model has none
    widths = [
        getattr(layer, "head_dim", None) or layer.hidden_size // n for layer, n in zip(layers, heads, strict=True)
    ]
    return int(min(widths))


class RecomputeDecoder:
    """The slow right way for a model whose cache is not known: the whole sequence is read again at each step.

    Args:
        model: Any causal LM.
        slots: How many sequences fit.
        capacity: How many tokens of each.
        known: What is right for the model.
        exact: Compute logits in float32.
    """

    def __init__(self, model: Any, slots: int, capacity: int, known: Support, exact: bool = False) -> None:
        self._backbone = Backbone(model, known, exact)
        device = self._backbone.device
        self._ids = torch.zeros(slots, capacity + 1, dtype=torch.long, device=device)
        fit = free_bytes(device) // (8 * self._backbone.activation_bytes)
        self._tokens = max(1, min(MAX_TOKENS.get(device.type, 1024), fit))  # of one pass

    @torch.inference_mode()
    def _last(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Read ids ``[rows, width]``; return the vectors ``[rows, hidden]`` at the columns ``last`` ``[rows]``."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)  # padding on the right is not seen
        size = max(1, self._tokens // ids.shape[1])  # rows a pass
        rows = torch.arange(size, device=ids.device)
        pieces = zip(*(torch.split(x, size) for x in (ids, positions, last)), strict=True)
        return torch.cat([self._backbone.select(self._backbone.inputs(i, p), rows[: len(c)], c) for i, p, c in pieces])

    def prefill(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> tuple[torch.Tensor, list[Sequence[int]]]:
        """Read prompts; see `Decoder`. What they share is read again each time."""
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._ids.device)
        ids = torch.zeros(len(prompts), int(last.max()) + 1, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.as_tensor(prompt)
        return self._last(ids.to(last.device), last), list(prompts)

    def place(self, prefix: Sequence[int], slots: torch.Tensor) -> None:
        """Fork a prompt into slots; see `Decoder`."""
        self._ids[slots, : len(prefix)] = torch.as_tensor(prefix, device=self._ids.device)

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy slots; see `Decoder`."""
        self._ids[target, :length] = self._ids[source, :length]

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Decode one token a row; see `Decoder`."""
        rows = tokens.shape[0]
        self._ids[torch.arange(rows, device=tokens.device), positions] = tokens
        return self._last(self._ids[:rows, : int(positions.max()) + 1], positions)

    @torch.inference_mode()
    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """Apply the LM head; see `Decoder`."""
        return self._backbone.logits(vectors)
