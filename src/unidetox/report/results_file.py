"""Reading `results.json`, of this version or an earlier one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import read_json

SCHEMA_VERSION = 2
RESULTS = "results.json"

# Version 1 said them in the metric: `tp@leetspeak`, `agreement:other-scorer`, `tp@leetspeak_std`.
_TAGGED = re.compile(r"(\w+)([@:])(.+)")
_WITHOUT_SPREAD = ("agreement", "correlation")


def read_results(directory: Path) -> dict[str, Any]:
    """Read the ``results.json`` of a run, an evaluation or one target, as `upgraded` returns it.

    Args:
        directory: Where it lies.

    Returns:
        Its content.

    Raises:
        MissingError: There is none.
        UsageError: A later version of this package wrote it.
    """
    path = directory / RESULTS
    content = read_json(path)
    if content is None:
        raise MissingError(f"{directory} holds no {RESULTS}", hint="Give the directory of a run or an evaluation")
    return upgraded(content, str(path))


def upgraded(results: Mapping[str, Any], name: str = "results.json") -> dict[str, Any]:
    """Return results as this version writes them.

    A row of version 1 has no ``form`` (None: the prompts as they are) and no ``scorer`` (None: the main one), and its
    ``models``, ``counts`` and ``directories`` go by ``TARGET / METHOD`` instead of by target and then by method.

    Args:
        results: The content of a ``results.json``; without ``schema_version`` it is taken as it is.
        name: What to call it in an error.

    Raises:
        UsageError: It is of a later version.
    """
    version = results.get("schema_version", SCHEMA_VERSION)
    if version == SCHEMA_VERSION:
        return dict(results)
    if version != 1:
        message = f"{name} has schema version {version}, and this version of unidetox reads up to {SCHEMA_VERSION}"
        raise UsageError(message, hint="Install a newer unidetox")
    new = {**results, "schema_version": SCHEMA_VERSION, "rows": [_row(row) for row in results.get("rows", ())]}
    for key in {"models", "commits", "counts", "directories"} & set(results):
        new[key] = _nested(results[key])
    return new


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    new = {**row, "form": None, "scorer": None}
    if found := _TAGGED.fullmatch(row["metric"]):
        metric, mark, tag = found.groups()
        if tag.endswith("_std") and row.get("higher_is_better") is None and metric not in _WITHOUT_SPREAD:
            metric, tag = f"{metric}_std", tag.removesuffix("_std")
        new |= {"metric": metric, "form" if mark == "@" else "scorer": tag}
    return new


def _nested(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``TARGET / METHOD`` into target and method, and ``COUNT@FORM``, ``COUNT:SCORER`` into form or scorer."""
    new: dict[str, Any] = {}
    for key, entry in entries.items():
        value = _nested(entry) if isinstance(entry, Mapping) else entry
        if found := _TAGGED.fullmatch(key):
            name, mark, tag = found.groups()
            new.setdefault("forms" if mark == "@" else "scorers", {}).setdefault(tag, {})[name] = value
        elif " / " in key:
            target, method = key.split(" / ", 1)
            new.setdefault(target, {})[method] = value
        else:
            new[key] = value
    return new
