"""A verb: a function, the options that it takes, and the command that is made of it when it is typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from unidetox.cli.options import COMPUTING, OUTPUT, Option, Setting
from unidetox.core import console
from unidetox.core.errors import UsageError

if TYPE_CHECKING:
    from unidetox.config.fields import Section

# Settings of no section that are options of every verb that computes.
_TOP = ("seed", "device", "dtype", "trust_remote_code")


@dataclass(frozen=True)
class Shared:
    """Options of every verb."""

    offline: bool
    as_json: bool
    quiet: bool
    verbose: bool

    @staticmethod
    def options() -> list[click.Parameter]:
        """Return them for the parser."""
        return [
            Option("--offline", "Use only files of this machine; ask no hub.", COMPUTING, is_flag=True),
            Option("--json as_json", "Print the result as JSON on standard output.", is_flag=True),
            Option("-q --quiet", "Say nothing but results and errors.", is_flag=True),
            Option("-v --verbose", "Say more, and show where an error arose.", is_flag=True),
        ]


@dataclass(frozen=True)
class ComputeOptions(Shared):
    """Options of verbs that compute.

    Attributes:
        limit: At most so many of everything.
        fresh: Whether to start over.
        overrides: What ``--set`` says; nothing where it is in `given` already.
        given: Settings that were given by name; the rest keeps its default.
    """

    limit: int | None
    fresh: bool
    overrides: tuple[str, ...]
    given: dict[str, Any]

    @staticmethod
    def options() -> list[click.Parameter]:
        """Return them for the parser."""
        few = "Take at most so many texts or prompts: a quick try."
        over = "Any setting of a recipe that the verb reads, e.g. texts.alpha=0.2; may be repeated."
        return [
            Option("--limit", few, COMPUTING, type=click.IntRange(min=1), metavar="INTEGER"),
            Option("--set overrides", over, COMPUTING, multiple=True, metavar="SECTION.KEY=VALUE"),
            Option("--fresh", "Start over, replacing what the output holds.", is_flag=True),
            *Shared.options(),
        ]

    def settings(self) -> list[str]:
        """Return what is said over a recipe: ``--set`` first, then the options that every verb has."""
        return [*self.overrides, *(f"{key}={json.dumps(value)}" for key, value in self.given.items())]


@dataclass(frozen=True)
class Verb:
    """A function and the options that it takes.

    Attributes:
        run: Does it; takes the common options, then its own by name.
        params: Arguments and options of its own.
        common: `ComputeOptions`, or `Shared` where nothing is computed.
        section: The section whose settings are its options: ``Texts``.
        without: Settings that are no options of it.
        aliases: Setting -> former name of its option.
        repeatable: Settings that may be given several times.
        whole: Whether it reads a whole recipe, of which ``--set`` takes every section.
    """

    run: Callable[..., None]
    params: tuple[click.Parameter, ...]
    common: type[Shared] = ComputeOptions
    section: str = ""
    without: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    repeatable: tuple[str, ...] = ()
    whole: bool = False

    @property
    def name(self) -> str:
        """What is typed."""
        return self.run.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        """What help says that it does."""
        return str(self.run.__doc__)

    def command(self) -> Command:
        """Return the command; imports the settings."""
        settings = self.settings() if self.common is ComputeOptions else []

        def call(**values: Any) -> None:
            more: dict[str, Any] = {}
            if settings:
                typed = {str(option.name): option.typed(values.pop(str(option.name))) for option in settings}
                overrides = values.pop("overrides")
                more["given"] = {} if self.whole else self._given_by(overrides)
                more["given"] |= {name: value for name, value in typed.items() if value is not None}
                more["overrides"] = overrides if self.whole else ()
            own = {str(param.name): values.pop(str(param.name)) for param in self.params}
            common = self.common(**values, **more)
            _prepare(common)
            self.run(common, **own)

        params = [*self.params, *settings, *self.common.options()]
        return Command(self.name, params=params, help=self.summary, callback=call)

    def settings(self) -> list[Setting]:
        """Return the options that are settings: those of the section, then those of no section."""
        from unidetox.config.settings import Recipe

        kind = self._kind()
        names = [name for name in kind.by_heading() if name not in self.without]
        options = [
            Setting(kind, name, [self.aliases[name]] if name in self.aliases else [], name in self.repeatable)
            for name in names
        ]
        return [*options, *(Setting(Recipe, name) for name in self._top())]

    def _kind(self) -> type[Section]:
        from unidetox.config import settings

        kind: type[Section] = getattr(settings, self.section or "Section")
        return kind

    def _top(self) -> list[str]:
        """Return the settings of no section; a section may have its own in their place."""
        return [name for name in _TOP if name not in {*self.without, *self._kind().model_fields}]

    def _given_by(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return what ``--set`` gives a verb of one section, which takes nothing but what it reads."""
        from unidetox.config.recipe import apply_overrides, build_section, check_setting
        from unidetox.config.settings import Recipe

        section, top = self.section.lower(), self._top()
        said: dict[str, Any] = {}
        apply_overrides(said, overrides)
        own = said.pop(section) if isinstance(said.get(section), Mapping) else {}
        foreign = [*(key for key in said if key not in top), *(f"{section}.{k}" for k in own if k in self.without)]
        if foreign:
            what = f"--set {foreign[0]}: `{self.name}` does not read it"
            raise UsageError(what, hint=f"It reads {section}.KEY, {', '.join(top)}")
        build_section(self._kind(), own, "--set")
        for name, value in said.items():
            check_setting(Recipe, name, value, f"--set {name}={value}")
        return {**own, **said}


def verb(*params: click.Parameter, **more: Any) -> Callable[[Callable[..., None]], Verb]:
    """Make a verb of a function.

    Args:
        params: Arguments and options of its own.
        more: Further attributes of `Verb`.
    """
    return lambda function: Verb(function, params, **more)


class Command(click.Command):
    """A command whose help has headings."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, what it does, and arguments and options by heading; what all verbs have comes last."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(param, "heading", OUTPUT), []).append(record)
        for last in (COMPUTING, OUTPUT):
            groups[last] = groups.pop(last, [])
        _write_groups(formatter, groups)


class App(click.Group):
    """All verbs; only the one that is typed is made a command.

    Args:
        verbs: In the order of the list.
        more: As for any group.
    """

    def __init__(self, verbs: Sequence[Verb], **more: Any) -> None:
        super().__init__(no_args_is_help=True, **more)
        self.verbs = {verb.name: verb for verb in verbs}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a verb; None where there is no such verb."""
        return self.verbs[cmd_name].command() if cmd_name in self.verbs else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their whole sentences."""
        _write_groups(formatter, {"Commands": [(name, verb.summary) for name, verb in self.verbs.items()]})


def _write_groups(formatter: click.HelpFormatter, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write lists under headings, all second columns at one place."""
    lengths = [len(term) for rows in groups.values() for term, _ in rows]
    width = max((length for length in lengths if length <= 28), default=0)
    for heading, rows in groups.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)


def _prepare(common: Shared) -> None:
    """Apply the shared options; before any library reads the environment."""
    console.configure(-1 if common.quiet else int(common.verbose))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if common.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
