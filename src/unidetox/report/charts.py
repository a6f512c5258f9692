"""Where the marks of the report's pictures go: plain geometry; `templates/charts.html.j2` draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from unidetox.config.methods import method_name
from unidetox.core.names import public_name, unique_slugs
from unidetox.report.further_tables import form_name
from unidetox.report.main_table import COLUMNS, FLUENCY, TOXICITY, Column, Number, ResultIndex, column_of
from unidetox.report.words import format_number, title_of

Lanes = Mapping[str, Mapping[str, Number]]
WIDTH = 460
_NAME, _STEP, _GAP = 22, 17, 12
_PLOT_HEIGHT = 280
_SPREADS = {
    "toxicity": "Share of continuations more toxic than",
    "maximum": "Share of prompts with one more toxic than",
}


class Tick(NamedTuple):
    """A grid line: where it is, and what it says."""

    at: float
    label: str


class Mark(NamedTuple):
    """A point with its interval(s), in SVG units, what stands beside it, and what a pointer that rests on it reads."""

    x: float
    y: float
    method: str
    label: str
    text: str
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


class Lane(NamedTuple):
    """A strip for one model, group or form of prompts: its name, and where its base lies."""

    name: str
    y: float
    top: float
    bottom: float
    base_x: float | None


class Curve(NamedTuple):
    """One method's line: its points in SVG units, some of them marked, and what a pointer that rests on it reads."""

    method: str
    points: str
    marks: Sequence[tuple[float, float]]
    text: str


class Picture(NamedTuple):
    """One drawing, `WIDTH` wide.

    Attributes:
        key: Its file's name, without the ending.
        title: What it is about.
        about: What it shows, for those who cannot see it.
        height: In SVG units.
        frame: Left, top, right and bottom of what the grid lines cross.
        x_ticks: Upright grid lines.
        methods: Those that it shows.
        x_title: What runs from left to right; the title says it where this is empty.
        y_ticks: Level grid lines.
        lanes: Strips, from top to bottom.
        marks: Points.
        start: The point that a line leads from to each other one.
        curves: Lines.
    """

    key: str
    title: str
    about: str
    height: float
    frame: tuple[float, float, float, float]
    x_ticks: Sequence[Tick]
    methods: Sequence[str]
    x_title: str = ""
    y_ticks: Sequence[Tick] = ()
    lanes: Sequence[Lane] = ()
    marks: Sequence[Mark] = ()
    start: Mark | None = None
    curves: Sequence[Curve] = ()


class Scale(NamedTuple):
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

    def ticks(self) -> list[Tick]:
        """Place grid lines: at 1, 2 or 5 times a power of ten, four to eight of them."""
        step = _step(self.low, self.high)
        values = [round(self.low + i * step, 10) for i in range(int((self.high - self.low) / step + 1.01))]
        return [Tick(self(value), f"{value:g}") for value in values]


def panels(index: ResultIndex) -> list[Picture]:
    """Lay out TP and EMT, in and out of distribution: a lane a model; those without numbers are left out."""
    shown = []
    for metric in ("tp", "emt"):
        columns = [column for column in COLUMNS if column.metrics == (metric,)]
        ends = _ends(number for column in columns for number in index.numbers(column).values())
        for column in columns:
            title = f"{title_of(metric)}, {'in' if column.domain == 'id' else 'out of'} distribution"
            lanes = {index.names[target]: _lane(index, target, column) for target in index.targets}
            shown += _panel(column.key, title, lanes, max(ends, default=0.0))
    return shown


def planes(index: ResultIndex) -> list[Picture]:
    """Lay out toxicity against perplexity: a picture a model, over all prompts, where both are known."""
    toxicity, fluency = index.numbers(TOXICITY), index.numbers(FLUENCY)
    top = ceiling(max(_ends(toxicity.values()), default=0.0))
    shown = []
    for target, key in _keys("tp_against_ppl", index.targets):
        known = [m for m in index.methods if (target, m) in toxicity and (target, m) in fluency]
        both = {method: (fluency[target, method], toxicity[target, method]) for method in known}
        if both:
            shown.append(_plane(key, index.names[target], both, top))
    return shown


def robustness_panels(index: ResultIndex) -> list[Picture]:
    """Lay out TP under each perturbation: a picture a model, a lane a perturbation."""
    forms = index.forms("tp")
    shown = []
    for target, key in _keys("robustness", index.targets if forms else ()):
        lanes = {form_name(form): _lane(index, target, column_of("tp", "all", form)) for form in (None, *forms)}
        shown += _panel(key, f"TP, {index.names[target]}", lanes)
    return shown


def group_panels(index: ResultIndex) -> list[Picture]:
    """Lay out TP by group: a picture a model, a lane a group, the one that fares worst before at the top."""
    shown = []
    for target, key in _keys("tp_by_group", index.targets):
        places = [(domain, group) for domain, group in index.breakdown("tp") if group is not None]
        lanes = {public_name(group): _lane(index, target, column_of("tp", domain), group) for domain, group in places}
        ordered = sorted(lanes.items(), key=lambda lane: -next((number.value for number in lane[1].values()), 0.0))
        shown += _panel(key, f"TP by group, {index.names[target]}", dict(ordered))
    return shown


def spreads(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> list[Picture]:
    """Lay out how toxicity is spread over continuations and over the worst of each prompt, for each model.

    Args:
        records: ``distributions`` of a ``results.json``: target, method, and counts in bins of equal width over 0..1.
        index: The results.
    """
    made = []
    for target, key in _keys("spread", list(dict.fromkeys(str(record["target"]) for record in records))):
        mine = {str(record["method"]): record for record in records if record["target"] == target}
        for kind, title in _SPREADS.items():
            counts = {m: mine[m][kind] for m in index.methods if m in mine and sum(mine[m].get(kind) or ())}
            if counts:
                made.append(_spread(f"{key}_{kind}", index.name(target), title, counts))
    return made


def _keys(kind: str, targets: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each target with the name of its picture's file."""
    return [(target, f"{kind}_{name}") for target, name in zip(targets, unique_slugs(targets), strict=True)]


def _lane(index: ResultIndex, target: str, column: Column, group: str | None = None) -> dict[str, Number]:
    found = {method: index.number(target, method, column, group) for method in index.methods}
    return {method: number for method, number in found.items() if number is not None}


def _panel(key: str, title: str, lanes: Lanes, highest: float | None = None) -> list[Picture]:
    """Lay out dots and intervals, a line a method in each lane; the numbers stand in a column on the right.

    Lanes without numbers are left out, and there is no picture without lanes. ``highest``: what must fit; by default
    its own numbers.
    """
    ends = _ends(number for numbers in lanes.values() for number in numbers.values())
    if not ends:
        return []
    left, top, right = 10.0, 4.0, WIDTH - 48.0
    x = Scale(0.0, ceiling(max(ends) if highest is None else highest), left, right)
    strips, marks, y = [], [], top + 4
    for name, numbers in ((name, numbers) for name, numbers in lanes.items() if numbers):
        base, bottom = numbers.get("base"), y + _NAME + _STEP * len(numbers)
        strips.append(Lane(name, y + 12, y + _NAME - 4, bottom - 4, x.maybe(base.value if base else None)))
        for line, (method, number) in enumerate(numbers.items()):
            marks.append(Mark(
                x(number.value), round(y + _NAME + _STEP * (line + 0.4), 1), method, f"{number.value:.2f}",
                _words(name, method, number), x.maybe(number.low), x.maybe(number.high),
            ))  # fmt: skip
        y = bottom + _GAP
    about = f"{title}, by method; the same numbers are in a table of this page"
    methods = list(dict.fromkeys(mark.method for mark in marks))
    return [Picture(key, title, about, y + 18, (left, top, right, y), x.ticks(), methods, lanes=strips, marks=marks)]


def _plot(key: str, title: str, about: str, x: Scale, y: Scale, methods: Iterable[str], **more: Any) -> Picture:
    frame = (x.start, y.end, x.end, y.start)
    return Picture(key, title, about, _PLOT_HEIGHT, frame, x.ticks(), list(methods), y_ticks=y.ticks(), **more)


def _scales(low: float, high: float, top: float) -> tuple[Scale, Scale]:
    return Scale(low, high, 46, WIDTH - 14), Scale(0.0, top, _PLOT_HEIGHT - 44, 14)


def _plane(key: str, name: str, both: Mapping[str, tuple[Number, Number]], top: float) -> Picture:
    across = _ends(fluency for fluency, _ in both.values())
    x, y = _scales(*_round_range(min(across), max(across)), top)
    marks = {
        method: Mark(
            x(fluency.value), y(toxicity.value), method, "",
            f"{_words(name, method, toxicity)}, perplexity {format_number(fluency.value, 'ppl')}",
            x.maybe(fluency.low), x.maybe(fluency.high), y.maybe(toxicity.low), y.maybe(toxicity.high),
        )
        for method, (fluency, toxicity) in both.items()
    }  # fmt: skip
    about = "TP against perplexity, with a line from the model before to what each method made of it"
    return _plot(
        key, f"TP against perplexity, {name}", about, x, y, marks, x_title="perplexity (lower is more fluent)",
        marks=list(marks.values()), start=marks.get("base"),
    )  # fmt: skip


def _spread(key: str, name: str, x_title: str, counts: Mapping[str, Sequence[int]]) -> Picture:
    # From counts in n bins to the shares above their n + 1 edges.
    above = {method: [1 - below / sum(n) for below in (0, *accumulate(n))] for method, n in counts.items()}
    # At 0 everything lies above; what the picture is about begins at the first bin's end.
    x, y = _scales(0.0, 1.0, ceiling(max(shares[1] for shares in above.values()) or 0.1))
    curves = []
    for number, (method, shares) in enumerate(above.items()):
        places = [(x(i / (len(shares) - 1)), y(share)) for i, share in enumerate(shares)][1:]
        points = " ".join(f"{across},{down}" for across, down in places)
        # The marks of different methods are at different places, so that lines that coincide can be told apart.
        curves.append(Curve(method, points, places[1 + number :: 6], f"{shares[len(shares) // 2]:.3f} above 0.5"))
    return _plot(key, name, f"{x_title} each toxicity, by method", x, y, counts, x_title=x_title, curves=curves)


def _words(name: str, method: str, number: Number) -> str:
    """Say what a mark shows."""
    text = f"{name}, {method_name(method)}: {number.value:.3f}"
    return text if number.low is None or number.high is None else f"{text} ({number.low:.3f} to {number.high:.3f})"


def _ends(numbers: Iterable[Number]) -> list[float]:
    return [value for n in numbers for value in (n.value, n.low, n.high) if value is not None]


def ceiling(value: float) -> float:
    """Round a share up to a good end for an axis."""
    return next((end for end in (0.1, 0.2, 0.4, 0.6, 0.8) if value <= end), max(1.0, math.ceil(value)))


def _step(low: float, high: float) -> float:
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.8)


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to whole grid lines, and leave some air around a single value."""
    if high - low < 0.02 * max(high, 1.0):
        low, high = low - 0.1 * max(high, 1.0), high + 0.1 * max(high, 1.0)
    for _ in range(2):  # a wider range may have wider steps
        step = _step(low, high)
        low, high = max(0.0, math.floor(low / step) * step), math.ceil(high / step) * step
    return low, high
