"""What verbs share: options, how they become those of a command, and how a result is printed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unidetox.core import console


@dataclass(frozen=True)
class Shared:
    """Options of every verb."""

    offline: Annotated[bool, typer.Option("--offline", help="Use only files of this machine; ask no hub.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, and show where an error arose.")] = False


@dataclass(frozen=True)
class Work(Shared):
    """Options of verbs that compute."""

    seed: Annotated[int | None, typer.Option(help="Root of all randomness; 42 unless a recipe says otherwise.")] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None
    dtype: Annotated[str | None, typer.Option(help="auto (bfloat16 where it is fast), float32, bfloat16.")] = None
    limit: Annotated[int | None, typer.Option(help="Take at most so many texts or prompts: a quick try.", min=1)] = None
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run a model's own code.")] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, replacing what the output holds.")] = False

    def given(self) -> dict[str, Any]:
        """Return what was said about how to compute, for a recipe."""
        trust = self.trust_remote_code or None
        return said(seed=self.seed, device=self.device, dtype=self.dtype, trust_remote_code=trust)


Output = Annotated[Path, typer.Option("--output", "-o", help="Directory for the result.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")]


def command_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as the parser wants it: its parameter ``common`` becomes the options of `Shared` or `Work`."""
    hints = typing.get_type_hints(function, include_extras=True)
    kind = hints.pop("common")
    extra = typing.get_type_hints(kind, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [p for n, p in inspect.signature(function).parameters.items() if n != "common"]
    parameters = [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
    parameters += [
        inspect.Parameter(f.name, keyword, default=f.default, annotation=extra[f.name])
        for f in dataclasses.fields(kind)
    ]

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        common = kind(**{f.name: values.pop(f.name) for f in dataclasses.fields(kind)})
        _prepare(common)
        return function(common=common, **values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _prepare(common: Shared) -> None:
    """Apply the shared options; before any library reads the environment."""
    console.configure(-1 if common.quiet else int(common.verbose))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if common.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def said(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the rest keeps the default of the recipe's section."""
    return {name: value for name, value in options.items() if value is not None}


def settings_of(common: Work, overrides: list[str] | None) -> list[str]:
    """Return what is said over a recipe: ``--set`` first, then the options that every verb has."""
    return [*(overrides or []), *(f"{key}={json.dumps(value)}" for key, value in common.given().items())]


def batch_size_of(value: str | None) -> int | str | None:
    """Read ``--batch-size``: a number, or a word that settings check."""
    return int(value) if value is not None and value.isdecimal() else value


def answer(common: Shared, fields: dict[str, Any], line: str) -> None:
    """Print a result: one line, or one JSON object."""
    console.result(json.dumps(fields, default=str) if common.as_json else line)


def show_results(common: Shared, results: dict[str, Any], output: Path) -> None:
    """Print the main table of results and where the page is, or the results as JSON."""
    if common.as_json:
        console.result(json.dumps(results))
        return
    from unidetox.report.main_table import summary_table

    console.table("Results", *summary_table(results))
    console.result(f"page: {output / 'report' / 'index.html'}")
