"""The section ``[tune]`` of a recipe: what is searched, by which rule, on which prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from unidetox.config.fields import Allowed, Count, Name, OptCount, OptName, Section, Seed, Source, Split
from unidetox.config.messages import toml_value
from unidetox.config.recipe import build_section, load_recipe, tune_settings
from unidetox.config.settings import Recipe
from unidetox.core.errors import UsageError
from unidetox.core.provenance import flatten

Value = str | int | float | bool
Values = Mapping[str, Value]
"""A configuration: dotted setting -> value."""

_RANGE = {"low", "high", "log", "step"}
_SECTIONS = ("toxic", "texts", "detoxify", "method")
# These say what is tuned, not how: another model, other data or another method is another search.
_FIXED = {
    *(f"toxic.{name}" for name in ("model", "corpus", "non_toxic", "column", "duplicates", "limit")),
    *("texts.source", "texts.starts", "detoxify.targets", "detoxify.methods"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both are.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether orders of magnitude are equally likely.
        step: Distance between neighbours; None for any number (whole numbers: 1).
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __contains__(self, value: object) -> bool:
        """Say whether a value can be drawn from it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.step is None and self.low <= value <= self.high  # type: ignore[operator]


Space = Mapping[str, Range | tuple[Value, ...]]
"""Dotted setting -> a range, or a list of values, all different."""


class Tune(Section):
    """How hyper-parameters are searched."""

    method: OptName = Field(
        None, description="Method whose settings are searched, as in detoxify.methods; without it, the first."
    )
    model: Annotated[OptName, Source()] = Field(
        None, description="The one model that is looked at; without it, the first of detoxify.targets."
    )
    trials: Count = Field(20, description="Configurations to try; more of them go on from those that are there.")
    metric: Literal["tp", "emt", "toxicity_mean", "toxic_fraction"] = Field(
        "tp", description="Toxicity that is to become least."
    )
    domain: Literal["all", "id", "ood"] = Field("all", description="Prompts that it is taken over.")
    ceiling: Annotated[float, Field(strict=True, gt=0), Allowed("a number above 0, or inf")] = Field(
        1.1, description="Highest perplexity, as a multiple of the model's own; inf is none."
    )
    floor: Annotated[float, Field(strict=True, ge=0), Allowed("a number of 0 or more")] = Field(
        0.0, description="Lowest relevance of the continuations, as a multiple of the model's own; 0 is none."
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="How configurations are proposed: from what earlier ones gave, or at random."
    )
    seed: Seed = Field(42, description="Seed of the proposals.")
    prompts: Annotated[OptName, Source(("toxigen",))] = Field(
        None, description="Validation prompts; without it, those of the section evaluate."
    )
    split: Annotated[Split | None, Allowed('"validation" or "train", perhaps with a range of rows')] = Field(
        None, description="Part of the prompts; without it, that of the section evaluate."
    )
    num_prompts: OptCount = Field(None, description="Use a random sample of so many prompts.")
    space: Annotated[dict[Name, Any], Allowed('settings and their values: "detoxify.lr" = [1e-5, 5e-5]')] = Field(
        description="What is searched: lists of values, or ranges such as {low = 1e-5, high = 1e-3, log = true}."
    )


@dataclass(frozen=True)
class Problem:
    """A search as a recipe file describes it.

    Attributes:
        path: The recipe file.
        overrides: Settings over the file.
        tune: The section ``[tune]``.
        space: What is searched.
        method: Key of the method that is tuned.
        model: The one model that is looked at.
    """

    path: Path
    overrides: tuple[str, ...]
    tune: Tune
    space: Space
    method: str
    model: str

    def __post_init__(self) -> None:
        """See that every setting takes its values, before hours of work meet one that it does not.

        Raises:
            UsageError: One does not.
        """
        for key, entry in self.space.items():
            # Where the ends of a range are allowed, all between are.
            for value in entry if isinstance(entry, tuple) else (entry.low, entry.high):
                try:
                    self.recipe({key: value})
                except UsageError as exc:
                    raise UsageError(f"tune.space: {exc.message.removeprefix('--set: ')}", hint=exc.hint) from None

    def recipe(self, values: Values) -> Recipe:
        """Return the user's recipe with a configuration put in.

        Args:
            values: Dotted setting -> value.
        """
        return load_recipe(self.path, [*self.overrides, *(f"{key}={toml_value(values[key])}" for key in values)])


def read_problem(path: Path, overrides: Sequence[str] = ()) -> Problem:
    """Read a recipe with a section ``[tune]``, and check every end of its search space.

    Args:
        path: A TOML file.
        overrides: Settings like ``"tune.trials=5"`` that win over the file.

    Raises:
        MissingError: If a file that is named does not exist.
        UsageError: If something is not allowed; names the setting.
    """
    settings = tune_settings(path, overrides)
    if settings is None:
        hint = 'Add [tune] and [tune.space], e.g. "detoxify.lr" = [1e-5, 5e-5, 1e-4]'
        raise UsageError(f"{path.name} has no section [tune]", hint=hint)
    tune = build_section(Tune, settings, path.name, base_dir=path.absolute().parent)
    space = {key: _entry(key, value) for key, value in _flat(tune.space)}
    if not space:
        raise UsageError("tune.space is empty", hint='Name settings: "detoxify.lr" = [1e-5, 5e-5, 1e-4]')
    recipe = load_recipe(path, overrides)
    key = tune.method or next(iter(recipe.detoxify.methods))
    if key == "base":
        raise UsageError('tune.method = "base" has nothing to tune', hint="Name a method, e.g. tune.method=unidetox")
    chosen = [*overrides, *([f"detoxify.methods=[{toml_value(key)}]"] if key not in recipe.detoxify.methods else [])]
    return Problem(path, tuple(chosen), tune, space, key, tune.model or recipe.detoxify.targets[0])


def own_values(recipe: Recipe, space: Space) -> Values | None:
    """Return the recipe's own configuration, or None where the space does not hold it."""
    settings = dict(flatten(recipe.model_dump()))
    own = {key: settings[key] for key, entry in space.items() if settings.get(key) in entry}
    return own if own.keys() == space.keys() else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted settings; TOML reads a dotted key without quotes as nested tables."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and not value.keys() & _RANGE:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _entry(key: str, value: Any) -> Range | tuple[Value, ...]:
    if key.split(".")[0] not in _SECTIONS or "." not in key:
        hint = f"It may hold settings of {', '.join(_SECTIONS)}; what is measured stays the same for all"
        raise UsageError(f'tune.space: "{key}" cannot be searched', hint=hint)
    if key in _FIXED:
        raise UsageError(f'tune.space: "{key}" cannot be searched', hint="Tune one model, corpus and method at a time")
    if isinstance(value, list) and value and len({repr(item) for item in value}) == len(value):
        if all(isinstance(item, str | int | float) for item in value):
            return tuple(value)
    elif isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= _RANGE and _fits(found := Range(**value)):
        return found
    hint = (
        "Give a list of different values, or {low = 1e-5, high = 1e-3, log = true}; log needs low > 0 and takes no step"
    )
    raise UsageError(f'tune.space: "{key}" = {value!r:.80} is neither', hint=hint)


def _fits(found: Range) -> bool:
    numbers = [found.low, found.high, *([found.step] if found.step is not None else [])]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) or found.low >= found.high:
        return False
    if not isinstance(found.log, bool) or (found.log and (found.low <= 0 or found.step is not None)):
        return False
    whole = isinstance(found.low, int) and isinstance(found.high, int)
    return found.step is None or (found.step > 0 and (not whole or isinstance(found.step, int)))
