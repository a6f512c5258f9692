"""A verb: a function, the options that it takes, and the command that is made of it when it is typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import click

from unidetox.cli.options import COMPUTING, OUTPUT, Option, Setting
from unidetox.core import console
from unidetox.core.errors import UsageError

# Settings of no section that are options of every verb that computes.
_TOP = ("seed", "device", "dtype", "trust_remote_code")
_FEW = "Take at most so many texts or prompts: a quick try."
_OVER = "Any setting of a recipe that the verb reads, e.g. texts.alpha=0.2; may be repeated."
# Its further options.
_COMMON = [
    Option("--limit", _FEW, COMPUTING, type=click.IntRange(min=1), metavar="INTEGER"),
    Option("--set overrides", _OVER, COMPUTING, multiple=True, metavar="SECTION.KEY=VALUE"),
    Option("--fresh", "Start over, replacing what the output holds.", is_flag=True),
]
# Options of every verb.
_SHARED = [
    Option("--offline", "Use only files of this machine; ask no hub.", COMPUTING, is_flag=True),
    Option("--json as_json", "Print the result as JSON on standard output.", is_flag=True),
    Option("-q --quiet", "Say nothing but results and errors.", is_flag=True),
    Option("-v --verbose", "Say more, and show where an error arose.", is_flag=True),
]

Said = Iterator[Any]
"""What a verb says: its result as data for ``--json``; then, for people, lines and tables (title, columns, rows)."""


@dataclass(eq=False)
class Verb(click.Command):
    """A function as a command, whose help has headings.

    Attributes:
        run: Does it; takes arguments and options of its own by name, and what it is told besides: ``limit`` (at most so
            many of everything), ``fresh`` (whether to start over), and settings: those that were typed, by name, or
            ``overrides`` of a recipe.
        own: Arguments and options of its own.
        computes: Whether it is told anything besides.
        section: The section whose settings are its options: ``Texts``; without one, it takes ``--set`` of all sections.
        without: Settings that are no options of it.
        aliases: Setting -> former names of its option.
        repeatable: Settings that may be given several times.
        whole: Whether it takes ``--set`` of all sections, although it has one.
    """

    run: Callable[..., Said]
    own: list[click.Parameter]
    computes: bool = True
    section: str = ""
    without: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repeatable: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        name = self.run.__name__.replace("_", "-")
        super().__init__(name, params=self.own, help=self.run.__doc__, callback=self._call)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own arguments and options, then those that are settings; what all verbs have comes last."""
        *own, shows_help = super().get_params(ctx)
        return [*own, *([*self._settings, *_COMMON] if self.computes else []), *_SHARED, shows_help]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write arguments and options by heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(param, "heading", OUTPUT), []).append(record)
        for last in (COMPUTING, OUTPUT):
            groups[last] = groups.pop(last, [])
        _write_groups(formatter, groups)

    def _call(self, *, offline: bool, as_json: bool, quiet: bool, verbose: bool, **values: Any) -> None:
        # Before any library reads the environment.
        console.configure(-1 if quiet else int(verbose))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        if self.computes:
            values |= self._told(values.pop("overrides"), values.pop("given"))
        said = self.run(**values)
        found = next(said)
        for item in [json.dumps(found, default=str)] if as_json else said:
            if isinstance(item, str):
                console.result(item)
            else:
                console.table(*item)

    def _told(self, overrides: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
        """Return what ``--set`` says, and the settings that were given by name, which win."""
        if not self.section:
            return {"overrides": (*overrides, *(f"{key}={json.dumps(value)}" for key, value in given.items()))}
        return ({"overrides": overrides} if self.whole else self._given_by(overrides)) | given

    @cached_property
    def _settings(self) -> list[Setting]:
        """The options that are settings: those of the section, then those of no section, unless it has its own."""
        from unidetox.config import settings

        kind = getattr(settings, self.section or "Section")
        options = [
            Setting(kind, name, heading, *self.aliases.get(name, ()), repeatable=name in self.repeatable)
            for heading, names in kind.HEADINGS.items()
            for name in names
            if name not in self.without
        ]
        top = [name for name in _TOP if name not in {*self.without, *kind.model_fields}]
        return [*options, *(Setting(settings.Recipe, name, COMPUTING) for name in top)]

    def _given_by(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return what ``--set`` gives a verb of one section, which takes nothing but what it reads."""
        from unidetox.config.recipe import apply_overrides, build_section, check_setting

        section, kind, said = self.section.lower(), self._settings[0].kind, dict[str, Any]()
        top = {str(option.name): option.kind for option in self._settings if option.kind is not kind}
        apply_overrides(said, overrides)
        own = said.pop(section) if isinstance(said.get(section), Mapping) else {}
        foreign = [*(key for key in said if key not in top), *(f"{section}.{k}" for k in own if k in self.without)]
        if foreign:
            what = f"--set {foreign[0]}: `{self.name}` does not read it"
            raise UsageError(what, hint=f"It reads {section}.KEY, {', '.join(top)}")
        build_section(kind, own, "--set")
        for name, value in said.items():
            check_setting(top[name], name, value, f"--set {name}={value}")
        return {**own, **said}


def verb(*params: click.Parameter, **more: Any) -> Callable[[Callable[..., Said]], Verb]:
    """Make a verb of a function.

    Args:
        params: Arguments and options of its own.
        more: Further attributes of `Verb`.
    """
    return lambda function: Verb(function, [*params], **more)


class App(click.Group):
    """All verbs; help lists them in the order in which they are given."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their whole sentences."""
        _write_groups(formatter, {"Commands": [(name, str(verb.help)) for name, verb in self.commands.items()]})


def _write_groups(formatter: click.HelpFormatter, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write lists under headings, all second columns at one place."""
    width = max((len(term) for rows in groups.values() for term, _ in rows if len(term) <= 28), default=0)
    for heading, rows in groups.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)
