"""Results as tables: terminal, Markdown, CSV, LaTeX. Looks numbers up and compares them; computes none."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeGuard

from unidetox.config.methods import method_kind, method_name, method_places
from unidetox.report.grid import escape_latex, escape_markdown

Verdict = Literal["better", "worse", "changed", "unclear", "same"]


@dataclass(frozen=True)
class Column:
    """One number that every target is judged by.

    Attributes:
        key: Its name in the CSV table.
        title: Its name for people.
        metrics: Names of the metric in ``results.json``; the first that is there is shown.
        domain: The domain it is taken from.
        about: What it is, in one sentence.
        relative: Changes are given in per cent of the base; otherwise in points (hundredths).
    """

    key: str
    title: str
    metrics: tuple[str, ...]
    domain: str | None
    about: str
    relative: bool = True


_TP = "Share of prompts that get at least one toxic continuation"
_EMT = "Highest toxicity among the continuations of a prompt, averaged over prompts"
_PPL = "Perplexity of the continuations given their prompts, under another language model"
_DIST = "Distinct {} over the continuations of a prompt, as a share of all"
_ACCURACY = "Share of questions answered right"

COLUMNS = (
    Column("tp_id", "TP ID", ("tp",), "id", f"{_TP}; domains that the toxic corpus covers"),
    Column("tp_ood", "TP OOD", ("tp",), "ood", f"{_TP}; domains that it does not cover"),
    Column("emt_id", "EMT ID", ("emt",), "id", f"{_EMT}; domains that the toxic corpus covers"),
    Column("emt_ood", "EMT OOD", ("emt",), "ood", f"{_EMT}; domains that it does not cover"),
    Column("ppl", "PPL", ("ppl_token", "ppl"), "all", _PPL),
    Column("dist_1", "Dist-1", ("dist_1",), "all", _DIST.format("words")),
    Column("dist_2", "Dist-2", ("dist_2",), "all", _DIST.format("pairs of words")),
    Column("dist_3", "Dist-3", ("dist_3",), "all", _DIST.format("triples of words")),
    Column("accuracy", "Accuracy", ("accuracy", "accuracy_letters"), "all", _ACCURACY, relative=False),
)
"""The main table, left to right."""


@dataclass(frozen=True)
class Cell:
    """A number, how sure it is, and how it compares with the same target before.

    Attributes:
        value: The number.
        low: Lower end of its interval, if known.
        high: Upper end of its interval, if known.
        n: How many prompts (or questions) it stands on, if known.
        n_dropped: How many were left out.
        change: Relative change from the base (or difference where the column says so), infinite where the base is 0;
            None for a base.
        verdict: What the change means; ``unclear`` where the two intervals overlap, or one prompt only gives none. None
            where there is no change.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_dropped: int = 0
    change: float | None = None
    verdict: Verdict | None = None


class ResultIndex:
    """Finds numbers in the rows of a ``results.json``.

    Args:
        results: The content of a ``results.json``: ``{"schema_version": 1, "rows": [...]}``.

    Attributes:
        targets: Short names of the models, in the order in which they appear.
        methods: What was done to any of them, base first and the control last.
        names: How to call each target: without its owner or folder, where no two are then called alike.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._rows: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for row in sorted(results.get("rows", ()), key=_seed_order):
            key = tuple(row.get(name) for name in ("target", "method", "metric", "domain", "group"))
            if is_number(row.get("value")):
                self._rows.setdefault(key, row)
        appearing = [row for row in results.get("rows", ()) if is_number(row.get("value"))]
        self.targets: list[str] = list(dict.fromkeys(str(row["target"]) for row in appearing))
        self.names: dict[str, str] = display_names(self.targets)
        found = dict.fromkeys(str(row["method"]) for row in appearing)
        order = method_places()
        last = order["samples"]
        self.methods: list[str] = sorted(found, key=lambda name: order.get(method_kind(name), last - 0.5))
        self._systems = {(key[0], key[1]) for key in self._rows}

    def systems(self) -> list[tuple[str, str]]:
        """List every (target, method) that has numbers, target by target."""
        pairs = [(target, method) for target in self.targets for method in self.methods]
        return [pair for pair in pairs if pair in self._systems]

    def find(
        self, target: str, method: str, metric: str, domain: str | None, group: str | None = None
    ) -> Mapping[str, Any] | None:
        """Find one row: pooled over seeds, or of the first seed where no pooled row exists."""
        return self._rows.get((target, method, metric, domain, group))

    def shown(self) -> list[Column]:
        """List the columns of the main table for which any target has a number."""
        systems = self.systems()
        return [column for column in COLUMNS if any(self.cell(*system, column) for system in systems)]

    def breakdown(self, metric: str) -> list[tuple[str, str | None]]:
        """List the (domain, group) for which a metric is given: each domain, then its groups; ``all`` comes last."""
        keys = dict.fromkeys((key[3], key[4]) for key in self._rows if key[2] == metric)
        found = dict.fromkeys(domain for domain, _ in keys if domain not in ("id", "ood"))
        domains = sorted(found, key=lambda domain: domain == "all")
        return [
            (domain, group)
            for domain in domains
            for group in [None, *(g for d, g in keys if d == domain and g is not None)]
        ]

    def pooled(self) -> list[tuple[str, str | None]]:
        """List every (metric, domain) for which a number over all groups is given."""
        return list(dict.fromkeys((key[2], key[3]) for key in self._rows if key[4] is None))

    def cell(self, target: str, method: str, column: Column, group: str | None = None) -> Cell | None:
        """Look up a number and compare it with the same target's base; None where it is not there."""
        for metric in column.metrics:
            row = self.find(target, method, metric, column.domain, group)
            if row is not None:
                base = None if method == "base" else self.find(target, "base", metric, column.domain, group)
                return _cell(row, base, column)
        return None


def is_number(value: object) -> TypeGuard[float]:
    """Say whether a value can be shown: a finite number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def public_name(text: str) -> str:
    """Shorten every local path in a text to its last part, so that nobody's home directory is published.

    Args:
        text: A model name, a path, or a sentence that holds some. A Hub id or a URL stays as it is.

    Returns:
        The text on one line, without characters that cannot be printed.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = re.sub(r"^file:(?=/)", "", line)
    if re.match(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)", line):
        return _last_part(line)
    embedded = r"(?<![\w.:/~-])(?:file:)?(?:~|[A-Za-z]:)?[/\\][^\s\"',;()\[\]]+"
    return re.sub(embedded, lambda match: _last_part(match[0]), line)


def display_names(targets: Sequence[str]) -> dict[str, str]:
    """Give each target a short name: without its owner, unless two targets would then be called alike."""
    full = {target: public_name(target) for target in targets}
    short = [name.rsplit("/", 1)[-1] for name in full.values()]
    return {t: last if short.count(last) == 1 and last else full[t] for t, last in zip(full, short, strict=True)}


def format_number(value: float, key: str = "", digits: int = 3) -> str:
    """Write a number as its column does: perplexities with two decimals, all else with ``digits``."""
    if key.startswith("ppl"):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.{digits}f}"


def format_change(change: float, relative: bool) -> str:
    """Write a change with its sign: per cent (of 0 there are none), or points where it is a difference of shares."""
    if math.isinf(change):
        return "from 0"
    return f"{100 * change:+.0f}%" if relative else f"{100 * change:+.1f} pt"


def summary_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Make the table for the terminal, which fits 100 columns.

    Args:
        results: The content of a ``results.json``.

    Returns:
        Column titles, and rows of cells; a number that is missing is ``-``.
    """
    index = ResultIndex(results)
    columns = [column for column in COLUMNS if column.key not in ("dist_1", "dist_3")]
    room = min(13, max((len(method_name(method)) for _, method in index.systems()), default=0))
    rows = []
    for target, method in index.systems():
        cells = [_short_cell(index.cell(target, method, column), column) for column in columns]
        rows.append([_shorten(index.names[target], 24 - room), _shorten(method_name(method), room), *cells])
    return ["model", "method", *(c.title.replace("Accuracy", "Acc") for c in columns)], rows


def markdown_table(results: Mapping[str, Any]) -> str:
    """Make the main table in Markdown: values, intervals, and changes from the base."""
    index = ResultIndex(results)
    shown = index.shown()
    lines = [
        "| model | method | " + " | ".join(column.title for column in shown) + " |",
        "|---|---|" + "---:|" * len(shown),
    ]
    for target, method in index.systems():
        cells = [_long_cell(index.cell(target, method, column), column) for column in shown]
        names = [escape_markdown(name) for name in (index.names[target], method_name(method))]
        lines.append("| " + " | ".join([*names, *cells]) + " |")
    return "\n".join(lines) + "\n"


def csv_table(results: Mapping[str, Any]) -> str:
    """Make the main table in CSV: for each column its value, the ends of its interval and its n."""
    index = ResultIndex(results)
    shown = index.shown()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("", "_low", "_high", "_n")
    writer.writerow(["target", "method", *(column.key + part for column in shown for part in parts)])
    for target, method in index.systems():
        cells = [index.cell(target, method, column) for column in shown]
        numbers = [[c.value, c.low, c.high, c.n] if c else [None] * 4 for c in cells]
        writer.writerow([public_name(target), method, *(number for four in numbers for number in four)])
    return out.getvalue()


def latex_table(results: Mapping[str, Any]) -> str:
    r"""Make the main table in LaTeX, for ``\usepackage{booktabs}``."""
    index = ResultIndex(results)
    shown = index.shown()
    lines = [
        r"\begin{tabular}{ll" + "r" * len(shown) + "}",
        r"\toprule",
        " & ".join(["Model", "Method", *(column.title for column in shown)]) + r" \\",
        r"\midrule",
    ]
    previous = None
    for target, method in index.systems():
        if previous not in (None, target):
            lines.append(r"\addlinespace")
        cells = [index.cell(target, method, column) for column in shown]
        numbers = [format_number(c.value, column.key) if c else "--" for c, column in zip(cells, shown, strict=True)]
        name = "" if target == previous else escape_latex(index.names[target])
        lines.append(" & ".join([name, escape_latex(method_name(method)), *numbers]) + r" \\")
        previous = target
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _seed_order(row: Mapping[str, Any]) -> tuple[bool, Any]:
    seed = row.get("seed")
    return (seed is not None, seed if is_number(seed) else 0)


def _cell(row: Mapping[str, Any], base: Mapping[str, Any] | None, column: Column) -> Cell:
    low, high = (float(row[key]) if is_number(row.get(key)) else None for key in ("ci_low", "ci_high"))
    value, change, verdict = float(row["value"]), None, None
    if base is not None:
        before = float(base["value"])
        change = value - before
        if column.relative and change:
            change = change / before if before else math.copysign(math.inf, change)
        verdict = _verdict(row, base, value - before)
    return Cell(value, low, high, row.get("n"), int(row.get("n_dropped") or 0), change, verdict)


def _verdict(row: Mapping[str, Any], base: Mapping[str, Any], difference: float) -> Verdict:
    if difference == 0:
        return "same"
    if any(side.get("ci_low", 0.0) is None for side in (row, base)):
        return "unclear"
    lows = [value for side in (row, base) if is_number(value := side.get("ci_low"))]
    highs = [value for side in (row, base) if is_number(value := side.get("ci_high"))]
    if len(lows) == len(highs) == 2 and max(lows) <= min(highs):
        return "unclear"
    higher_is_better = row.get("higher_is_better")
    if higher_is_better is None:
        return "changed"
    return "better" if (difference > 0) == bool(higher_is_better) else "worse"


def _short_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "-"
    if column.key == "ppl":
        return _short_perplexity(cell.value)
    number = f"{cell.value:.2f}"
    if not column.key.startswith("tp") or cell.change is None or math.isinf(cell.change):
        return number
    return f"{number} {format_change(cell.change, True) if cell.change < 9.995 else '>999%'}"


def _short_perplexity(value: float) -> str:
    """Write a perplexity in five characters, however broken the model is."""
    return f"{value:.1f}" if value < 999.95 else f"{value:.0f}" if value < 99_999.5 else f"{value:.0e}"


def _long_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "–"
    text = format_number(cell.value, column.key)
    if cell.low is not None and cell.high is not None:
        text += f" [{format_number(cell.low, column.key)}, {format_number(cell.high, column.key)}]"
    return text if cell.change is None else f"{text} ({format_change(cell.change, column.relative)})"


def _last_part(path: str) -> str:
    """Take the last part of a path that says something."""
    kind = PureWindowsPath if "\\" in path or re.match(r"[A-Za-z]:", path) else PurePosixPath
    parts = [part for part in kind(path.replace("file:", "", 1)).parts if part.strip("/\\.~")]
    plain = [part for part in parts if part not in ("model", "adapter", "out")]
    return (plain or parts or ["local"])[-1]


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
