"""The one place that prints: messages, progress and tables, on standard error unless they are the result."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from traceback import format_exc

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from unidetox.core.errors import UniDetoxError
from unidetox.core.names import hide_secrets
from unidetox.core.provenance import now


@dataclass
class _State:
    verbosity: int = 0
    log: Path | None = None


_state = _State()
_LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""
# A table is made for 100 columns; a pipe, which has no width of its own, gets them.
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 100)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class _ConsoleHandler(logging.Handler):
    """Shows what rooms that may not print say through `logging`, each line once."""

    def emit(self, record: logging.LogRecord) -> None:
        _warn_once(record.getMessage())


_handler = _ConsoleHandler(logging.WARNING)


def configure(verbosity: int = 0) -> None:
    """Set how much is said: -1 results and errors only, 0 normal, 1 and more also the details."""
    _state.verbosity = verbosity
    logging.getLogger("unidetox").addHandler(_handler)
    if verbosity <= 0:
        # Library chatter a user cannot act on; `-v` shows it.
        warnings.filterwarnings("ignore")


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Keep every message with its time in a file, the details too, however little is shown.

    Args:
        path: The file; lines are added to what is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    outer, _state.log = _state.log, path
    try:
        yield
    finally:
        _state.log = outer


def _say(message: str, verbosity: int, style: str | None = None) -> None:
    """Keep a line, and show it if at least so much is to be said."""
    if _state.log is not None:
        with contextlib.suppress(OSError), _state.log.open("a", encoding="utf-8") as file:
            file.write(f"{now()} {hide_secrets(message)}\n")
    if _state.verbosity >= verbosity:
        _err.print(message, markup=False, style=style)


def info(message: str) -> None:
    """Say one line about what is being done."""
    _say(message, 0)


def detail(message: str) -> None:
    """Say one line that only `-v` shows."""
    _say(message, 1, "dim")


def warn(message: str) -> None:
    """Say one line about something that the user may want to change."""
    _say(f"warning: {message}", 0, "yellow")


@functools.cache
def _warn_once(message: str) -> None:
    warn(message)


def error(exc: UniDetoxError) -> None:
    """Print a user-facing error as one line."""
    _err.print(f"error: {hide_secrets(' '.join(str(exc).split()))}", markup=False, style="bold red")


def traceback() -> None:
    """Show where the exception at hand arose; for `-v`."""
    _err.print(hide_secrets(format_exc()), markup=False)


def result(text: str) -> None:
    """Print a result on standard output."""
    _out.print(text, markup=False)


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show how far the block is, how long it has taken and about how long it will: a bar, or plain lines.

    Lines, at most one a minute, are for where standard error is no terminal.

    Args:
        description: What is counted, e.g. ``"sampling"``.
        total: How many items there are in all.

    Yields:
        A function that takes how many more items are done, parts of them too. What an earlier call has done already is
        told first, and does not count for the time that remains.
    """
    if _state.verbosity < 0 or not _err.is_terminal:
        yield _Lines(description, total)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # Large pieces may take longer than the half minute that rich looks back.
    with Progress(*columns, console=_err, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


class _Lines:
    """Progress in plain lines."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total = description, total
        self._begun = self._said = monotonic()
        self._done = 0.0
        self._first: tuple[float, float] | None = None

    def __call__(self, done: float) -> None:
        time = monotonic()
        self._done += done
        since, before = self._first = self._first or (time, self._done)
        if time - self._said < _LINE_EVERY or self._done >= self._total:
            return
        self._said = time
        line = f"{self._description}: {int(self._done)} of {self._total} in {_time(time - self._begun)}"
        if self._done > before:
            line += f", about {_time((self._total - self._done) * (time - since) / (self._done - before))} left"
        info(line)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first columns are left-aligned text, numbers are right-aligned."""
    sheet = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        right = bool(rows) and all(_is_number(row[index]) for row in rows)
        sheet.add_column(name, justify="right" if right else "left", no_wrap=right)
    for row in rows:
        sheet.add_row(*row)
    _out.print(sheet)


def _is_number(cell: str) -> bool:
    return not cell or cell == "-" or cell.lstrip("+-±").replace(".", "", 1)[:1].isdigit()
