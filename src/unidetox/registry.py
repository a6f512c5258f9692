"""The methods by name: what recipes may name, in the order of tables. A new method is one new file and one line here.

The file is ``unidetox/methods/NAME.py`` and holds ``METHOD``, a `unidetox.methods.interface.Method`. It is imported
when a recipe names it, so that this module stays light and a method's own options are checked with all others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

METHODS = {
    "base": "base",
    "unidetox": "UniDetox",
    "dexperts": "DExperts",
    "lm_steer": "LM-Steer",
    "task_arithmetic": "task arithmetic",
    "safety_prompt": "safety prompt",
    "samples": "plain samples",
}
"""Name of each method -> how people call it; `base` is the model as it is, `samples` the control."""


def load_method(name: str) -> Any:
    """Return a method.

    Args:
        name: One of `METHODS`.

    Raises:
        KeyError: There is no method of that name.
    """
    if name not in METHODS:
        raise KeyError(name)
    return import_module(f"unidetox.methods.{name}").METHOD


def title_of(name: str, key: str) -> str:
    """Return what results call a method of a recipe: ``dexperts``, or ``dexperts (MORE)`` where its key is another.

    Args:
        name: The method, one of `METHODS`.
        key: What the recipe calls it: its label, or the name itself.
    """
    more = key.removeprefix(name).strip("-_")
    return f"{name} ({more})" if more else name


def method_places() -> dict[str, int]:
    """Return the place of each method, from 0: its colour and shape on pages, and where it stands in tables."""
    return {name: place for place, name in enumerate(METHODS)}


def methods_in_words() -> str:
    """Return the names as an error shows them: ``"base", "unidetox", ...``."""
    return ", ".join(f'"{name}"' for name in METHODS)
