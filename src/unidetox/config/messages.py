"""What is wrong with a recipe, in one line, and what to do about it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

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
    sections, found = _sections(kind), dict[str, tuple[str, str]]()
    for error in errors:
        # Below a setting pydantic adds list positions and the branches of a union.
        loc = [str(part) for part in error["loc"]]
        path = loc[: 2 if loc and loc[0] in sections else 1]
        key = prefix + ".".join(path)
        found.setdefault(key, _explain_one(error, kind, path, key))
    lines = [f"{labels.get(key, file)}: {message}" for key, (message, _) in list(found.items())[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return UsageError("; ".join(lines) + more, hint=next(iter(found.values()))[1])


def _sections(kind: type[Section]) -> dict[str, type[Section]]:
    kinds = {name: field.annotation for name, field in kind.model_fields.items()}
    return {name: inner for name, inner in kinds.items() if isinstance(inner, type) and issubclass(inner, Section)}


def _explain_one(error: ErrorDetails, kind: type[Section], path: Sequence[str], key: str) -> tuple[str, str]:
    *above, name = path or [""]
    owner = _sections(kind)[above[0]] if above else kind
    field = owner.model_fields.get(name)
    if field is None and error["type"] == "extra_forbidden":
        return f"unknown key {key}", _spelling(kind, owner, name, key)
    if field is None or name in _sections(owner):
        return _explain_section(error, key)
    if error["type"] == "missing":
        return f"{key} is missing", f"It is needed: {field.description}"
    allowed, below = allowed_values(field) or error["msg"], error["loc"][len(path) :]
    value = f"{key} holds" if below and isinstance(below[0], int) else f"{key} ="
    return f"{value} {shown(error['input'])}, which is not allowed; it must be {allowed}", f"{field.description}"


def allowed_values(field: FieldInfo) -> str:
    """Say in words what a setting may be: what its mark says, or the choices of its type."""
    said = next((item.text for item in field.metadata if isinstance(item, Allowed)), "")
    if said or get_origin(field.annotation) is not Literal:
        return said
    *others, last = map(toml_value, get_args(field.annotation))
    return " or ".join([", ".join(others), last] if others else [last])


def _explain_section(error: ErrorDetails, key: str) -> tuple[str, str]:
    if error["type"] == "missing":
        hint = "Add it, or start the recipe with a preset: `unidetox init` writes one"
        return f"the section [{key}] is missing", hint
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, "), "Change one of them"
    return f"{key} must be a section: [{key}] and its settings below it", f"Not {key} = {shown(error['input'])}"


def _spelling(kind: type[Section], owner: type[Section], name: str, key: str) -> str:
    prefix, names = key.removesuffix(name), list(owner.model_fields)
    elsewhere = [f"{place}.{name}" for place, section in _sections(kind).items() if name in section.model_fields]
    if name in kind.model_fields:
        elsewhere.append(name)
    best = [prefix + close for close in _close(name, names)] or elsewhere
    if best:
        return f"Did you mean {' or '.join(best)}?"
    return f"Known {'in [' + prefix[:-1] + ']' if prefix else 'at the top'}: {', '.join(names)}"


def _close(name: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.5)


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest the name that was meant, or list all."""
    close = _close(name, names)
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
    if isinstance(value, (bool, int, float)):
        return repr(value).lower()  # true and false; inf and nan are the same in TOML
    if isinstance(value, str):
        # A JSON text is a TOML text but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = [f"{toml_value(str(key))} = {toml_value(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    raise TypeError(f"no TOML form for {type(value).__name__}")
