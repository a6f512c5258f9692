"""The command line: parse, call, print. Only this file exits."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from unidetox.cli.doctor import doctor
from unidetox.cli.recipes import compare, demo, init, report, run, status, tune
from unidetox.cli.steps import analyze, detoxify, distill, evaluate, train_toxic
from unidetox.cli.verbs import App
from unidetox.core import console
from unidetox.core.errors import Terminated, UniDetoxError, UsageError, interruption
from unidetox.core.version import __version__


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        console.result(f"unidetox {__version__}")
        ctx.exit()


app = App(
    "unidetox",
    # In the order in which `--help` lists them.
    [demo, detoxify, train_toxic, distill, evaluate, analyze, run, tune, compare, status, report, init, doctor],
    help="Make any causal language model less toxic, with one command, and measure it.",
    params=[
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
        )
    ],
    context_settings={"max_content_width": 120},
)


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
    raise Terminated(number)


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 ok, 1 failure, 2 usage, 3 missing, 4 locked, 129 hung up, 130 interrupted, 143 terminated.
    """
    _open_closed_streams()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before it is read
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` asks
            signal.signal(number, _terminate)
    try:
        code = _run(sys.argv[1:])
    except Exception:
        console.traceback()
        code = 1
    sys.exit(code)


def _open_closed_streams() -> None:
    """Put a stream that nothing comes from in place of a closed one.

    The next file that is opened would get its number, and what a library writes by number would be written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as the process lives


def _run(arguments: list[str]) -> int:
    try:
        with app.make_context("unidetox", arguments) as context:
            app.invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        console.result(exc.format_message())
        return 2
    except click.ClickException as exc:
        console.error(UsageError(exc.format_message().rstrip("."), hint=_help_hint(exc)))
        return 2
    except BaseException as exc:
        return _failed(exc, arguments)
    return 0


def _failed(exc: BaseException, arguments: list[str]) -> int:
    if stop := interruption(exc):
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else "terminated"
        console.error(UniDetoxError(what, hint="The same command goes on where it stopped"))
        return 128 + number
    if isinstance(exc, UniDetoxError):
        if "-v" in arguments or "--verbose" in arguments:
            console.traceback()
        console.error(exc)
        return exc.exit_code
    if isinstance(exc, BrokenPipeError):  # the reader of a pipe had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # The packages that write weights have errors of their own for a full disk.
    if type(exc).__name__ == "SafetensorError" or "file write failed" in str(exc):
        exc = OSError(str(exc))
    if isinstance(exc, OSError):
        where = f" ({exc.filename})" if exc.filename else ""
        console.error(UniDetoxError(f"{exc.strerror or exc}{where}", hint="Check disk space and permissions"))
        return 1
    raise exc


def _help_hint(exc: Any) -> str:
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else "unidetox"
    return f"See `{path} --help`"
