"""The main table, its columns, and how numbers are found in results. Looks numbers up and compares; computes none."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

from unidetox.config.methods import method_kind, method_name, method_places
from unidetox.core.names import display_names, public_name
from unidetox.report.results_file import upgraded
from unidetox.report.table import NONE, Cell, Table, markdown
from unidetox.report.words import Record, format_change, format_number, is_number, title_of

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
        unit: What its n counts.
        price: Its name in the sentence on what a fall in toxicity costs; empty where it is not part of that.
        short: Its title where there is little room; without it, the whole title.
        summary: Whether the terminal shows it; None: where it was measured.
        form: The perturbation of the prompts; None for the prompts as they are.
        scorer: The scorer, where it is not the main one.
    """

    key: str
    title: str
    metrics: tuple[str, ...]
    domain: str | None
    about: str = ""
    relative: bool = True
    unit: str = "prompts"
    price: str = ""
    short: str = ""
    summary: bool | None = False
    form: str | None = None
    scorer: str | None = None


_TP = "Share of prompts that get at least one toxic continuation"
_EMT = "Highest toxicity among the continuations of a prompt, averaged over prompts"
_PPL = "Perplexity of the continuations given their prompts, under another language model"
_RELEVANCE = "How much likelier that model finds the continuations after their prompts than alone, nats a token"
_DIST = "Distinct {} over the continuations of a prompt, as a share of all"
_ID, _OOD = "domains that the toxic corpus covers", "domains that it does not cover"

COLUMNS = (
    Column("tp_id", "TP ID", ("tp",), "id", f"{_TP}; {_ID}", summary=True),
    Column("tp_ood", "TP OOD", ("tp",), "ood", f"{_TP}; {_OOD}", summary=True),
    Column("emt_id", "EMT ID", ("emt",), "id", f"{_EMT}; {_ID}", summary=True),
    Column("emt_ood", "EMT OOD", ("emt",), "ood", f"{_EMT}; {_OOD}", summary=True),
    Column("ppl", "PPL", ("ppl_token", "ppl"), "all", _PPL, unit="continuations", price="perplexity", summary=True),
    Column("relevance", "Relevance", ("relevance",), "all", _RELEVANCE,
           unit="continuations", price="relevance", short="Rel", summary=None),
    Column("dist_1", "Dist-1", ("dist_1",), "all", _DIST.format("words")),
    Column("dist_2", "Dist-2", ("dist_2",), "all", _DIST.format("pairs of words"), price="Dist-2", summary=True),
    Column("dist_3", "Dist-3", ("dist_3",), "all", _DIST.format("triples of words")),
    Column("accuracy", "Accuracy", ("accuracy", "accuracy_letters"), "all", "Accuracy on the questions",
           relative=False, unit="questions", price="accuracy", short="Acc", summary=True),
)  # fmt: skip
"""The main table, left to right: whatever is said of a column anywhere stands here."""


def column_of(metric: str, domain: str | None, form: str | None = None, scorer: str | None = None) -> Column:
    """Make a column of any metric."""
    return Column(metric, title_of(metric, domain), (metric,), domain, form=form, scorer=scorer)


TOXICITY, FLUENCY = column_of("tp", "all"), next(column for column in COLUMNS if column.key == "ppl")
"""What methods are weighed by: TP over all prompts, and perplexity."""


class Number(NamedTuple):
    """A number, how sure it is, and how it compares with the same target before.

    Attributes:
        value: The number.
        low: Lower end of its interval, if known.
        high: Upper end of its interval, if known.
        n: How many prompts (or questions) it stands on, if known.
        n_dropped: How many were left out.
        higher_is_better: None where neither is.
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
    higher_is_better: bool | None = None
    change: float | None = None
    verdict: Verdict | None = None


class ResultIndex:
    """Finds numbers in the rows of a ``results.json``.

    Args:
        results: The content of a ``results.json``.

    Attributes:
        targets: Short names of the models, in the order in which they appear.
        methods: What was done to any of them, base first and the control last.
        names: How to call each target: without its owner or folder, where no two are then called alike.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        rows = [row for row in upgraded(results).get("rows", ()) if is_number(row.get("value"))]
        self._rows: dict[tuple[Any, ...], Record] = {}
        for row in sorted(rows, key=_seed_order):
            self._rows.setdefault(tuple(row.get(name) for name in _KEY), row)
        self.targets: list[str] = list(dict.fromkeys(str(row["target"]) for row in rows))
        self.names: dict[str, str] = display_names(self.targets)
        order = method_places()
        found = dict.fromkeys(str(row["method"]) for row in rows)
        self.methods: list[str] = sorted(found, key=lambda name: order.get(method_kind(name), order["samples"] - 0.5))
        self._systems = {(key[0], key[1]) for key in self._rows}

    def systems(self) -> list[tuple[str, str]]:
        """List every (target, method) that has numbers, target by target."""
        return [pair for pair in product(self.targets, self.methods) if pair in self._systems]

    def methods_of(self, target: str) -> list[str]:
        """List the methods that have numbers for a target."""
        return [method for method in self.methods if (target, method) in self._systems]

    def name(self, target: str) -> str:
        """Give the name for people of a target, which may have no rows."""
        return self.names.get(target, public_name(target))

    def shown(self) -> list[Column]:
        """List the columns of the main table for which any target has a number."""
        return [column for column in COLUMNS if any(self.number(*system, column) for system in self.systems())]

    def plain(self) -> list[tuple[str, str | None, str | None]]:
        """List every (metric, domain, group) of the prompts as they are and the main scorer."""
        return list(dict.fromkeys(key[2:5] for key in self._rows if key[5:] == (None, None)))

    def breakdown(self, metric: str) -> list[tuple[str | None, str | None]]:
        """List the (domain, group) for which a metric is given: each domain, then its groups; ``all`` comes last."""
        keys = [(domain, group) for name, domain, group in self.plain() if name == metric]
        domains = dict.fromkeys(domain for domain, _ in keys if domain not in ("id", "ood"))
        groups = {domain: [g for d, g in keys if d == domain and g is not None] for domain in domains}
        return [(d, g) for d in sorted(domains, key=lambda domain: domain == "all") for g in (None, *groups[d])]

    def forms(self, metric: str) -> list[str]:
        """List the perturbations under which a metric is given."""
        return list(dict.fromkeys(key[5] for key in self._rows if key[2:4] == (metric, "all") and key[5]))

    def scorers(self) -> list[str]:
        """List the scorers besides the main one."""
        return list(dict.fromkeys(key[6] for key in self._rows if key[6]))

    def number(self, target: str, method: str, column: Column, group: str | None = None) -> Number | None:
        """Look up a number and compare it with the same target's base; None where it is not there.

        It is the one pooled over seeds, or that of the first seed where none is pooled.
        """
        for metric in column.metrics:
            rest = (metric, column.domain, group, column.form, column.scorer)
            if row := self._rows.get((target, method, *rest)):
                return _number(row, None if method == "base" else self._rows.get((target, "base", *rest)), column)
        return None

    def numbers(self, column: Column, method: str | None = None) -> dict[tuple[str, str], Number]:
        """Look up a column for every (target, method), or for those of one method; what is not there is left out."""
        found = {system: self.number(*system, column) for system in self.systems() if method in (None, system[1])}
        return {system: number for system, number in found.items() if number is not None}


_KEY = ("target", "method", "metric", "domain", "group", "form", "scorer")


def number_cell(number: Number | None, column: Column, *, digits: int = 3, changes: bool = True) -> Cell:
    """Write a number, its interval, and how it has changed from the base.

    Args:
        number: The number.
        column: What it is of.
        digits: Decimals, where its metric does not say how many.
        changes: Whether to say how it has changed.
    """
    if number is None:
        return NONE

    def write(value: float) -> str:
        return format_number(value, column.metrics[0], digits)

    interval = None if number.low is None or number.high is None else (write(number.low), write(number.high))
    if number.change is None or not changes:
        return Cell(write(number.value), interval)
    change = "no change" if number.verdict == "same" else format_change(number.change, column.relative)
    kind = number.verdict if number.verdict in ("better", "worse") else ""
    verdict = number.verdict if number.verdict == "unclear" else kind
    return Cell(write(number.value), interval, "\n".join(filter(None, (change, verdict))), kind)


def main_table(index: ResultIndex) -> Table:
    """Make the main table: values, intervals, and changes from the base."""
    return number_table(index, index.shown())


def number_table(index: ResultIndex, columns: Iterable[Column]) -> Table:
    """Make a table with a row for each model and method."""
    shown = list(columns)
    rows = [
        [Cell(index.names[target]), Cell(method_name(method), method=method)]
        + [number_cell(index.number(target, method, column), column) for column in shown]
        for target, method in index.systems()
    ]
    titles = ["Model", "Method", *(column.title for column in shown)]
    return Table("", "", titles, rows, words=2, abouts=["", "", *(column.about for column in shown)])


def markdown_table(results: Mapping[str, Any]) -> str:
    """Make the main table in Markdown: values, intervals, and changes from the base.

    Args:
        results: The content of a ``results.json``.
    """
    return markdown(main_table(ResultIndex(results)))


def csv_table(index: ResultIndex) -> str:
    """Make the main table in CSV: for each column its value, the ends of its interval and its n."""
    shown, out = index.shown(), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    titles = (column.key + part for column in shown for part in ("", "_low", "_high", "_n"))
    writer.writerow(["target", "method", *titles])
    for target, method in index.systems():
        found = [index.number(target, method, column) for column in shown]
        numbers = [[one.value, one.low, one.high, one.n] if one else [None] * 4 for one in found]
        writer.writerow([public_name(target), method, *(number for four in numbers for number in four)])
    return out.getvalue()


def summary_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Make the table for the terminal, which fits 100 columns.

    Args:
        results: The content of a ``results.json``.

    Returns:
        Column titles, and rows of cells; a number that is missing is ``-``.
    """
    index = ResultIndex(results)
    columns = [c for c in COLUMNS if c.summary or (c.summary is None and index.numbers(c))]
    room = min(13, max((len(method_name(method)) for _, method in index.systems()), default=0))
    rows = [
        [_shorten(index.names[target], 24 - room), _shorten(method_name(method), room)]
        + [_short_cell(index.number(target, method, column), column) for column in columns]
        for target, method in index.systems()
    ]
    return ["model", "method", *(column.short or column.title for column in columns)], rows


def _seed_order(row: Record) -> tuple[bool, Any]:
    return (row.get("seed") is not None, row["seed"] if is_number(row.get("seed")) else 0)


def _number(row: Record, base: Record | None, column: Column) -> Number:
    low, high = (float(row[key]) if is_number(row.get(key)) else None for key in ("ci_low", "ci_high"))
    value, change, verdict = float(row["value"]), None, None
    if base is not None:
        before = float(base["value"])
        change = value - before
        if column.relative and change:
            change = change / before if before else math.copysign(math.inf, change)
        verdict = _verdict(row, base, value - before)
    n, dropped, better = row.get("n"), int(row.get("n_dropped") or 0), row.get("higher_is_better")
    return Number(value, low, high, n, dropped, better, change, verdict)


def _verdict(row: Record, base: Record, difference: float) -> Verdict:
    if difference == 0:
        return "same"
    if any(side.get("ci_low", 0.0) is None for side in (row, base)):
        return "unclear"
    lows, highs = ([v for side in (row, base) if is_number(v := side.get(end))] for end in ("ci_low", "ci_high"))
    if len(lows) == len(highs) == 2 and max(lows) <= min(highs):
        return "unclear"
    better = row.get("higher_is_better")
    return "changed" if better is None else "better" if (difference > 0) == bool(better) else "worse"


def _short_cell(number: Number | None, column: Column) -> str:
    if number is None:
        return "-"
    if column.key == "ppl":
        return _short_perplexity(number.value)
    text = f"{number.value:.2f}"
    if not column.key.startswith("tp") or number.change is None or math.isinf(number.change):
        return text
    return f"{text} {100 * number.change:+.0f}%" if number.change < 9.995 else f"{text} >999%"


def _short_perplexity(value: float) -> str:
    """Write a perplexity in five characters, however broken the model is."""
    return f"{value:.1f}" if value < 999.95 else f"{value:.0f}" if value < 99_999.5 else f"{value:.0e}"


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
