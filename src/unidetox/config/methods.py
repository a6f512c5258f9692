"""The methods by name: what recipes may name, in the order of tables.

A method is a plug-in: an entry point of the group ``unidetox.methods`` that leads to a ``Method`` (see
``methods/interface.py``). Those of this package are declared in its ``pyproject.toml``, those of others in theirs. It
is imported when a recipe names it, so that this module stays light and a method's own options are checked with all
others.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "unidetox.methods"
METHODS = {
    "base": "base",
    "unidetox": "UniDetox",
    "dexperts": "DExperts",
    "lm_steer": "LM-Steer",
    "task_arithmetic": "task arithmetic",
    "safety_prompt": "safety prompt",
    "samples": "plain samples",
}
"""Name of each method of this package -> how people call it; `base` is the model as it is, `samples` the control."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the declared methods, those of other packages included."""
    return {point.name: point for point in entry_points(group=GROUP)}


def method_names() -> tuple[str, ...]:
    """Return the names of all installed methods: those of this package in the order of tables, then others."""
    return (*METHODS, *sorted(set(_plugins()) - set(METHODS)))


def load_method(name: str) -> Any:
    """Return a method.

    Args:
        name: One of `method_names`.

    Raises:
        KeyError: There is no method of that name.
    """
    return _plugins()[name].load()


def title_of(name: str, key: str) -> str:
    """Return what results call a method of a recipe: ``dexperts``, or ``dexperts (MORE)`` where its key is another.

    Args:
        name: The method, one of `method_names`.
        key: What the recipe calls it: its label, or the name itself.
    """
    more = key.removeprefix(name).strip("-_")
    return f"{name} ({more})" if more else name


def method_kind(method: str) -> str:
    """Give the method itself where a name tells two results of it apart: ``unidetox (run-2)`` is ``unidetox``."""
    return method.split(" (", 1)[0]


def method_name(method: str) -> str:
    """Name a method for people."""
    kind = method_kind(method)
    return METHODS.get(kind, kind.replace("_", " ")) + method[len(kind) :]


def method_places() -> dict[str, int]:
    """Return the place of each method, from 0: its color and shape on pages, and where it stands in tables."""
    return {name: place for place, name in enumerate(METHODS)}


def methods_in_words(names: tuple[str, ...] = tuple(METHODS)) -> str:
    """Return names as an error shows them: ``"base", "unidetox", ...``."""
    return ", ".join(f'"{name}"' for name in names)
