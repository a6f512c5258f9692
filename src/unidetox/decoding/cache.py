"""Slots for what a model remembers of sequences: written in place, and rows start, end and move independently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)


@dataclass
class Memory:
    """What one layer remembers of one prompt.

    Attributes:
        keys: ``[heads, tokens, dim]``, None for a layer without attention.
        values: The same of the values; ``dim`` may differ.
        states: By name and number, of fixed size whatever the prompt's length (Mamba, linear attention, convolutions).
    """

    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None
    states: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)


Prefix = list[Memory]
"""What one model remembers of one prompt, layer by layer."""

_STATES = ("conv_states", "recurrent_states")


def growing_cache(config: Any) -> DynamicCache:
    """Return transformers' own cache for a model, but whole where that would cut keys and values to a window.

    Args:
        config: The model's configuration.
    """
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[number] = DynamicLayer()
        elif type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
            cache.layers[number] = LinearAttentionAndFullAttentionLayer(layer.number_of_states)
    return cache


def has_states(config: Any) -> bool:
    """Whether a model keeps states, which must not run over padding."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=config).layers)


def memories(cache: DynamicCache, row: int, length: int) -> Prefix:
    """Take out what a cache holds of one row of a batch, its first ``length`` tokens."""
    prefix = []
    for layer in cache.layers:
        memory = Memory()
        if getattr(layer, "keys", None) is not None and layer.is_initialized:
            memory.keys, memory.values = layer.keys[row, :, :length], layer.values[row, :, :length]
        for name in _STATES if isinstance(layer, LinearAttentionCacheLayerMixin) else ():
            states = getattr(layer, name).items()
            memory.states |= {(name, number): state[row] for number, state in states if state is not None}
        prefix.append(memory)
    return prefix


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

    def show(self) -> None:
        """Make room for what the window shows, and no more."""
        self.resize(self.window.length)

    def resize(self, length: int) -> None:
        """Make room for ``length`` tokens a row."""
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

    def place(self, memory: Memory, slots: torch.Tensor) -> None:
        """Fork a prompt's keys and values into several slots at once."""
        keys, values = memory.keys, memory.values
        if keys is None or values is None:
            return
        if self.length < keys.shape[1]:
            self.resize(keys.shape[1])
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        # [heads, tokens, dim] -> each of [slots, heads, tokens, dim]
        self.keys[slots, :, : keys.shape[1]] = keys
        self.values[slots, :, : values.shape[1]] = values

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy the first ``length`` positions of some slots over others."""
        if self.is_initialized:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

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


class SlotStates(LinearAttentionLayer):  # type: ignore[misc]
    """One layer's states, ``[slots, ...]`` each; a pass gets views of the first rows and writes into them."""

    def __init__(self, window: Window, slots: int, number_of_states: int) -> None:
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)
        self.window, self.slots = window, slots
        self.slot_states: dict[tuple[str, int], torch.Tensor] = {}

    def show(self) -> None:
        """Let transformers' methods see the states of the window's rows."""
        for (name, number), states in self.slot_states.items():
            getattr(self, name)[number] = states[: self.window.rows]
            getattr(self, f"is_{name}_initialized")[number] = True
            self.has_previous_state[number] = True
            if name == "conv_states":
                self.conv_kernel_size[number] = states.shape[-1]

    def place(self, memory: Memory, slots: torch.Tensor) -> None:
        """Fork the states after a prompt into several slots at once."""
        for key, state in memory.states.items():
            if key not in self.slot_states:
                self.slot_states[key] = state.new_zeros(self.slots, *state.shape)
                self.dtype, self.device = state.dtype, state.device
            self.slot_states[key][slots] = state

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy the states of some slots over others."""
        for states in self.slot_states.values():
            states[target] = states[source]


class SlotLayerAndStates(SlotLayer, SlotStates):
    """A layer that keeps both."""

    def __init__(self, window: Window, slots: int, capacity: int, number_of_states: int) -> None:
        SlotLayer.__init__(self, window, slots, capacity)
        SlotStates.__init__(self, window, slots, number_of_states)

    def show(self) -> None:
        """Make room, and show states."""
        SlotLayer.show(self)
        SlotStates.show(self)

    def place(self, memory: Memory, slots: torch.Tensor) -> None:
        """Fork both into several slots at once."""
        SlotLayer.place(self, memory, slots)
        SlotStates.place(self, memory, slots)

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy both from slot to slot."""
        SlotLayer.move(self, source, target, length)
        SlotStates.move(self, source, target, length)


class NoSlots(DummyLayer):  # type: ignore[misc]
    """A layer that keeps nothing, or reads what another one keeps."""

    def show(self) -> None:
        """Nothing to show."""

    def place(self, memory: Memory, slots: torch.Tensor) -> None:
        """Nothing to place."""

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Nothing to move."""


class SlotCache(Cache):  # type: ignore[misc]
    """All layers' slots of one model.

    Args:
        config: The model's configuration, which says what each layer keeps.
        slots: How many sequences fit.
        capacity: How many tokens of each.

    Raises:
        TypeError: For a kind of layer that is not known.
    """

    def __init__(self, config: Any, slots: int, capacity: int) -> None:
        self.window = Window()
        super().__init__(layers=[self._slots_for(layer, slots, capacity) for layer in growing_cache(config).layers])

    def _slots_for(self, layer: Any, slots: int, capacity: int) -> Any:
        kind = type(layer)
        if kind is DynamicLayer:
            return SlotLayer(self.window, slots, capacity)
        if kind is LinearAttentionLayer:
            return SlotStates(self.window, slots, layer.number_of_states)
        if kind is LinearAttentionAndFullAttentionLayer:
            return SlotLayerAndStates(self.window, slots, capacity, layer.number_of_states)
        if kind is DummyLayer:
            return NoSlots()
        raise TypeError(f"no slots for a {kind.__name__}")

    def show(self, positions: torch.Tensor, length: int) -> None:
        """Let the next pass see ``length`` tokens of the first ``len(positions)`` slots, and write at the positions."""
        self.window.set(positions, length)
        for layer in self.layers:
            layer.show()

    def place(self, prefix: Prefix, slots: torch.Tensor) -> None:
        """Fork a prompt into several slots at once."""
        for layer, memory in zip(self.layers, prefix, strict=True):
            layer.place(memory, slots)

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy sequences of at most ``length`` tokens from slot to slot."""
        for layer in self.layers:
            layer.move(source, target, length)
