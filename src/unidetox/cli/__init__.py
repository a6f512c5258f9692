"""The command line: parse, call, print. Only this file exits."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from unidetox.cli.looking import doctor, report, status
from unidetox.cli.making import demo, detoxify, distill, train_toxic
from unidetox.cli.measuring import analyze, evaluate
from unidetox.cli.options import command_of
from unidetox.cli.recipes import compare, init, run, tune
from unidetox.core import console
from unidetox.core.errors import UniDetoxError, UsageError, was_interrupted
from unidetox.core.version import __version__

app = typer.Typer(
    help="Make any causal language model less toxic, with one command, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130

# Typer brings a parser of its own or uses click, by version; either way its errors have one ancestor.
ParserError: Any = typer.BadParameter.__mro__[2]

# In the order in which `--help` lists them.
_VERBS = (
    demo, detoxify, train_toxic, distill, evaluate, analyze, run, tune, compare, status, report, init, doctor,
)  # fmt: skip
for _function in _VERBS:
    app.command(_function.__name__.replace("_", "-"))(command_of(_function))


def _version(show: bool) -> None:
    if show:
        console.result(f"unidetox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make any causal language model less toxic, with one command, and measure it."""


def main() -> None:
    """Run the command line and exit: 0 ok, 1 failure, 2 usage, 3 missing, 4 locked, 130 interrupted."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="unidetox", standalone_mode=False)
    except ParserError as exc:
        if "NoArgs" in type(exc).__name__:
            console.result(exc.format_message())
        else:
            console.error(UsageError(exc.format_message().rstrip("."), hint=_help_hint(exc)))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as exc:
        if not was_interrupted(exc):
            return _failed(exc, arguments)
        code = INTERRUPTED
    if code == INTERRUPTED:  # some versions of Typer catch Ctrl-C themselves and return this
        console.error(UniDetoxError("interrupted", hint="The same command goes on where it stopped"))
    return int(code or 0)


def _failed(exc: Exception, arguments: list[str]) -> int:
    if isinstance(exc, UniDetoxError):
        if "-v" in arguments or "--verbose" in arguments:
            console.traceback()
        console.error(exc)
        return exc.exit_code
    if isinstance(exc, OSError):
        where = f" ({exc.filename})" if exc.filename else ""
        console.error(UniDetoxError(f"{exc.strerror or exc}{where}", hint="Check disk space and permissions"))
        return 1
    raise exc


def _help_hint(exc: Any) -> str:
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else "unidetox"
    return f"See `{path} --help`"
