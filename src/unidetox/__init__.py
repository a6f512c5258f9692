"""UniDetox: distil once, detoxify any causal language model.

Everything public is here and loaded when it is asked for: importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unidetox.analysis import analyze
    from unidetox.api import detoxify, distill, run, train_toxic
    from unidetox.decoding import ContrastiveLogitsProcessor
    from unidetox.evaluation import evaluate
    from unidetox.training import detoxify_model
    from unidetox.tuning import tune

_PUBLIC = {
    "ContrastiveLogitsProcessor": "unidetox.decoding",
    "analyze": "unidetox.analysis",
    "detoxify": "unidetox.api",
    "detoxify_model": "unidetox.training",
    "distill": "unidetox.api",
    "evaluate": "unidetox.evaluation",
    "run": "unidetox.api",
    "train_toxic": "unidetox.api",
    "tune": "unidetox.tuning",
}

__all__ = [
    "ContrastiveLogitsProcessor",
    "__version__",
    "analyze",
    "detoxify",
    "detoxify_model",
    "distill",
    "evaluate",
    "run",
    "train_toxic",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'unidetox' has no attribute {name!r}")
