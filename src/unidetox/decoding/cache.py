"""A key/value cache that is allocated once, written in place, and whose rows start, end and move independently."""

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
    """One layer's keys and values, ``[slots, heads, capacity, dim]`` each.

    Every row keeps its tokens at slots 0, 1, 2, ... of its own: there is no left padding, so positions do not depend on
    what shares the batch, and a row can be replaced without touching the others.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self, window: Window, slots: int, capacity: int) -> None:
        super().__init__()
        self.window, self.slots, self.capacity = window, slots, capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for states like these, ``[*, heads, *, dim]``; zeros, as a masked NaN would still spread."""
        shape = (self.slots, key_states.shape[-3], self.capacity)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token a row in place and return views of what is visible."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        self.keys[window.row_ids, :, window.positions] = key_states[:, :, 0]
        self.values[window.row_ids, :, window.positions] = value_states[:, :, 0]
        return self.keys[: window.rows, :, : window.length], self.values[: window.rows, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the visible length and its offset."""
        return self.window.length, 0

    def get_seq_length(self) -> int:
        """Report all but the newest visible position as past; rows shorter than that are cut by the mask."""
        return self.window.length - 1

    def get_max_length(self) -> int:
        """Return how many positions a slot holds."""
        return self.capacity


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

    def place(self, prefix: Prefix, slots: torch.Tensor) -> None:
        """Fork a prompt's keys and values into several slots at once."""
        for layer, (keys, values) in zip(self.layers, prefix, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            layer.keys[slots, :, : keys.shape[1]] = keys
            layer.values[slots, :, : values.shape[1]] = values

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy the first ``length`` positions of some slots over others."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
