"""Small tables of words and numbers, written in Markdown and LaTeX; the page draws the same ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: What it says.
        below: What belongs to it and matters less, e.g. an interval.
        kind: ``better``, ``worse`` or nothing; words say the same, so that colour adds none.
    """

    text: str
    below: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        key: Its name in the page.
        title: Its name for people.
        about: What it shows, in a sentence or two.
        columns: Titles.
        rows: Cells; as many in each as there are columns.
        words: How many of the first columns are words, not numbers.
        notes: What some of the words mean: term and meaning.
    """

    key: str
    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    words: int = 1
    notes: Sequence[tuple[str, str]] = ()


def grid_markdown(grid: Grid) -> str:
    """Write a table in Markdown, under a heading."""
    marks = ["---"] * grid.words + ["---:"] * (len(grid.columns) - grid.words)
    lines = [f"## {grid.title}", "", grid.about, "", _line(map(escape_markdown, grid.columns)), _line(marks)]
    rows = [_line(_plain(entry, escape_markdown) for entry in row) for row in grid.rows]
    notes = [f"- {escape_markdown(term)}: {escape_markdown(meaning)}" for term, meaning in grid.notes]
    return "\n".join([*lines, *rows, *([""] if notes else []), *notes]) + "\n"


def grid_latex(grid: Grid) -> str:
    r"""Write a table in LaTeX, for ``\usepackage{booktabs}``, under a comment with its title."""
    head = " & ".join(map(escape_latex, grid.columns)) + r" \\"
    rows = [" & ".join(_plain(entry, escape_latex) for entry in row) + r" \\" for row in grid.rows]
    kinds = "l" * grid.words + "r" * (len(grid.columns) - grid.words)
    start = [f"% {grid.title}. {grid.about}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*start, *rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape_markdown(text: str) -> str:
    """Escape what Markdown reserves."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text)


def escape_latex(text: str) -> str:
    """Escape what LaTeX reserves."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"−": "$-$", "→": r"$\to$", "–": "--", "<": "$<$", ">": "$>$"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(entry: Entry, escape: Callable[[str], str]) -> str:
    return escape(f"{entry.text} ({entry.below})" if entry.below and entry.text else entry.text)
