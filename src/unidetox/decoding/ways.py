"""The ways of reading a model that are right for it: found once for each kind of model, then remembered."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch

from unidetox.decoding.backbone import Backbone
from unidetox.decoding.cache import growing_cache, memories
from unidetox.decoding.decoders import CachedDecoder, Decoder, RecomputeDecoder
from unidetox.decoding.support import Support
from unidetox.decoding.trials import examine

logger = logging.getLogger(__name__)

_by_kind: dict[str, Support] = {}
_by_model: weakref.WeakKeyDictionary[Any, Support] = weakref.WeakKeyDictionary()  # spares looking at its configuration
_said_slow: weakref.WeakSet[Any] = weakref.WeakSet()


def support(model: Any) -> Support:
    """Say which ways are right for a model; each kind of model is tried once.

    Args:
        model: A causal LM of transformers, or a PEFT model around one.
    """
    if model not in _by_model:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        _by_model[model] = examine(inner, _by_kind)
    return _by_model[model]


def backbone(model: Any, exact: bool = False) -> Backbone:
    """Return the model's backbone; ``exact`` ones give logits computed in float32."""
    return Backbone(model, support(model), exact)


def make_decoder(model: Any, slots: int, capacity: int, exact: bool = False) -> Decoder:
    """Return the fastest decoder that is right for this model; ``exact`` ones give logits computed in float32."""
    if supports_cache(model, capacity):
        return CachedDecoder(model, slots, capacity, support(model), exact)
    if model not in _said_slow:
        _said_slow.add(model)
        known = support(model)
        reason = known.reason or f"right within {known.longest} tokens only, and these texts have up to {capacity}"
        logger.warning(
            "%s: no cache that we know for this (%s); each step reads the whole text again, which is slow: up to %d "
            "times the work of a cached step. See docs/architectures.md",
            *(type(model).__name__, reason, capacity),
        )
    return RecomputeDecoder(model, slots, capacity, support(model), exact)


def supports_cache(model: Any, capacity: int) -> bool:
    """Whether `CachedDecoder` is right for this model and this many tokens a sequence."""
    known = support(model)
    return known.decode is not None and (known.longest is None or capacity <= known.longest)


_cache_bytes: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()


@torch.inference_mode()
def cache_bytes(model: Any) -> tuple[int, int]:
    """Bytes that a model keeps of each token of a sequence, and of a sequence whatever its length.

    They are read off what it keeps of one token: what heads and states are called differs between families.
    """
    if model not in _cache_bytes:
        reader = backbone(model)
        kept = (0, 0)  # where whole texts are read again, nothing is kept
        if reader.known.decode is not None:
            cache = growing_cache(model.config)
            place = torch.zeros(1, 1, dtype=torch.long, device=reader.device)
            reader.select(reader.inputs(place, place, cache), place[0], place[0])
            memory = memories(cache, 0, 1)
            tensors = [t for layer in memory for t in (layer.keys, layer.values) if t is not None]
            states = [state for layer in memory for state in layer.states.values()]
            kept = sum(t.nbytes for t in tensors), sum(state.nbytes for state in states)
        _cache_bytes[model] = kept
    return _cache_bytes[model]


def sampling_bytes_per_row(model: Any, capacity: int) -> int:
    """Estimate what one row takes while it is sampled: what the model keeps of it, and the activations of a token.

    Args:
        model: A causal LM.
        capacity: Tokens of the row, prompt included.
    """
    token, row = cache_bytes(model)
    return token * capacity + row + backbone(model).activation_bytes
