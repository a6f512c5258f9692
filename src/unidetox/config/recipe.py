"""Recipes: read from TOML with presets and overrides, checked with one-line errors, written back."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from unidetox.config.fields import Section, map_sources, subsections
from unidetox.config.messages import allowed_values, explain, nearest, shown, toml_value
from unidetox.config.methods import load_method, method_names, methods_in_words, title_of
from unidetox.config.settings import MethodOptions, Recipe
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import write_text
from unidetox.core.names import portable_name
from unidetox.core.resolve import resolve_source

S = TypeVar("S", bound=Section)
_PRESETS = resources.files("unidetox") / "config" / "presets"
# What a limit cuts: settings that say how many.
_NUMBERS = {"toxic": ("limit", "steps"), "texts": ("num_texts",), "detoxify": ("steps",), "evaluate": ("num_prompts",)}


def preset_names() -> list[str]:
    """Return the names of the packaged presets, in alphabetical order."""
    return sorted(item.name.removesuffix(".toml") for item in _PRESETS.iterdir() if item.name.endswith(".toml"))


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a packaged preset as nested dictionaries, names of models as written there.

    Raises:
        UsageError: If there is no preset of that name.
    """
    if name not in preset_names():
        raise UsageError(f"there is no preset {name!r}", hint=nearest(str(name), preset_names()))
    data = tomllib.loads((_PRESETS / f"{name}.toml").read_text("utf-8"))
    below = data.pop("preset", None)
    return data if below is None else _merge(preset(below), data)


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
    own = _with_keys(_read_toml(path), path.name)
    labels = apply_overrides(own, overrides)
    own.setdefault("name", path.stem)
    own.pop("tune", None)  # for `tune` alone: see `tune_settings`
    return _resolved(_build(own, path.name, labels), path.name, path.absolute().parent, missing_ok)


def tune_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return what the section ``[tune]`` of a recipe file holds, unchecked; None where there is none.

    Args:
        path: A TOML file.
        overrides: Settings like ``"tune.trials=5"`` that win over the file.

    Raises:
        MissingError: If the file does not exist.
        UsageError: If it cannot be read, or ``tune`` is no section.
    """
    own = _with_keys(_read_toml(path), path.name)
    apply_overrides(own, overrides)
    found = own.get("tune")
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{path.name}: tune must be a section: [tune] and its settings below it")
    return found


def build_recipe(
    settings: Mapping[str, Any],
    label: str = "settings",
    labels: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Return a recipe from nested settings; a ``preset`` among them goes below the rest.

    Args:
        settings: Top-level settings and sections, as in a recipe file.
        label: What to call their origin in an error.
        labels: Dotted keys that have another origin, e.g. ``{"texts.alpha": "alpha"}``.
        overrides: Settings like ``"texts.alpha=0.2"`` that win over these.

    Raises:
        MissingError: If a file that is named does not exist.
        UsageError: If a key is unknown or a value not allowed.
    """
    own = _with_keys(settings, label)
    known = {**(labels or {}), **apply_overrides(own, overrides)}
    return _resolved(_build(own, label, known), label, None, False)


def build_section(
    kind: type[S], options: Mapping[str, Any], label: str = "settings", *, base_dir: Path | None = None
) -> S:
    """Return one section from its settings, without the recipe around it.

    Args:
        kind: The section, e.g. ``Evaluate``.
        options: Setting -> value.
        label: What to call their origin in an error.
        base_dir: Where names of files count from, besides the working folder.

    Raises:
        MissingError: If a file that is named does not exist.
        UsageError: If a key is unknown or a value not allowed.
    """
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return _resolved(_checked(kind, plain, f"{kind.__name__.lower()}.", label, {}), label, base_dir, False)


def check_setting(kind: type[Section], name: str, value: Any, shown_as: str) -> None:
    """See that one setting may have a value, whatever the others are.

    Args:
        kind: Its section.
        name: The setting.
        value: The value.
        shown_as: How both were given: ``--alpha 2``.

    Raises:
        UsageError: If it may not.
    """
    field = kind.model_fields[name]
    one = create_model("Setting", __base__=Section, value=(field.annotation or Any, field))
    try:
        one.model_validate({"value": value})
    except ValidationError:
        hint = field.description
        raise UsageError(f"{shown_as}: it must be {allowed_values(field)}", hint=hint) from None


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


def limited(recipe: Recipe, limit: int | None) -> Recipe:
    """Return the recipe with no more than ``limit`` of anything: texts, prompts, training steps."""
    if limit is None:
        return recipe
    if limit < 1:
        raise UsageError(f"limit is {limit}", hint="Give a whole number of at least 1")

    cut: dict[str, Section] = {}
    for name, numbers in _NUMBERS.items():
        section = getattr(recipe, name)
        fewer = {number: min(limit, getattr(section, number) or limit) for number in numbers}
        cut[name] = section.model_copy(update=fewer)
    return recipe.model_copy(update=cut)


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


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Put settings over nested ones, in place.

    Args:
        data: Nested settings.
        overrides: Settings like ``"texts.alpha=0.2"``; values are TOML or plain text.

    Returns:
        Dotted key -> where it is from, for errors.

    Raises:
        UsageError: If one has another form.
    """
    return {_set_override(data, override): "--set" for override in overrides}


def _set_override(data: dict[str, Any], override: str) -> str:
    key, equals, text = override.partition("=")
    *parents, leaf = [part.strip() for part in key.split(".")]
    if not equals or not leaf:
        message = f"--set {override} is not of the form section.key=value"
        raise UsageError(message, hint="Example: --set texts.alpha=0.2")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {override}: {parent} is not a section")
    data[leaf] = _parse_value(text.strip())
    return ".".join([*parents, leaf])


def _parse_value(text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = values["value"]
    # A line break could bring keys of its own, and TOML dates have no place in a recipe: plain text then.
    return value if len(values) == 1 and isinstance(value, (str, bool, int, float, list, dict)) else text


def _build(own: Mapping[str, Any], file: str, labels: Mapping[str, str]) -> Recipe:
    """Put settings on their preset and check them; ``labels``: dotted keys that are not from the file."""
    data = dict(own)
    name = data.pop("preset", None)
    below = _with_keys(preset(str(name)), str(name)) if name is not None else {}
    merged = _merge(below, data)
    options = merged.pop("method", {})
    if not isinstance(options, Mapping):
        message = f"{file}: method must hold sections, e.g. [method.dexperts]"
        raise UsageError(message, hint=f"Not method = {shown(options)}")
    recipe = _checked(Recipe, merged, "", file, labels)
    # Of a preset's options, those of methods that are not asked for do not count.
    used, said = recipe.detoxify.methods, data.get("method", {})
    options = {key: value for key, value in options.items() if key in used or key in said}
    methods = {key: _options(key, value, used, file, labels) for key, value in options.items()}
    _check_names(used, methods, file, labels)
    return recipe.model_copy(update={"method": methods})


def _with_keys(data: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Read ``[[target]]`` and ``[[method]]`` as what they stand for: targets, methods, and options by key."""
    own = dict(data)
    section = own.get("detoxify", {})
    for listed, plural, wanted in (("target", "targets", "model"), ("method", "methods", "name")):
        if not isinstance(entries := own.get(listed), list):
            continue
        if not all(isinstance(entry, Mapping) for entry in entries) or not isinstance(section, Mapping):
            raise UsageError(f"{file}: {listed} must be a list of sections: [[{listed}]] and its settings below it")
        if plural in section:
            hint = f"Leave one of the two out: detoxify.{plural} or [[{listed}]]"
            raise UsageError(f"{file}: both [[{listed}]] and detoxify.{plural} are given", hint=hint)
        for entry in entries:
            if wanted not in entry:
                raise UsageError(f"{file}: {listed}.{wanted} is missing", hint=f"Every [[{listed}]] needs one")
            if listed == "target" and (other := sorted(entry.keys() - {wanted})):
                raise UsageError(f"{file}: unknown key target.{other[0]}", hint=f"Known in [[target]]: {wanted}")
        keys = [entry.get("label", entry[wanted]) for entry in entries]
        section = {**section, plural: keys}
        del own[listed]
        if listed == "method":
            options = [{name: value for name, value in entry.items() if name != "label"} for entry in entries]
            own[listed] = dict(zip(keys, options, strict=True))
    return {**own, "detoxify": section} if section else own


def _options(key: str, given: Any, used: Sequence[str], file: str, labels: Mapping[str, str]) -> MethodOptions:
    """Check the options of one method by the method's own rules."""
    place = f"method.{key}"
    if not isinstance(given, Mapping):
        message = f"{file}: {place} must be a section: [{place}] and its settings below it"
        raise UsageError(message, hint=f"Not {place} = {shown(given)}")
    name = given.get("name", key)
    if name not in method_names():
        raise _no_method(f"{labels.get(f'{place}.name', file)}: {place} names no method: {name}")
    if key == "base" and name != "base":
        raise UsageError(f'{file}: "base" is the model as it is, and {name} another method', hint="Give another label")
    if key not in used:
        raise UsageError(f"{file}: {place} has no effect", hint=f'Add "{key}" to detoxify.methods, or leave it out')
    kind: type[MethodOptions] = load_method(name).options
    return _checked(kind, {**given, "name": name}, f"{place}.", file, labels)


def _check_names(
    used: Sequence[str], methods: Mapping[str, MethodOptions], file: str, labels: Mapping[str, str]
) -> None:
    """See that every key is a method, or has options that say which, and that results can tell all apart."""
    titles, label = dict[str, str](), labels.get("detoxify.methods", file)
    for key in used:
        if key not in methods and key not in method_names():
            raise _no_method(f'{label}: detoxify.methods holds "{key}", which is not allowed')
        title = title_of(methods[key].name if key in methods else key, key)
        if (other := titles.setdefault(title, key)) != key:
            message = f'{label}: results would call both "{other}" and "{key}" {title}'
            raise UsageError(message, hint="Give one of them another label")


def _no_method(message: str) -> UsageError:
    return UsageError(f"{message}; it must be a list of distinct methods out of {methods_in_words(method_names())}",
                      hint='Or say which it is: [method.KEY] and name = "dexperts"')  # fmt: skip


def _checked(kind: type[S], data: Any, prefix: str, file: str, labels: Mapping[str, str]) -> S:
    """Make a section of settings, or say in one line what is wrong with them."""
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        raise explain(exc.errors(), kind, prefix, file, labels) from None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **both}


def _resolved(section: S, file: str, base_dir: Path | None, missing_ok: bool) -> S:
    try:
        return map_sources(section, lambda name: resolve_source(name, base_dir, missing_ok=missing_ok))
    except MissingError as exc:
        raise MissingError(f"{file}: {exc.message}", hint=exc.hint) from None


def _toml_lines(section: Section, *, comments: bool) -> Iterator[str]:
    """Yield the lines of a section: its scalars first, then its subsections, each with a header."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section) or name == "method":  # below, under headers of their own
            continue
        if comments:
            yield f"# {field.description}"
        if value is not None:
            yield f"{name} = {toml_value(value)}"
        elif comments:
            yield f"# {name} ="
    for name, inner in subsections(section):
        yield ""
        yield f"[{name}]"
        yield from _toml_lines(inner, comments=comments)
