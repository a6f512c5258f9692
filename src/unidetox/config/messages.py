"""What is wrong with a recipe, in one line, and what to do about it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from unidetox.config.fields import Allowed, Section
from unidetox.core.errors import UsageError


def explain(
    errors: Sequence[ErrorDetails], kind: type[Section], prefix: str, file: str, labels: Mapping[str, str]
) -> UsageError:
    """Turn pydantic's findings into one line: the first three, and what to do about the first.

    Args:
        errors: What pydantic found.
        kind: The section that was checked.
        prefix: What stands before its keys: ``method.dexperts.``, or nothing for a whole recipe.
        file: What to call the origin of the settings.
        labels: Dotted keys that have another origin.
    """
    found: dict[str, tuple[str, str]] = {}
    for error in errors:
        path = [str(part) for part in error["loc"]]
        key = prefix + ".".join(path[: _depth(kind, path)])
        found.setdefault(key, _explain_one(error, kind, path, key))
    lines = [f"{labels.get(key, file)}: {message}" for key, (message, _) in list(found.items())[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return UsageError("; ".join(lines) + more, hint=next(iter(found.values()))[1])


def _depth(kind: type[Section], path: Sequence[str]) -> int:
    # Below a setting pydantic adds list positions and the branches of a union.
    return 2 if path and path[0] in _sections(kind) else 1


def _sections(kind: type[Section]) -> dict[str, type[Section]]:
    fields = kind.model_fields.items()
    return {
        name: field.annotation
        for name, field in fields
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _explain_one(error: ErrorDetails, kind: type[Section], path: Sequence[str], key: str) -> tuple[str, str]:
    field, depth = _field(kind, path), _depth(kind, path)
    if field is None and error["type"] == "extra_forbidden":
        return f"unknown key {key}", _spelling(kind, path, key)
    if field is None or (len(path) == 1 and path[0] in _sections(kind)):
        return _explain_section(error, key)
    if error["type"] == "missing":
        return f"{key} is missing", f"It is needed: {field.description}"
    allowed = allowed_values(field) or error["msg"]
    in_list = len(error["loc"]) > depth and isinstance(error["loc"][depth], int)
    value = f"{key} holds" if in_list else f"{key} ="
    return f"{value} {shown(error['input'])}, which is not allowed; it must be {allowed}", f"{field.description}"


def allowed_values(field: FieldInfo) -> str:
    """Say in words what a setting may be."""
    return next((item.text for item in field.metadata if isinstance(item, Allowed)), "")


def _explain_section(error: ErrorDetails, key: str) -> tuple[str, str]:
    if error["type"] == "missing":
        return (
            f"the section [{key}] is missing",
            "Add it, or start the recipe with a preset: `unidetox init` writes one",
        )
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, "), "Change one of them"
    return (
        f"{key} must be a section: [{key}] and its settings below it",
        f"Not {key} = {shown(error['input'])}",
    )


def _field(kind: type[Section], path: Sequence[str]) -> FieldInfo | None:
    section = _sections(kind).get(path[0]) if path else None
    if section is None or len(path) == 1:
        return kind.model_fields.get(path[0]) if path else None
    return section.model_fields.get(path[1])


def _spelling(kind: type[Section], path: Sequence[str], key: str) -> str:
    sections = _sections(kind)
    inside = len(path) > 1 and path[0] in sections
    prefix = key.removesuffix(path[-1])
    names = list((sections[path[0]] if inside else kind).model_fields)
    elsewhere = [f"{name}.{path[-1]}" for name, section in sections.items() if path[-1] in section.model_fields]
    if path[-1] in kind.model_fields:
        elsewhere.append(path[-1])
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    best = [prefix + close[0]] if close else elsewhere
    if best:
        return f"Did you mean {' or '.join(best)}?"
    return f"Known {'in [' + prefix[:-1] + ']' if prefix else 'at the top'}: {', '.join(names)}"


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest the name that was meant, or list all."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}"


def shown(value: Any) -> str:
    """Write a value as in TOML, at most 60 characters."""
    try:
        text = toml_value(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def toml_value(value: Any) -> str:
    """Write a value as TOML.

    Raises:
        TypeError: TOML has no form for it.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # A JSON text is a TOML text but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = [f"{toml_value(str(key))} = {toml_value(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    raise TypeError(f"no TOML form for {type(value).__name__}")
