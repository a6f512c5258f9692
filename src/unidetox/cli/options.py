"""Arguments and options: a verb's own, and those that are settings, whose name, help and default stand on the field."""

from __future__ import annotations

import contextlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

if TYPE_CHECKING:
    from unidetox.config.fields import Section

COMPUTING, OUTPUT = "How to compute", "Output"


class Argument(click.Argument):
    """What a verb works on, with a line of help."""

    def __init__(self, name: str, about: str, **more: Any) -> None:
        super().__init__([name], **more)
        self.heading, self.about = "Arguments", about

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return what stands in the list of arguments."""
        return self.make_metavar(ctx), self.about


class Option(click.Option):
    """An option of a verb's own, under a heading."""

    def __init__(self, names: str, about: str, heading: str = OUTPUT, **more: Any) -> None:
        super().__init__(names.split(), help=about, show_default="default" in more, **more)
        self.heading = heading


OUT = Option("-o --output", "Directory for the result.", type=Path, required=True)


class Setting(click.Option):
    """A setting as an option.

    Args:
        kind: The section.
        name: The setting.
        heading: What it stands under in the help.
        aliases: Further names, which help does not show.
        repeatable: Whether it may be given several times; lists may always.
    """

    def __init__(self, kind: type[Section], name: str, heading: str, *aliases: str, repeatable: bool = False) -> None:
        self.kind, self.field, self.heading = kind, kind.model_fields[name], heading
        annotation, dashed = self.field.annotation, name.replace("_", "-")
        self.is_list = get_origin(annotation) is tuple
        super().__init__(
            [name, f"--{dashed}" if annotation is not bool else f"--{dashed}/--no-{dashed}", *aliases],
            default=None, multiple=repeatable or self.is_list, metavar=_metavar(annotation),
            help=self.field.description, expose_value=False, callback=self._give,
        )  # fmt: skip

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return names and form, then the field's description, default, and what is allowed."""
        from unidetox.config.messages import allowed_values

        term = " / ".join([self.opts[0], *self.secondary_opts]) if self.is_flag else f"{self.opts[0]} {self.metavar}"
        default, allowed = self.default_text(), allowed_values(self.field)
        # The form says it already.
        seen = self.is_flag or "|" in str(self.metavar) or allowed.startswith(("a text", "a whole number", "a table"))
        extra = [*([f"default: {default}"] if default else []), *([] if seen else [allowed])]
        return term, f"{self.help}  [{'; '.join(extra)}]" if extra else str(self.help)

    def default_text(self) -> str:
        """Return the field's default as it could be typed; nothing for an empty one."""
        default = self.field.get_default(call_default_factory=True)
        if isinstance(default, (tuple, dict)):
            return ",".join(map(str, default))
        return {None: "none", True: "on", False: "off"}[default] if isinstance(default, bool | None) else str(default)

    def read(self, text: str) -> Any:
        """Read what was typed, and check it at once, so that an error names the option."""
        from unidetox.config.recipe import check_setting

        value = from_text(self.field.annotation, text)
        check_setting(self.kind, str(self.name), value, f"{self.opts[0]} {text}" if text else f'{self.opts[0]} ""')
        return value

    def _give(self, ctx: click.Context, _: click.Parameter, typed: Any) -> None:
        """Put what was typed to the settings that are ``given``."""
        given = ctx.params.setdefault("given", {})
        if self.multiple:
            values = map(self.read, typed or ())
            typed = list(chain(*values) if self.is_list else values) or None
        elif isinstance(typed, str):
            typed = self.read(typed)
        if typed is not None:
            given[self.name] = typed


def from_text(annotation: Any, text: str) -> Any:
    """Read a value as it is typed: ``2``, ``0.5``, ``auto``, ``a,b`` for a list, ``KEY=VALUE,...`` for a table.

    Args:
        annotation: The type of the setting.
        text: What was typed; what cannot be read stays as it is, for the check of the setting to refuse.
    """
    if get_origin(annotation) is tuple:
        return [from_text(get_args(annotation)[0], part.strip()) for part in text.split(",")] if text.strip() else []
    if get_origin(annotation) is dict:
        pairs = [part.strip().rpartition("=") for part in text.split(",")]
        return {key: value for key, _, value in pairs} if all(key for key, _, _ in pairs) else text
    for number in (int, float):
        if {number, float} & _types(annotation):  # a whole number is one of both
            with contextlib.suppress(ValueError):
                return number(text)
    return text


def _types(annotation: Any) -> set[Any]:
    """Return what an annotation is made of: int and "auto" of ``int | Literal["auto"]``."""
    inner = get_args(annotation)
    return set().union(*map(_types, inner)) if inner else {annotation}


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(get_args(annotation))}]"
    types = _types(annotation)
    plain = "INTEGER" if int in types else "NUMBER" if float in types else "TEXT"
    return {tuple: "A,B,...", dict: "KEY=VALUE,..."}.get(get_origin(annotation), plain)
