"""The one place that prints: messages, progress and tables, on standard error unless they are the result."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from traceback import format_exc
from typing import Any

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
    screens: dict[str, tuple[Any, Console]] = field(default_factory=dict)


_state = _State()
_LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""
# What a terminal acts on, what turns text round, and halves of pairs that nothing can write.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def _plain(text: str, kept: str = "") -> str:
    """Write control characters as escapes: names and texts are anybody's, and may hold commands to a terminal."""
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] in kept else m[0].encode("unicode_escape").decode(), text)


class _Stream:
    """What a console writes to: any object that can write and flush, closed or without signs for all that is said.

    Args:
        stream: The object.
        needed: Whether it is an error that nothing can be written.
    """

    def __init__(self, stream: Any, needed: bool) -> None:
        self._stream, self._lost = stream, (ValueError,) if needed else (ValueError, OSError)
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    @staticmethod
    def writable(text: str, encoding: str) -> str:
        """Return a text with escapes in place of what the encoding has no signs for."""
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def write(self, text: str) -> None:
        """Write a text, if there is still somewhere to."""
        if self._stream is None:
            return
        with contextlib.suppress(*self._lost):
            try:
                self._stream.write(self.writable(text, self.encoding))
            except UnicodeEncodeError:  # it does not say in what it encodes
                self._stream.write(self.writable(text, "ascii"))

    def flush(self) -> None:
        """Hand on what was written."""
        if self._stream is not None:
            with contextlib.suppress(*self._lost):
                self._stream.flush()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError, OSError):
            return False


def _screen(name: str) -> Console:
    """The console of ``stdout`` or ``stderr`` as it is now; nothing is lost if a message is."""
    stream = getattr(sys, name)
    stream = getattr(stream, "rich_proxied_file", stream)  # while a bar is shown, rich stands between
    known = _state.screens.get(name)
    if known is None or known[0] is not stream:
        known = _state.screens[name] = stream, _console(_Stream(stream, needed=name == "stdout"))
    return known[1]


def _console(file: Any) -> Console:
    """Say how to write to a stream. Variables like FORCE_COLOR make no terminal of a file."""
    terminal = file.isatty()
    # A table is made for 100 columns; what has no width of its own gets them.
    console = Console(
        file=file, force_terminal=terminal, force_interactive=None if terminal else False,
        width=None if terminal else 100, highlight=False, soft_wrap=True, markup=False, emoji=False,
    )  # fmt: skip
    if not console.width:
        console.width = 100
    return console


def is_watched() -> bool:
    """Say whether there is a terminal that can show bars."""
    return _screen("stderr").is_interactive


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
    message = _plain(hide_secrets(message))
    if _state.log is not None:
        with contextlib.suppress(OSError), _state.log.open("a", encoding="utf-8") as file:
            file.write(f"{now()} {message}\n")
    if _state.verbosity >= verbosity:
        _screen("stderr").print(message, style=style)


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
    _screen("stderr").print(_plain(f"error: {hide_secrets(' '.join(str(exc).split()))}"), style="bold red")


def traceback() -> None:
    """Show where the exception at hand arose; for `-v`, and for what is nobody's mistake but ours."""
    _screen("stderr").print(_plain(hide_secrets(format_exc().rstrip()), "\n"))


def result(text: str) -> None:
    """Print a result on standard output."""
    _screen("stdout").print(_plain(text, "\n"))


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show how far the block is, how long it has taken and about how long it will: a bar, or plain lines.

    Lines, at most one a minute and one at the end, are for where standard error is no terminal.

    Args:
        description: What is counted, e.g. ``"sampling"``.
        total: How many items there are in all.

    Yields:
        A function that takes how many more items are done, parts of them too. What an earlier call has done already is
        told first, and does not count for the time that remains.
    """
    if _state.verbosity < 0 or not is_watched():
        lines = _Lines(description, total)
        yield lines
        lines.end()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # Large pieces may take longer than the half minute that rich looks back.
    with Progress(*columns, console=_screen("stderr"), transient=True, speed_estimate_period=600) as bar:
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
        left = (self._total - self._done) * (time - since) / (self._done - before) if self._done > before else None
        self._line("" if left is None else f", about {_time(left)} left")

    def end(self) -> None:
        """Say how long it took."""
        self._line("")

    def _line(self, more: str) -> None:
        info(f"{self._description}: {int(self._done)} of {self._total} in {_time(monotonic() - self._begun)}{more}")


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first columns are left-aligned text, numbers are right-aligned."""
    screen = _screen("stdout")

    def shown(text: str) -> str:
        return _Stream.writable(_plain(text), screen.encoding)  # before it is laid out, as escapes are longer

    title, *columns = map(shown, (title, *columns))
    sheet = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        right = bool(rows) and all(_is_number(row[index]) for row in rows)
        sheet.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        sheet.add_row(*map(shown, row))
    screen.print(sheet)


def _is_number(cell: str) -> bool:
    return not cell or cell == "-" or cell.lstrip("+-±").replace(".", "", 1)[:1].isdigit()
