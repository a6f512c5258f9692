"""The ways of reading a model that are right for it: found once for each kind of model, then remembered."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from unidetox.decoding.backbone import Backbone
from unidetox.decoding.decoders import CachedDecoder, Decoder, RecomputeDecoder
from unidetox.decoding.memory import kept_numbers
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


def sampling_bytes_per_row(model: Any, capacity: int) -> int:
    """Estimate what one row of ``capacity`` tokens, prompt included, takes while a causal LM samples it."""
    token, row = kept_numbers(model) if support(model).decode else (0, 0)  # recomputed: nothing is kept
    size = int(next(model.parameters()).element_size())
    return (token * capacity + row) * size + backbone(model).activation_bytes
