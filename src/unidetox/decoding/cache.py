"""A key/value cache that is written in place, and whose rows start, end and move independently."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

Prefix = list[tuple[torch.Tensor, torch.Tensor]]
"""What one model remembers of one prompt: keys and values ``[heads, tokens, dim]`` of each layer."""


class Window:
    """Which part of the slots a forward pass sees; shared by all layers of a cache.

    Attributes:
        rows: How many slots take part, counted from slot 0.
        length: How many positions of each slot are visible.
        positions: int64 ``[rows]``, where each row's next token is written.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.length = 0
        self.positions = torch.zeros(0, dtype=torch.long)
        self.row_ids = torch.zeros(0, dtype=torch.long)

    def set(self, positions: torch.Tensor, length: int) -> None:
        """Show ``length`` positions of the first ``len(positions)`` slots."""
        self.rows, self.length, self.positions = positions.shape[0], length, positions
        self.row_ids = torch.arange(self.rows, device=positions.device)


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, ``[slots, heads, length, dim]`` each.

    Every row keeps its tokens at places 0, 1, 2, ... of its own: there is no left padding, so positions do not depend
    on what shares the batch, and a row can be replaced without touching the others. The length is what is visible,
    not what may come: reading a part of longer rows takes three times as long as reading the same bytes in one piece.
    So every few tokens, not at each, the layer is copied to a longer one.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self, window: Window, slots: int, capacity: int) -> None:
        super().__init__()
        self.window, self.slots, self.capacity = window, slots, capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for states like these, ``[*, heads, *, dim]``; zeros, as a masked NaN would still spread."""
        shape = (self.slots, key_states.shape[-3], self.length)  # + [dim], which may differ for values
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def resize(self, length: int) -> None:
        """Make room for ``length`` tokens a row, and no more."""
        if self.is_initialized and length != self.length:
            self.keys, self.values = (_resized(states, length) for states in (self.keys, self.values))
        self.length = length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token a row in place and return views of what is visible."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        # [rows, heads, 1, dim] -> one place of each row; advanced indices apart put rows first: [rows, heads, dim]
        self.keys[window.row_ids, :, window.positions] = key_states[:, :, 0]
        self.values[window.row_ids, :, window.positions] = value_states[:, :, 0]
        return self.keys[: window.rows], self.values[: window.rows]  # views [rows, heads, length, dim]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the visible length and its offset."""
        return self.window.length, 0

    def get_seq_length(self) -> int:
        """Report all but the newest visible position as past; rows shorter than that are cut by the mask."""
        return self.window.length - 1

    def get_max_length(self) -> int:
        """Return how many positions a slot holds."""
        return self.capacity


def _resized(states: torch.Tensor, length: int) -> torch.Tensor:
    """Copy ``[slots, heads, *, dim]`` to another length; what is new is zero, as a masked NaN would still spread."""
    result = states.new_zeros(*states.shape[:2], length, states.shape[-1])
    common = min(length, states.shape[2])
    result[:, :, :common] = states[:, :, :common]
    return result


class SlotCache(Cache):  # type: ignore[misc]
    """All layers' slots of one model.

    Args:
        layers: Number of attention layers.
        slots: How many sequences fit.
        capacity: How many tokens of each.
    """

    def __init__(self, layers: int, slots: int, capacity: int) -> None:
        self.window = Window()
        super().__init__(layers=[SlotLayer(self.window, slots, capacity) for _ in range(layers)])

    def show(self, positions: torch.Tensor, length: int) -> None:
        """Let the next pass see ``length`` tokens of the first ``len(positions)`` slots, and write at the positions."""
        self.window.set(positions, length)
        for layer in self.layers:
            layer.resize(length)

    def place(self, prefix: Prefix, slots: torch.Tensor) -> None:
        """Fork a prompt's keys and values into several slots at once."""
        for layer, (keys, values) in zip(self.layers, prefix, strict=True):
            if layer.length < keys.shape[1]:
                layer.resize(keys.shape[1])
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            # [heads, tokens, dim] -> each of [slots, heads, tokens, dim]
            layer.keys[slots, :, : keys.shape[1]] = keys
            layer.values[slots, :, : values.shape[1]] = values

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy the first ``length`` positions of some slots over others."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
