"""Recipes: read from TOML with presets and overrides, checked with one-line errors, written back."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from unidetox.errors import MissingError, UsageError
from unidetox.files import write_text
from unidetox.settings import (
    Allowed,
    Base,
    Detoxify,
    Evaluate,
    Recipe,
    Section,
    Texts,
    Toxic,
    map_sources,
    subsections,
)
from unidetox.sources import portable_name, resolve_source

__all__ = [
    "Base",
    "Detoxify",
    "Evaluate",
    "Recipe",
    "Section",
    "Texts",
    "Toxic",
    "build_recipe",
    "commented_recipe",
    "load_recipe",
    "portable",
    "preset",
    "preset_names",
    "recipe_from",
    "resolve_source",
    "write_recipe",
]


def preset_names() -> list[str]:
    """Return the names of the packaged presets, in alphabetical order."""
    folder = resources.files("unidetox") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a packaged preset as nested dictionaries, names of models as written there.

    Raises:
        UsageError: If there is no preset of that name.
    """
    if name not in preset_names():
        raise UsageError(f"there is no preset {name!r}", hint=_nearest(str(name), preset_names()))
    return tomllib.loads((resources.files("unidetox") / "presets" / f"{name}.toml").read_text("utf-8"))


def load_recipe(path: Path, overrides: Sequence[str] = (), *, missing_ok: bool = False) -> Recipe:
    """Read a recipe, put it on top of its preset, apply overrides, check everything and find its files.

    Args:
        path: A TOML file. It may start with ``preset = "paper"``.
        overrides: Settings like ``"texts.alpha=0.2"`` that win over the file; values are TOML or plain text.
        missing_ok: Leave the name of a file that is not there as it is; for looking at old runs.

    Raises:
        MissingError: If the recipe or a file that it names does not exist.
        UsageError: If a key is unknown or a value not allowed; names file, key, value and what is allowed.
    """
    path = Path(path)
    own = _read_toml(path)
    labels = {}
    for override in overrides:
        labels[_set_override(own, override)] = "--set"
    own.setdefault("name", path.stem)
    recipe = _build(own, path.name, labels)
    return _resolved(recipe, path.name, path.absolute().parent, missing_ok)


def recipe_from(preset: str, **sections: Any) -> Recipe:
    """Return a preset with some settings changed.

    Args:
        preset: Name of the preset, e.g. ``"paper"``.
        sections: Top-level settings, and sections as dictionaries: ``seed=1, texts={"alpha": 0.2}``.

    Raises:
        MissingError: If a file that is named does not exist.
        UsageError: If a key is unknown or a value not allowed.
    """
    return build_recipe({**sections, "preset": preset}, f"preset {preset}")


def build_recipe(
    settings: Mapping[str, Any], label: str = "settings", labels: Mapping[str, str] | None = None
) -> Recipe:
    """Return a recipe from nested settings; a ``preset`` among them goes below the rest.

    Args:
        settings: Top-level settings and sections, as in a recipe file.
        label: What to call their origin in an error.
        labels: Dotted keys that have another origin, e.g. ``{"texts.alpha": "--alpha"}``.

    Raises:
        MissingError: If a file that is named does not exist.
        UsageError: If a key is unknown or a value not allowed.
    """
    return _resolved(_build(settings, label, labels or {}), label, None, False)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write every setting as TOML; names of files relative to the folder of ``path`` where possible."""
    lines = _toml_lines(portable(recipe, path.absolute().parent), comments=False)
    write_text(path, "\n".join(lines) + "\n")


def portable(recipe: Recipe, base_dir: Path) -> Recipe:
    """Return the recipe with names of files relative to a folder where possible, and ``sandbox:NAME``."""
    return map_sources(recipe, lambda name: portable_name(name, base_dir))


def commented_recipe(preset: str, name: str) -> str:
    """Return a preset as TOML text with a comment at every setting, ready to be edited.

    Args:
        preset: Name of the preset, e.g. ``"paper"``.
        name: What to call runs of the recipe.

    Raises:
        UsageError: If there is no preset of that name.
    """
    recipe = _build({"preset": preset, "name": name}, f"preset {preset}", {})
    head = f"# A recipe for `unidetox run`, with the values of the preset {preset!r}. Change what you like."
    return "\n".join([head, "", *_toml_lines(recipe, comments=True)]) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        hint = "Give the path of a TOML file; `unidetox init` writes one"
        raise MissingError(f"the recipe {path} does not exist", hint=hint) from exc
    except OSError as exc:
        raise UsageError(f"the recipe {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # covers bad TOML and bad UTF-8
        raise UsageError(f"{path} is not valid TOML: {exc}", hint="Correct it; texts need quotes") from exc


def _set_override(data: dict[str, Any], override: str) -> str:
    key, equals, text = override.partition("=")
    *parents, leaf = [part.strip() for part in key.split(".")]
    if not equals or not leaf:
        raise UsageError(
            f"--set {override} is not of the form section.key=value", hint="Example: --set texts.alpha=0.2"
        )
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {override}: {parent} is not a section")
        data = inner
    data[leaf] = _parse_value(text.strip())
    return ".".join([*parents, leaf])


def _parse_value(text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = values["value"]
    # A line break could bring keys of its own, and TOML dates have no place in a recipe: plain text then.
    return value if len(values) == 1 and isinstance(value, (str, bool, int, float, list)) else text


def _build(own: Mapping[str, Any], file: str, labels: Mapping[str, str]) -> Recipe:
    """Put settings on their preset and check them; ``labels``: dotted keys that are not from the file."""
    data = dict(own)
    name = data.pop("preset", None)
    merged = _merge(preset(str(name)), data) if name is not None else data
    try:
        return Recipe.model_validate(merged)
    except ValidationError as exc:
        raise _explain(exc.errors(), file, labels) from None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = _merge(inner, value)
        merged[key] = value
    return merged


def _resolved(recipe: Recipe, file: str, base_dir: Path | None, missing_ok: bool) -> Recipe:
    try:
        return map_sources(recipe, lambda name: resolve_source(name, base_dir, missing_ok=missing_ok))
    except MissingError as exc:
        raise MissingError(f"{file}: {exc.message}", hint=exc.hint) from None


def _explain(errors: Sequence[ErrorDetails], file: str, labels: Mapping[str, str]) -> UsageError:
    """Turn pydantic's findings into one line: the first three, and what to do about the first."""
    found: dict[str, tuple[str, str]] = {}
    for error in errors:
        path = [str(part) for part in error["loc"]]
        key = ".".join(path[: _depth(path)])
        found.setdefault(key, _explain_one(error, path, key))
    lines = [f"{labels.get(key, file)}: {message}" for key, (message, _) in list(found.items())[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return UsageError("; ".join(lines) + more, hint=next(iter(found.values()))[1])


def _depth(path: Sequence[str]) -> int:
    # Below a setting pydantic adds list positions and the branches of a union.
    return 2 if path and path[0] in _sections() else 1


def _sections() -> dict[str, type[Section]]:
    fields = Recipe.model_fields.items()
    return {
        name: field.annotation
        for name, field in fields
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _explain_one(error: ErrorDetails, path: Sequence[str], key: str) -> tuple[str, str]:
    field = _field(path)
    if field is None and error["type"] == "extra_forbidden":
        return f"unknown key {key}", _spelling(path)
    if field is None or (len(path) == 1 and path[0] in _sections()):
        return _explain_section(error, key)
    if error["type"] == "missing":
        return f"{key} is missing", f"It is needed: {field.description}"
    allowed = next((item.text for item in field.metadata if isinstance(item, Allowed)), error["msg"])
    in_list = len(error["loc"]) > _depth(path) and isinstance(error["loc"][_depth(path)], int)
    value = f"{key} holds" if in_list else f"{key} ="
    return f"{value} {_shown(error['input'])}, which is not allowed; it must be {allowed}", f"{field.description}"


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
        f"Not {key} = {_shown(error['input'])}",
    )


def _field(path: Sequence[str]) -> FieldInfo | None:
    section = _sections().get(path[0])
    if section is None or len(path) == 1:
        return Recipe.model_fields.get(path[0])
    return section.model_fields.get(path[1])


def _spelling(path: Sequence[str]) -> str:
    sections = _sections()
    inside = len(path) > 1 and path[0] in sections
    names = list((sections[path[0]] if inside else Recipe).model_fields)
    prefix = f"{path[0]}." if inside else ""
    elsewhere = [f"{name}.{path[-1]}" for name, section in sections.items() if path[-1] in section.model_fields]
    if path[-1] in Recipe.model_fields:
        elsewhere.append(path[-1])
    close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    best = [prefix + close[0]] if close else elsewhere
    if best:
        return f"Did you mean {' or '.join(best)}?"
    return f"Known {'in [' + path[0] + ']' if inside else 'at the top'}: {', '.join(names)}"


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}"


def _shown(value: Any) -> str:
    try:
        text = _toml_value(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _toml_value(value: Any) -> str:
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
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def _toml_lines(section: Section, *, comments: bool) -> Iterator[str]:
    """Yield the lines of a section: its scalars first, then its subsections, each with a header."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            continue
        if comments:
            yield f"# {field.description}"
        if value is not None:
            yield f"{name} = {_toml_value(value)}"
        elif comments:
            yield f"# {name} ="
    for name, inner in subsections(section):
        yield ""
        yield f"[{name}]"
        yield from _toml_lines(inner, comments=comments)
