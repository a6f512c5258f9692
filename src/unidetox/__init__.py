"""UniDetox: distil once, detoxify any causal language model.

Everything public is here and loaded when it is asked for: importing this package imports no torch.
"""

from __future__ import annotations

import random
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from unidetox.core import errors
from unidetox.core.version import __version__

if TYPE_CHECKING:
    from unidetox.api import analyze, detoxify, distill, evaluate, run, train_toxic, tune
    from unidetox.decoding import ContrastiveLogitsProcessor
    from unidetox.training import detoxify_model

# `from unidetox.errors import MissingError` is public: users catch errors by that name, wherever the file stands.
sys.modules["unidetox.errors"] = errors

__all__ = [
    "ContrastiveLogitsProcessor", "__version__", "analyze", "detoxify", "detoxify_model", "distill", "evaluate", "run",
    "train_toxic", "tune",
]  # fmt: skip

_ELSEWHERE = {"ContrastiveLogitsProcessor": "unidetox.decoding", "detoxify_model": "unidetox.training"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        drawn = random.getstate()
        try:
            return getattr(import_module(_ELSEWHERE.get(name, "unidetox.api")), name)
        finally:
            random.setstate(drawn)  # rich draws from the caller's numbers while it is loaded
    raise AttributeError(f"module 'unidetox' has no attribute {name!r}")
