"""Progress where there is no terminal: plain lines, at most one a minute, with what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from unidetox.core import console


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
    ]


def test_at_most_one_line_a_minute(capsys: pytest.CaptureFixture[str]):
    said = lines(capsys, 10_000, [(1, 1)] * 600)
    assert len(said) == 10
    assert said[-1] == "sampling: 600 of 10000 in 10 min, about 2 h 37 min left"
    assert lines(capsys, 50, [(1, 1)] * 50) == []
    assert lines(capsys, 2, [(300, 1), (300, 1)]) == ["sampling: 1 of 2 in 5 min, about 5 min left"]


def test_what_was_done_before_is_no_measure_of_the_speed(capsys: pytest.CaptureFixture[str]):
    assert lines(capsys, 1000, [(60, 10)], first=900) == ["sampling: 910 of 1000 in 60 s, about 9 min left"]


def test_parts_of_items_count(capsys: pytest.CaptureFixture[str]):
    assert lines(capsys, 4, [(30, 0.25), (31, 0.25)]) == ["sampling: 0 of 4 in 61 s, about 7 min left"]
    # What ran out of memory is done again; nothing is known of what is left while nothing is done.
    assert lines(capsys, 4, [(30, 0.25), (31, -0.25)]) == ["sampling: 0 of 4 in 61 s"]


def test_lines_are_kept_in_the_log_and_quiet_says_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with console.logged(tmp_path / "run.log"):
        lines(capsys, 100, [(60, 10)])
    assert "10 of 100 in 60 s" in (tmp_path / "run.log").read_text("utf-8")
    console.configure(-1)
    assert lines(capsys, 100, [(60, 10)]) == []
