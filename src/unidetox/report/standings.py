"""Methods side by side, as in the paper: best and second best of each model, the frontier, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unidetox.config.methods import method_name
from unidetox.report.grid import Entry, Grid
from unidetox.report.main_table import COLUMNS, Cell, Column, ResultIndex, format_number, is_number, public_name

BEST, SECOND = "*", "+"
NOTES = (
    (BEST, "best of the model's methods"),
    (SECOND, "second best"),
    ("frontier", "no other method of the model has both a lower TP and a lower perplexity"),
)
_SHORT = {"dist_1": "D-1", "dist_2": "D-2", "dist_3": "D-3", "accuracy": "Acc"}
_TOXICITY = Column("tp_all", "TP", ("tp",), "all", "Share of prompts that get at least one toxic continuation")
_FLUENCY = next(column for column in COLUMNS if column.key == "ppl")


def grids(results: Mapping[str, Any], index: ResultIndex) -> list[Grid]:
    """Make the tables of standings and costs, where several methods stand side by side or costs are known."""
    made = [standings(index), costs(results.get("costs") or (), index)]
    return [grid for grid in made if grid is not None]


def standings(index: ResultIndex) -> Grid | None:
    """Make the paper's table: a row a method, the best and second best number of each model marked.

    Args:
        index: The results.

    Returns:
        The table; None where no model has more than base, one method and a control: the main table shows those.
    """
    if max((len(_methods(index, target)) for target in index.targets), default=0) <= 3:
        return None
    shown = index.shown()
    rows = [
        [Entry(index.names[target]), Entry(method_name(method)), *entries, Entry("yes" if on else "")]
        for target in index.targets
        for method, entries, on in _lines(index, target, shown)
    ]
    about = (
        f"Of each model's methods, {BEST} marks the best and {SECOND} the second best number, with 95 % intervals. A "
        "mark is not a proof: the comparisons say which differences are more than chance."
    )
    columns = ["model", "method", *(column.title for column in shown), "frontier"]
    return Grid("standings", "Methods side by side", about, columns, rows, 2, NOTES)


def standing_tables(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield a table for each model that fits 100 columns of a terminal: title, columns, rows of cells.

    Args:
        results: The content of a ``results.json``.
    """
    index = ResultIndex(results)
    shown = index.shown()
    columns = ["method", *(_SHORT.get(column.key, column.title) for column in shown)]
    for target in index.targets:
        lines = _lines(index, target, shown, digits=2)
        yield (
            index.names[target],
            columns,
            [[method_name(m), *(entry.text for entry in found)] for m, found, _ in lines],
        )


def costs(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> Grid | None:
    """Make the table of what each method costs.

    Args:
        records: See `unidetox.pipeline.plan.Plan.costs`.
        index: The results.
    """
    if not records:
        return None
    about = (
        "Seconds to make each result on this machine, with all that it needs (toxic copies and texts are shared, and "
        "count for each method that reads them) and by itself; the most memory in use at once, libraries included; and "
        "how many times longer than its base the result writes, measured side by side."
    )
    columns = ["model", "method", "seconds", "by itself", "peak memory", "slow-down"]
    rows = [[Entry(text) for text in cost_row(record, index.names)] for record in records]
    return Grid("costs", "What each method costs", about, columns, rows, 2)


def cost_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Make the table of costs for the terminal; without rows where costs are not known."""
    names = ResultIndex(results).names
    columns = ["model", "method", "seconds", "by itself", "peak memory", "slow-down"]
    return columns, [cost_row(record, names) for record in results.get("costs") or ()]


def cost_row(record: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Write one method's costs; what is not known is a dash."""
    target, memory = str(record["target"]), record.get("peak_bytes")
    seconds = [f"{record[key]:.1f}" if is_number(record.get(key)) else "–" for key in ("seconds", "seconds_own")]
    again = " (interrupted)" if int(record.get("sessions") or 1) > 1 else ""
    slow = record.get("slow_down")
    return [
        names.get(target, public_name(target)), method_name(str(record["method"])), seconds[0] + again, seconds[1],
        f"{memory / 2**30:.2f} GiB" if is_number(memory) else "–", f"{slow:.2f} x" if is_number(slow) else "–",
    ]  # fmt: skip


def _methods(index: ResultIndex, target: str) -> list[str]:
    return [method for name, method in index.systems() if name == target]


def _lines(
    index: ResultIndex, target: str, shown: Sequence[Column], digits: int = 3
) -> Iterator[tuple[str, list[Entry], bool]]:
    """Yield method, its cells, and whether it is on the frontier, for one model."""
    methods = _methods(index, target)
    marks = {column.key: _marks(index, target, methods, column) for column in shown}
    best = frontier({m: _place(index, target, m) for m in methods})
    for method in methods:
        cells = [(column, index.cell(target, method, column)) for column in shown]
        yield (
            method,
            [_entry(cell, column, marks[column.key].get(method, ""), digits) for column, cell in cells],
            method in best,
        )


def _entry(cell: Cell | None, column: Column, mark: str, digits: int) -> Entry:
    if cell is None:
        return Entry("–")
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"{format_number(cell.low, column.key, digits)} to {format_number(cell.high, column.key, digits)}"
    return Entry(format_number(cell.value, column.key, digits) + mark, interval)


def _marks(index: ResultIndex, target: str, methods: Sequence[str], column: Column) -> dict[str, str]:
    """Mark the best and the second best number of a column; equals share a mark."""
    found = {method: cell.value for method in methods if (cell := index.cell(target, method, column)) is not None}
    row = next((r for m in methods for k in column.metrics if (r := index.find(target, m, k, column.domain))), None)
    better = row.get("higher_is_better") if row else None
    if better is None or len(set(found.values())) < 2:
        return {}
    order = sorted(set(found.values()), reverse=bool(better))[:2]
    return {method: (BEST, SECOND)[order.index(value)] for method, value in found.items() if value in order}


def _place(index: ResultIndex, target: str, method: str) -> tuple[float, float] | None:
    toxicity, fluency = (index.cell(target, method, column) for column in (_TOXICITY, _FLUENCY))
    return (toxicity.value, fluency.value) if toxicity and fluency else None


def frontier(places: Mapping[str, tuple[float, float] | None]) -> set[str]:
    """Return the names for which no other is at least as low in both numbers and lower in one.

    Args:
        places: Name -> two numbers, lower is better; None where they are not known.
    """
    known = {name: place for name, place in places.items() if place is not None}
    return {
        name
        for name, place in known.items()
        if not any(
            all(a <= b for a, b in zip(other, place, strict=True)) and other != place for other in known.values()
        )
    }
