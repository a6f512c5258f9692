"""What is shown, wherever that is: progress in lines; streams that are closed, narrow, no files or no terminals."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unidetox.core import console
from unidetox.core.errors import UniDetoxError


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    console.configure(0)
    yield
    console.configure(0)


def lines(
    capsys: pytest.CaptureFixture[str], total: int, steps: list[tuple[float, float]], *, first: float = 0
) -> list[str]:
    """What is said of steps that take so long (seconds) and do so much."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "monotonic", clock)
        with console.progress("sampling", total) as advance:
            advance(first)
            for seconds, done in steps:
                clock.now += seconds
                advance(done)
    return capsys.readouterr().err.splitlines()


def test_a_line_says_how_long_it_took_and_how_long_it_will(capsys: pytest.CaptureFixture[str]):
    # Ten a minute.
    assert lines(capsys, 100, [(60, 10), (60, 10)]) == [
        "sampling: 10 of 100 in 60 s, about 9 min left",
        "sampling: 20 of 100 in 2 min, about 8 min left",
        "sampling: 20 of 100 in 2 min",
    ]


def test_at_most_one_line_a_minute_and_one_at_the_end(capsys: pytest.CaptureFixture[str]):
    said = lines(capsys, 10_000, [(1, 1)] * 600)
    assert len(said) == 11
    assert said[-2] == "sampling: 600 of 10000 in 10 min, about 2 h 37 min left"
    assert lines(capsys, 50, [(1, 1)] * 50) == ["sampling: 50 of 50 in 50 s"]
    assert lines(capsys, 2, [(300, 1), (300, 1)]) == [
        "sampling: 1 of 2 in 5 min, about 5 min left",
        "sampling: 2 of 2 in 10 min",
    ]


def test_what_was_done_before_is_no_measure_of_the_speed(capsys: pytest.CaptureFixture[str]):
    assert lines(capsys, 1000, [(60, 10)], first=900)[0] == "sampling: 910 of 1000 in 60 s, about 9 min left"


def test_parts_of_items_count(capsys: pytest.CaptureFixture[str]):
    assert lines(capsys, 4, [(30, 0.25), (31, 0.25)])[0] == "sampling: 0 of 4 in 61 s, about 7 min left"
    # What ran out of memory is done again; nothing is known of what is left while nothing is done.
    assert lines(capsys, 4, [(30, 0.25), (31, -0.25)])[0] == "sampling: 0 of 4 in 61 s"


def test_lines_are_kept_in_the_log_and_quiet_says_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with console.logged(tmp_path / "run.log"):
        lines(capsys, 100, [(60, 10)])
    assert "10 of 100 in 60 s" in (tmp_path / "run.log").read_text("utf-8")
    console.configure(-1)
    assert lines(capsys, 100, [(60, 10)]) == []


EVIL = "a\x1b]0;title\x07\x1b[2J\x9b31m\rb\x00\u202ec\udce9"
ESCAPED = r"a\x1b]0;title\x07\x1b[2J\x9b31m\rb\x00\u202ec\udce9"


def say_everything(text: str) -> None:
    """Show a text in every way that there is."""
    console.info(text)
    console.warn(text)
    console.error(UniDetoxError(text, hint=text))
    console.result(text)
    console.table(text, [text, "n"], [[text, "1"]])
    try:
        raise ValueError(text)
    except ValueError:
        console.traceback()
    with console.progress(text, 2) as advance:
        advance(2)


@pytest.mark.parametrize(("text", "shown"), [(EVIL, ESCAPED), ("[red]x[/red] [v1] :cat:", "[red]x[/red] [v1] :cat:")])
def test_text_is_shown_as_it_is_and_control_characters_as_escapes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, shown: str
):
    with console.logged(tmp_path / "run.log"):
        say_everything(text)
    said, log = capsys.readouterr(), (tmp_path / "run.log").read_text("utf-8")
    for place in (said.out, said.err, log):
        assert place.count(shown) >= 2
        assert all(sign == "\n" or sign.isprintable() for sign in place)
    assert len(log.splitlines()) == 3  # whatever a text holds, it makes no lines of its own


class Narrow(io.TextIOWrapper):
    """A stream of some encoding, as a pipe or terminal is, strict about it."""

    def __init__(self, encoding: str) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding=encoding, errors="strict", write_through=True)


@pytest.mark.parametrize(
    ("encoding", "sign"), [("ascii", r"\xe9"), ("latin-1", "é"), ("cp1252", "é"), ("koi8-r", r"\xe9"), ("utf-8", "é")]
)
def test_signs_in_place_of_what_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch, encoding: str, sign: str):
    streams = {name: Narrow(encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(f"sys.{name}", stream)
    say_everything("café 中")
    for stream in streams.values():
        text = stream.kept.getvalue().decode(encoding)
        assert f"caf{sign} {'中' if encoding == 'utf-8' else chr(92) + 'u4e2d'}" in text
    rows = [line for line in streams["stdout"].kept.getvalue().decode(encoding).splitlines() if "caf" in line]
    assert len({len(row) for row in rows[-2:]}) == 1 or encoding == "utf-8"  # columns stay in line


class Writes:
    """No file: it can write and flush, and be compared, so that it has no hash."""

    def __init__(self, error: Exception | None = None) -> None:
        self.text, self.error = "", error

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def write(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.text += text

    def flush(self) -> None:
        pass


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), Writes(), Writes(ValueError("closed"))])
def test_streams_that_are_closed_or_no_files(monkeypatch: pytest.MonkeyPatch, stream: Any):
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    say_everything("text")
    assert not isinstance(stream, Writes) or stream.error or stream.text.count("text") >= 7


def test_a_stream_that_does_not_say_its_encoding(monkeypatch: pytest.MonkeyPatch):
    class Wrapped(Writes):
        def write(self, text: str) -> None:
            self.text += text.encode("ascii").decode()

    stream = Wrapped()
    monkeypatch.setattr("sys.stdout", stream)
    console.result("café")
    assert stream.text == "caf\\xe9\n"


def test_a_message_that_nobody_hears_stops_nothing_but_a_result_that_is_lost_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
):
    full = Writes(OSError(28, "No space left on device"))
    monkeypatch.setattr("sys.stderr", full)
    console.info("text")
    console.error(UniDetoxError("text"))
    monkeypatch.setattr("sys.stdout", full)
    with pytest.raises(OSError, match="No space"):
        console.result("text")


VARIABLES = {
    "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "CLICOLOR_FORCE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": "0",
    "COLORTERM": "truecolor", "TERM": "xterm-256color",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_makes_no_terminal_of_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(name, VARIABLES[name])
    monkeypatch.setattr(console._state, "screens", {})
    say_everything("text")
    said = capsys.readouterr()
    assert not {"\r", "\x1b"} & {*said.err, *said.out} and "text: 2 of 2 in 0 s" in said.err
    assert "│ text │ 1 │" in said.out


def on_a_terminal() -> bytes:
    """What reaches a real terminal."""
    own, other = pty.openpty()
    kept: list[bytes] = []

    def read() -> None:
        while not kept or b"end" not in b"".join(kept):
            kept.append(os.read(own, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, open(other, "w", encoding="utf-8") as terminal:  # noqa: PTH123
        patch.setattr("sys.stderr", terminal)
        patch.setattr("sys.stdout", terminal)
        with console.progress("sampling", 2) as advance:
            console.info("between")
            advance(2)
        console.table("", ["name"], [["long enough"]])
        console.result("end")
        reader.join(5)
    os.close(own)
    return b"".join(kept)


def test_a_bar_where_there_is_a_terminal_that_can_show_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    for width in ("0", "80"):  # some terminals have no width
        monkeypatch.setenv("COLUMNS", width)
        shown = on_a_terminal()
        assert b"\x1b[2K" in shown and b"between" in shown and b"2 of 2" not in shown and b"long enough" in shown
    monkeypatch.setenv("TERM", "dumb")
    shown = on_a_terminal()
    assert b"\x1b" not in shown and b"sampling: 2 of 2" in shown
