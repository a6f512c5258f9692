"""Methods side by side, as in the paper: best and second best of each model, the frontier, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unidetox.config.methods import method_name
from unidetox.report.main_table import FLUENCY, TOXICITY, Column, ResultIndex, number_cell
from unidetox.report.table import Cell, Table
from unidetox.report.words import is_number

BEST, SECOND = "*", "+"
_NOTES = (
    (BEST, "best of the model's methods"),
    (SECOND, "second best"),
    ("frontier", "no other method of the model has both a lower TP and a lower perplexity"),
)
_COSTS = ("model", "method", "seconds", "by itself", "peak memory", "slow-down")


def ranking(index: ResultIndex) -> Table | None:
    """Make the paper's table: a row a method, the best and second best number of each model marked.

    Args:
        index: The results.

    Returns:
        The table; None where no model has more than base, one method and a control: the main table shows those.
    """
    if max((len(index.methods_of(target)) for target in index.targets), default=0) <= 3:
        return None
    rows = [
        [Cell(index.names[target]), Cell(method_name(method), method=method), *cells, Cell("yes" if on else "")]
        for target in index.targets
        for method, cells, on in _lines(index, target)
    ]
    about = (
        f"Of each model's methods, {BEST} marks the best and {SECOND} the second best number, with 95 % intervals. A "
        "mark is not a proof: the comparisons say which differences are more than chance."
    )
    columns = ["Model", "Method", *(column.title for column in index.shown()), "Frontier"]
    return Table("Methods side by side", about, columns, rows, 2, _NOTES)


def terminal_rankings(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield a table for each model that fits 100 columns of a terminal: title, columns, rows of cells.

    Args:
        results: The content of a ``results.json``.
    """
    index = ResultIndex(results)
    columns = ["method", *(column.short or column.title for column in index.shown())]
    for target in index.targets:
        lines = _lines(index, target, digits=2)
        yield index.names[target], columns, [[method_name(m), *(cell.text for cell in cells)] for m, cells, _ in lines]


def costs(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> Table | None:
    """Make the table of what each method costs.

    Args:
        records: See `unidetox.pipeline.plan.Plan.costs`.
        index: The results.
    """
    about = (
        "Seconds to make each result on this machine, with all that it needs (toxic copies and texts are shared, and "
        "count for each method that reads them) and by itself; the peak memory, libraries included; and "
        "how many times longer than its base the result generates, measured side by side."
    )
    rows = [[Cell(text) for text in _cost_row(record, index)] for record in records]
    return Table("What each method costs", about, [name.capitalize() for name in _COSTS], rows, 2) if rows else None


def cost_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Make the table of costs for the terminal; without rows where costs are not known."""
    index = ResultIndex(results)
    return list(_COSTS), [_cost_row(record, index) for record in results.get("costs") or ()]


def _cost_row(record: Mapping[str, Any], index: ResultIndex) -> list[str]:
    """Write one method's costs; what is not known is a dash."""
    seconds = [f"{record[key]:.1f}" if is_number(record.get(key)) else "–" for key in ("seconds", "seconds_own")]
    again = " (interrupted)" if int(record.get("sessions") or 1) > 1 else ""
    memory, slow = record.get("peak_bytes"), record.get("slow_down")
    return [
        index.name(str(record["target"])), method_name(str(record["method"])), seconds[0] + again, seconds[1],
        f"{memory / 2**30:.2f} GiB" if is_number(memory) else "–", f"{slow:.2f} x" if is_number(slow) else "–",
    ]  # fmt: skip


def _lines(index: ResultIndex, target: str, digits: int = 3) -> Iterator[tuple[str, list[Cell], bool]]:
    """Yield method, its cells, and whether it is on the frontier, for one model."""
    methods, shown = index.methods_of(target), index.shown()
    marks = {column.key: _marks(index, target, methods, column) for column in shown}
    pairs = {m: [index.number(target, m, column) for column in (TOXICITY, FLUENCY)] for m in methods}
    best = frontier({m: (tp.value, ppl.value) if tp and ppl else None for m, (tp, ppl) in pairs.items()})
    for method in methods:
        cells = []
        for column in shown:
            cell = number_cell(index.number(target, method, column), column, digits=digits, changes=False)
            cells.append(replace(cell, text=cell.text + marks[column.key].get(method, "")))
        yield method, cells, method in best


def _marks(index: ResultIndex, target: str, methods: Sequence[str], column: Column) -> dict[str, str]:
    """Mark the best and the second best number of a column; equals share a mark."""
    found = {method: number for method in methods if (number := index.number(target, method, column)) is not None}
    better = next((number.higher_is_better for number in found.values()), None)
    order = sorted({number.value for number in found.values()}, reverse=bool(better))[:2]
    if better is None or len(order) < 2:
        return {}
    return {m: (BEST, SECOND)[order.index(number.value)] for m, number in found.items() if number.value in order}


def frontier(places: Mapping[str, tuple[float, float] | None]) -> set[str]:
    """Return the names for which no other is at least as low in both numbers and lower in one.

    Args:
        places: Name -> two numbers, lower is better; None where they are not known.
    """
    known = {name: place for name, place in places.items() if place is not None}

    def beaten(a: float, b: float) -> bool:
        return any(x <= a and y <= b and (x, y) != (a, b) for x, y in known.values())

    return {name for name, place in known.items() if not beaten(*place)}
