"""Where the marks of the report's drawings go: plain geometry; `templates/charts.html.j2` draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unidetox.config.methods import method_name
from unidetox.report.main_table import COLUMNS, Cell, Column, ResultIndex, format_number

WIDTH = 460
_LEFT, _RIGHT, _TOP = 10, 42, 8
_NAME, _STEP, _GAP = 22, 17, 12
_Box = tuple[float, float, float, float]
_PLANE_HEIGHT, _AXIS_LEFT, _AXIS_BOTTOM = 330, 46, 44


@dataclass(frozen=True)
class Tick:
    """A grid line: where it is, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point with its interval(s), in SVG units."""

    x: float
    y: float
    method: str
    label: str
    text: str
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    label_x: float = 0.0


@dataclass(frozen=True)
class Lane:
    """One model's strip in a panel: its name, and where its base lies."""

    name: str
    y: float
    top: float
    bottom: float
    base_x: float | None


@dataclass(frozen=True)
class Panel:
    """Dots and intervals of one metric: one lane a model, one line a method."""

    title: str
    about: str
    height: float
    ticks: Sequence[Tick]
    lanes: Sequence[Lane]
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Arrow:
    """From a model's base to what a method made of it."""

    x1: float
    y1: float
    x2: float
    y2: float
    head: str
    method: str


@dataclass(frozen=True)
class Plane:
    """Toxicity against perplexity: what a fall in toxicity costs in fluency."""

    title: str
    x_title: str
    height: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Mark]
    arrows: Sequence[Arrow] = field(default_factory=list)
    names: Sequence[tuple[float, float, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """Where a value lies: from ``low..high`` to ``start..end`` in SVG units; what lies outside is put at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def maybe(self, value: float | None) -> float | None:
        """Place a value that may be unknown."""
        return None if value is None else self(value)


def panels(index: ResultIndex) -> list[Panel]:
    """Lay out TP and EMT, in and out of distribution; those without numbers are left out."""
    shown = []
    for metric in ("tp", "emt"):
        columns = [column for column in COLUMNS if column.metrics == (metric,)]
        cells = [c for column in columns for c in _cells(index, column).values()]
        shown += [_panel(index, column, cells) for column in columns if _cells(index, column)]
    return shown


def planes(index: ResultIndex) -> list[Plane]:
    """Lay out the toxicity / perplexity planes, in and out of distribution, where both are known."""
    ppl = next(column for column in COLUMNS if column.key == "ppl")
    shown = []
    for column in (column for column in COLUMNS if column.metrics == ("tp",)):
        toxicity, fluency = _cells(index, column), _cells(index, ppl)
        both = {
            (index.names[target], method): (fluency[target, method], cell)
            for (target, method), cell in toxicity.items()
            if (target, method) in fluency
        }
        if both:
            shown.append(_plane(column, both))
    return shown


def _cells(index: ResultIndex, column: Column) -> dict[tuple[str, str], Cell]:
    found = {system: index.cell(*system, column) for system in index.systems()}
    return {system: cell for system, cell in found.items() if cell is not None}


def _panel(index: ResultIndex, column: Column, everything: Iterable[Cell]) -> Panel:
    lanes: dict[str, dict[str, Cell]] = {}
    for (target, method), cell in _cells(index, column).items():
        lanes.setdefault(index.names[target], {})[method] = cell
    return _layout(_full_title(column), column.about, lanes, everything)


def lane_panel(title: str, about: str, lanes: Mapping[str, Mapping[str, Cell]]) -> Panel:
    """Lay out shares of any kind: lane -> method -> number.

    Args:
        title: What the panel is about.
        about: What the numbers are.
        lanes: From top to bottom, each with at least one number.
    """
    return _layout(title, about, lanes, [cell for cells in lanes.values() for cell in cells.values()])


def _layout(title: str, about: str, lanes: Mapping[str, Mapping[str, Cell]], everything: Iterable[Cell]) -> Panel:
    top = ceiling(max(_ends(everything)))
    scale = Scale(0.0, top, _LEFT, WIDTH - _RIGHT)
    strips, marks, y = [], [], float(_TOP)
    for name, cells in lanes.items():
        base = cells.get("base")
        bottom = y + _NAME + _STEP * len(cells)
        strips.append(Lane(name, y + 12, y + _NAME - 4, bottom - 4, scale.maybe(base.value if base else None)))
        for line, (method, cell) in enumerate(cells.items()):
            marks.append(_dot(name, method, cell, scale, y + _NAME + _STEP * (line + 0.4)))
        y = bottom + _GAP
    ticks = [Tick(scale(value), f"{value:g}") for value in steps(0.0, top)]
    return Panel(title, about, y + 18, ticks, strips, marks)


def _dot(target: str, method: str, cell: Cell, scale: Scale, y: float) -> Mark:
    edge = scale(cell.value if cell.high is None else cell.high)
    return Mark(
        scale(cell.value), round(y, 1), method, f"{cell.value:.2f}", _words(target, method, cell),
        x_low=scale.maybe(cell.low), x_high=scale.maybe(cell.high), label_x=max(edge, scale(cell.value) + 5) + 6,
    )  # fmt: skip


def _plane(column: Column, cells: dict[tuple[str, str], tuple[Cell, Cell]]) -> Plane:
    across = _ends(fluency for fluency, _ in cells.values())
    low, high = _round_range(min(across), max(across))
    top = ceiling(max(_ends(toxicity for _, toxicity in cells.values())))
    x = Scale(low, high, _AXIS_LEFT, WIDTH - 14)
    y = Scale(0.0, top, _PLANE_HEIGHT - _AXIS_BOTTOM, 14)
    marks = {system: _point(system, *pair, x, y) for system, pair in cells.items()}
    return Plane(
        title=_full_title(column),
        x_title="perplexity (lower is more fluent)",
        height=_PLANE_HEIGHT,
        x_ticks=[Tick(x(value), f"{value:g}") for value in steps(low, high)],
        y_ticks=[Tick(y(value), f"{value:g}") for value in steps(0.0, top)],
        marks=list(marks.values()),
        arrows=_arrows(marks),
        names=_names(marks),
    )


def _point(system: tuple[str, str], fluency: Cell, toxicity: Cell, x: Scale, y: Scale) -> Mark:
    target, method = system
    words = f"{_words(target, method, toxicity)}, perplexity {format_number(fluency.value, 'ppl')}"
    return Mark(
        x(fluency.value), y(toxicity.value), method, "", words,
        x.maybe(fluency.low), x.maybe(fluency.high), y.maybe(toxicity.low), y.maybe(toxicity.high),
    )  # fmt: skip


def _arrows(marks: dict[tuple[str, str], Mark]) -> list[Arrow]:
    arrows = []
    for (target, method), end in marks.items():
        start = marks.get((target, "base"))
        if start is None or method == "base":
            continue
        length = math.hypot(end.x - start.x, end.y - start.y)
        if length > 24:  # between marks that touch, an arrow is only noise
            arrows.append(_arrow(start, end, length))
    return arrows


def _arrow(start: Mark, end: Mark, length: float) -> Arrow:
    """Draw from rim to rim of the two marks, with a small head."""
    dx, dy = (end.x - start.x) / length, (end.y - start.y) / length
    x1, y1, x2, y2 = start.x + 7 * dx, start.y + 7 * dy, end.x - 9 * dx, end.y - 9 * dy
    left, right = (
        (x2 - 7 * dx - 3.5 * dy, y2 - 7 * dy + 3.5 * dx),
        (x2 - 7 * dx + 3.5 * dy, y2 - 7 * dy - 3.5 * dx),
    )
    head = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((x2, y2), left, right))
    return Arrow(round(x1, 1), round(y1, 1), round(x2 - 5 * dx, 1), round(y2 - 5 * dy, 1), head, end.method)


def _names(marks: dict[tuple[str, str], Mark]) -> list[tuple[float, float, str, str]]:
    """Name each model beside one of its marks, where the name covers least of what else is there."""
    taken = [(mark.x - 8, mark.y - 8, mark.x + 8, mark.y + 8) for mark in marks.values()]
    placed = []
    for target in dict.fromkeys(target for target, _ in marks):
        spots = [spot for (name, _), mark in marks.items() if name == target for spot in _spots(mark, target)]
        box, place = min(spots, key=lambda spot: sum(_overlap(spot[0], other) for other in taken))
        taken.append(box)
        placed.append(place)
    return placed


def _spots(mark: Mark, name: str) -> list[tuple[_Box, tuple[float, float, str, str]]]:
    """List the places for a name around a mark, the best first: the box it fills, and where its text starts."""
    width, spots = 7.4 * len(name), []
    for anchor, dx, dy in (("start", 9, -6), ("end", -9, -6), ("start", 9, 16), ("end", -9, 16), ("middle", 0, -14),
                           ("middle", 0, 26), ("start", 12, -20), ("end", -12, -20), ("middle", 0, -30)):  # fmt: skip
        x, y = mark.x + dx, mark.y + dy
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        outside = max(0.0, _AXIS_LEFT - left) + max(0.0, left + width - WIDTH) + max(0.0, 10 - y)
        if outside == 0:
            spots.append(((left, y - 12, left + width, y + 3), (round(x, 1), round(y, 1), name, anchor)))
    return spots or [((mark.x, mark.y, mark.x, mark.y), (_AXIS_LEFT + 4, mark.y - 10, name, "start"))]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _full_title(column: Column) -> str:
    name, place = column.title.split()
    return f"{name}, {'in' if place == 'ID' else 'out of'} distribution"


def _words(target: str, method: str, cell: Cell) -> str:
    """Say what a mark shows, for a pointer that rests on it."""
    text = f"{target}, {method_name(method)}: {cell.value:.3f}"
    return text if cell.low is None or cell.high is None else f"{text} ({cell.low:.3f} to {cell.high:.3f})"


def _ends(cells: Iterable[Cell]) -> list[float]:
    return [value for c in cells for value in (c.value, c.low, c.high) if value is not None]


def ceiling(value: float) -> float:
    """Round a share up to a good end for an axis."""
    return next((end for end in (0.1, 0.2, 0.4, 0.6, 0.8) if value <= end), max(1.0, math.ceil(value)))


def _step(low: float, high: float) -> float:
    """Choose the distance of grid lines: 1, 2 or 5 times a power of ten, four to eight of them."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.99)


def steps(low: float, high: float) -> list[float]:
    """List the grid lines from one end of an axis to the other."""
    step = _step(low, high)
    return [round(low + i * step, 10) for i in range(int((high - low) / step + 1.01))]


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to whole grid lines, and leave some air around a single value."""
    if high - low < 0.02 * max(high, 1.0):
        low, high = low - 0.1 * max(high, 1.0), high + 0.1 * max(high, 1.0)
    step = _step(low, high)
    return max(0.0, math.floor(low / step) * step), math.ceil(high / step) * step
