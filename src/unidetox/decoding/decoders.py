"""Next-token logits of one model: with a cache of our own, or by recomputing where that is not known to be right."""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache

from unidetox.decoding.attention import SMALLEST_PRODUCT, DecodingAttention
from unidetox.decoding.cache import Prefix, SlotCache
from unidetox.decoding.kernels import inference_kernels

ROW_MULTIPLE = 8
"""Matrix products give each row the same bits whatever the number of rows, as long as that is a multiple of this."""

logger = logging.getLogger(__name__)

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


_head_is_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # facts only: no model is kept


class Backbone:
    """The parts of a causal LM: hidden states first, the LM head only where it is needed.

    Args:
        model: Any causal LM of transformers, in eval mode.
        exact: Compute logits in float32 whatever the model's type: bfloat16 has steps of 0.25 at logits of 32, which is
            as much as two models that are subtracted may differ by.

    Attributes:
        takes_cache: Whether the model's forward takes a cache of transformers' kind.
    """

    def __init__(self, model: Any, exact: bool = False) -> None:
        self.model = model
        self._output = _lm_head(model)
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self.takes_cache = "past_key_values" in parameters
        if model not in _head_is_known:
            _head_is_known[model] = self._head_follows()
        self._split = _head_is_known[model]
        if exact and self._split and model.dtype != torch.float32:
            self._output = copy.deepcopy(self._output).float()

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def has_head(self) -> bool:
        """Whether logits are the LM head of the last hidden state, with nothing in between that is not known."""
        return self._split

    @property
    def unsplit_bytes(self) -> int:
        """What a token costs in a pass where hidden states cannot be had and each gets logits."""
        return 0 if self._split else 8 * int(self.model.config.get_text_config().vocab_size)

    def inputs(self, ids: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Name the inputs as this model's forward does."""
        return {"input_ids": ids, "position_ids": positions} if self._takes_positions else {"input_ids": ids}

    def select(self, inputs: dict[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Run the model and return the vectors from which `logits` makes logits, at ``(rows, columns)`` only."""
        with inference_kernels(self.device):
            if self._split:
                return self.model.base_model(**inputs).last_hidden_state[rows, columns]  # type: ignore[no-any-return]
            return self.model(**inputs).logits[rows, columns]  # type: ignore[no-any-return]

    def logits(self, selected: torch.Tensor) -> torch.Tensor:
        """Apply the LM head to what `select` returned, ``[n, hidden] -> [n, vocabulary]``."""
        if not self._split:
            return selected
        missing = -selected.shape[0] % ROW_MULTIPLE  # idle rows, so that each row has the same bits whatever n
        padded = torch.nn.functional.pad(selected, (0, 0, 0, missing)) if missing else selected
        return self._head(padded.to(next(self._output.parameters()).dtype))[: selected.shape[0]]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LM head, and the scaling and capping of logits that some families have."""
        config = self.model.config.get_text_config()
        with inference_kernels(self.device):
            logits: torch.Tensor = self._output(hidden)
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):
            logits = logits / divisor
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def _head_follows(self) -> bool:
        """Whether `_head` of the last hidden state gives this model's logits."""
        ids = torch.arange(2, 6, device=self.device)[None] % self.model.config.get_text_config().vocab_size
        try:
            with torch.inference_mode():
                ours = self._head(self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
                theirs = self.model(input_ids=ids, use_cache=False).logits.float()
        except (AttributeError, TypeError, RuntimeError):
            return False
        return ours.shape == theirs.shape and bool(torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3))


def _lm_head(model: Any) -> Any:
    """The model's LM head, or None where it does not say what that is: then its whole forward pass gives the logits."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def backbone(model: Any, exact: bool = False) -> Backbone:
    """Return the model's backbone; the model is examined once."""
    return Backbone(model, exact)


class CachedDecoder:
    """A decoder with the slots of `SlotCache`.

    Args:
        model: A causal LM with a standard attention cache.
        slots: How many sequences fit.
        capacity: How many tokens of each.
        exact: Compute logits in float32.
    """

    def __init__(self, model: Any, slots: int, capacity: int, exact: bool = False) -> None:
        self._backbone = backbone(model, exact)
        self._slots = round_up(slots, ROW_MULTIPLE)
        config = model.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shortest = round_up(-(-SMALLEST_PRODUCT // width), LENGTH_MULTIPLE)
        self._cache = SlotCache(config.num_hidden_layers, self._slots, round_up(capacity, LENGTH_MULTIPLE))
        self._beginning: Prefix | None = None  # of what all prompts share

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], shared: int = 0) -> tuple[torch.Tensor, list[Prefix]]:
        """Read prompts; see `Decoder`. All are padded on the right to one length, a multiple of eight."""
        if shared and self._beginning is None:
            self._beginning = self._read([prompts[0][:shared]], None)[1][0]
        return self._read([prompt[shared:] for prompt in prompts], self._beginning if shared else None)

    def _read(self, prompts: Sequence[Sequence[int]], beginning: Prefix | None) -> tuple[torch.Tensor, list[Prefix]]:
        """Read prompts that go on from one beginning, if any; return what `prefill` does."""
        past = beginning[0][0].shape[1] if beginning else 0
        # 1. Token ids [prompts, width], padded on the right.
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._backbone.device)
        width = round_up(int(lengths.max()), ROW_MULTIPLE)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row] = prompt[-1]  # padding: no token that a model could take for its pad token and warn about
            ids[row, : len(prompt)] = torch.as_tensor(prompt)
        # 2. A cache that begins with what all share: [heads, past, dim] -> [prompts, heads, past, dim], not copied.
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(beginning or ()):
            cache.update(*(states.expand(len(prompts), -1, -1, -1) for states in (keys, values)), layer)
        # 3. One forward pass. No mask: causal attention keeps real tokens from seeing the padding on their right.
        positions = torch.arange(width, device=lengths.device).expand(len(prompts), -1)
        positions = past + torch.minimum(positions, lengths[:, None] - 1)
        inputs = self._backbone.inputs(ids.to(lengths.device), positions) | {
            "past_key_values": cache,
            "use_cache": True,
        }
        selected = self._backbone.select(inputs, torch.arange(len(prompts), device=lengths.device), lengths - 1)
        # 4. Vectors [prompts, width] at each prompt's last token, and its keys and values without the padding.
        states = [(layer.keys, layer.values) for layer in cache.layers]  # each [prompts, heads, past + width, dim]
        ends = [past + n for n in lengths.tolist()]
        return selected, [[(k[row, :, :n], v[row, :, :n]) for k, v in states] for row, n in enumerate(ends)]

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
        self._cache.show(positions, length)
        inputs = self._backbone.inputs(tokens[:, None], positions[:, None])
        # 3. A token sees the places of its own row up to its own: [rows, length].
        mask = torch.arange(length, device=tokens.device) <= positions[:, None]
        extra = {"attention_mask": mask.long(), "past_key_values": self._cache, "use_cache": True}
        # 4. One forward pass over [rows, 1] tokens; vectors [rows, width] of the rows that count.
        row_ids = self._cache.window.row_ids[:rows]
        with DecodingAttention() if tokens.device.type == "cpu" else nullcontext():
            return self._backbone.select(inputs | extra, row_ids, torch.zeros_like(row_ids))

    @torch.inference_mode()
    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """Apply the LM head; see `Decoder`."""
        return self._backbone.logits(vectors)


class RecomputeDecoder:
    """The slow right way for a model whose cache is not known: the whole sequence is read again at each step.

    Args:
        model: Any causal LM.
        slots: How many sequences fit.
        capacity: How many tokens of each.
        exact: Compute logits in float32.
    """

    def __init__(self, model: Any, slots: int, capacity: int, exact: bool = False) -> None:
        self._backbone = backbone(model, exact)
        self._ids = torch.zeros(slots, capacity + 1, dtype=torch.long, device=self._backbone.device)

    @torch.inference_mode()
    def _last(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Read ids ``[rows, width]``; return the vectors ``[rows, hidden]`` at the columns ``last`` ``[rows]``."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)  # padding on the right is not seen
        inputs = self._backbone.inputs(ids, positions) | {"use_cache": False}
        return self._backbone.select(inputs, torch.arange(len(ids), device=ids.device), last)

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


_cache_is_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_said_slow: weakref.WeakSet[Any] = weakref.WeakSet()


def make_decoder(model: Any, slots: int, capacity: int, exact: bool = False) -> Decoder:
    """Return the fastest decoder that is right for this model; ``exact`` ones give logits computed in float32.

    A model's cache counts as known when a trial of two ragged rows gives the logits of plain forward passes, and when
    no sliding window would cut what the cache keeps.
    """
    if supports_cache(model, capacity):
        return CachedDecoder(model, slots, capacity, exact)
    if model not in _said_slow:
        _said_slow.add(model)
        logger.warning(
            "%s: no cache that we know for this; each step reads the whole text again, which is slow",
            type(model).__name__,
        )
    return RecomputeDecoder(model, slots, capacity, exact)


def supports_cache(model: Any, capacity: int) -> bool:
    """Whether `CachedDecoder` is right for this model and this many tokens a sequence."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limits = [window, *(getattr(config, name, None) for name in ("attention_chunk_size", "window_size"))]
    if any(limit and capacity > limit for limit in limits):
        return False
    if model not in _cache_is_known:
        _cache_is_known[model] = _trial(model)
    return _cache_is_known[model]


def _trial(model: Any) -> bool:
    """Decode two rows of unlike length with the cache and compare with plain forward passes."""
    size = model.config.get_text_config().vocab_size
    rows = [[token % size for token in row] for row in ([5, 9, 13, 2, 7], [11, 3, 6, 4])]
    try:
        # 1. Cached: read 3 and 2 tokens, then two more of each, one at a time.
        decoder = CachedDecoder(model, 2, 8)
        device = backbone(model).device
        _, prefixes = decoder.prefill([rows[0][:3], rows[1][:2]])
        for slot, prefix in enumerate(prefixes):
            decoder.place(prefix, torch.tensor([slot], device=device))
        for offset in range(2):
            tokens = torch.tensor([rows[0][3 + offset], rows[1][2 + offset]], device=device)
            cached = decoder.logits(decoder.step(tokens, torch.tensor([3 + offset, 2 + offset], device=device)))
        # 2. Plain: each row whole, in a pass of its own; [2, vocabulary] after the last tokens.
        with torch.inference_mode():
            plain = torch.stack(
                [model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0, -1] for row in rows]
            )
    except (AttributeError, TypeError, RuntimeError, ValueError, KeyError, IndexError):
        return False
    # A wrong mask or position changes logits by about their own spread; rounding, even in bfloat16, by far less.
    error, spread = (cached.float() - plain.float()).abs().max(), plain.float().std()
    return bool(error <= (1e-3 if plain.dtype == torch.float32 else 0.1) * (1 + spread))
