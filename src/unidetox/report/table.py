"""The tables of the report: one kind, written in Markdown and LaTeX here and drawn by `templates/table.html.j2`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: The number or words.
        interval: The ends of the 95 % interval of a number, if known.
        note: What belongs to it and matters less, e.g. how it has changed; may have lines.
        kind: ``better``, ``worse`` or nothing; the note says the same, so that colour adds none.
        method: The method that it names, or whose colour its bar has.
        bar: A share in 0..1 to draw beside it.
    """

    text: str
    interval: tuple[str, str] | None = None
    note: str = ""
    kind: str = ""
    method: str = ""
    bar: float | None = None

    def plain(self, escape: Callable[[str], str] = str) -> str:
        """Write the cell on one line: ``TEXT [LOW, HIGH] (NOTE)``.

        Args:
            escape: What to do with its words.
        """
        interval = f"[{escape(', '.join(self.interval))}]" if self.interval else ""
        note = f"({escape(', '.join(self.note.splitlines()))})" if self.note else ""
        return " ".join(filter(None, (escape(self.text), interval, note)))


NONE = Cell("–")
"""What is not known."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under titles.

    Attributes:
        title: Its name for people; empty where it stands under another one.
        about: What it shows, in a sentence or two.
        columns: Titles.
        rows: Cells; as many in each as there are columns.
        words: How many of the first columns are words, not numbers. Of two or more, the first is what rows belong to
            (a model, say), and is written once for all of them.
        notes: What some of the words mean: term and meaning.
        hidden: Whether cells hold words of texts, which may offend.
        abouts: What each column is, for a pointer that rests on its title; as many as columns, or none.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    notes: Sequence[tuple[str, str]] = ()
    hidden: bool = False
    abouts: Sequence[str] = ()

    def again(self) -> list[bool]:
        """Say of each row whether it belongs to the same as the one before."""
        same = [self.words > 1 and a[0].text == b[0].text for a, b in pairwise(self.rows)]
        return [False, *same][: len(self.rows)]


def markdown(table: Table) -> str:
    """Write a table in Markdown, under a heading where it has a title."""
    about = [escape_markdown(table.about), ""] if table.about else []
    head = [f"## {escape_markdown(table.title)}", "", *about] if table.title else []
    marks = ["---"] * table.words + ["---:"] * (len(table.columns) - table.words)
    rows = [[cell.plain(escape_markdown) for cell in row] for row in table.rows]
    notes = [f"- {escape_markdown(term)}: {escape_markdown(meaning)}" for term, meaning in table.notes]
    lines = ["| " + " | ".join(row) + " |" for row in (map(escape_markdown, table.columns), marks, *rows)]
    return "\n".join([*head, *lines, *([""] if notes else []), *notes]) + "\n"


def latex(table: Table) -> str:
    r"""Write a table in LaTeX, for ``\usepackage{booktabs}``, under a comment where it has a title."""
    head = [f"% {table.title}. {table.about}".strip()] if table.title else []
    kinds = "l" * table.words + "r" * (len(table.columns) - table.words)
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row(map(escape_latex, table.columns)), r"\midrule"]
    for again, row in zip(table.again(), table.rows, strict=True):
        if table.words > 1 and not again and row is not table.rows[0]:
            lines.append(r"\addlinespace")
        first, *others = (cell.plain(escape_latex) for cell in row)
        lines.append(_latex_row(["" if again else first, *others]))
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape_markdown(text: str) -> str:
    """Escape what Markdown reserves."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text)


def escape_latex(text: str) -> str:
    """Escape what LaTeX reserves."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"\u00a0": "~", "−": "$-$", "→": r"$\to$", "–": "--", "<": "$<$", ">": "$>$"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
