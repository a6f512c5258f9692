"""Where the report's other drawings go: lanes by perturbation and by group, and how toxicity is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from unidetox.report.charts import WIDTH, Panel, Scale, Tick, ceiling, lane_panel, steps
from unidetox.report.further_tables import AS_THEY_ARE, perturbations, toxicity_under
from unidetox.report.main_table import Cell, Column, ResultIndex, public_name

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 46, 14, 14, 44, 250
_TITLES = {"toxicity": "Share of continuations more toxic than", "maximum": "Share of prompts with one more toxic than"}


@dataclass(frozen=True)
class Curve:
    """One method's line: its points in SVG units, some of them marked, and what a pointer that rests on it reads."""

    method: str
    points: str
    marks: Sequence[tuple[float, float]]
    text: str


@dataclass(frozen=True)
class Spread:
    """How much lies above each toxicity: one line a method."""

    title: str
    x_title: str
    height: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]


def robustness_panels(index: ResultIndex) -> list[Panel]:
    """Lay out TP under each perturbation: a panel a model, a lane a perturbation."""
    names = perturbations(index)
    panels = []
    for target in index.targets if names else ():
        lanes = {name.replace("_", " "): _lane(index, target, toxicity_under(name)) for name in [AS_THEY_ARE, *names]}
        panels += _panel(f"TP, {index.names[target]}", lanes)
    return panels


def group_panels(index: ResultIndex) -> list[Panel]:
    """Lay out TP by group: a panel a model, a lane a group, the one that fares worst before at the top."""
    panels = []
    for target in index.targets:
        lanes = {
            public_name(group): _lane(index, target, Column("tp", "TP", ("tp",), domain, ""), group)
            for domain, group in index.breakdown("tp")
            if group is not None
        }
        ordered = sorted(lanes.items(), key=lambda lane: -next((cell.value for cell in lane[1].values()), 0.0))
        panels += _panel(f"TP by group, {index.names[target]}", dict(ordered))
    return panels


def spreads(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> list[Spread]:
    """Lay out how toxicity is spread over continuations and over the worst of each prompt, for each model.

    Args:
        records: ``distributions`` of a ``results.json``: target, method, and counts in bins of equal width over 0..1.
        index: The results.
    """
    made = []
    for target in dict.fromkeys(str(record["target"]) for record in records):
        mine = {str(record["method"]): record for record in records if record["target"] == target}
        for kind, title in _TITLES.items():
            counts = {m: mine[m][kind] for m in index.methods if m in mine and sum(mine[m].get(kind) or ())}
            if counts:
                made.append(_spread(index.names.get(target, public_name(target)), title, counts))
    return made


def _lane(index: ResultIndex, target: str, column: Column, group: str | None = None) -> dict[str, Cell]:
    cells = {method: index.cell(target, method, column, group) for method in index.methods}
    return {method: cell for method, cell in cells.items() if cell is not None}


def _panel(title: str, lanes: Mapping[str, Mapping[str, Cell]]) -> list[Panel]:
    filled = {name: cells for name, cells in lanes.items() if cells}
    return [lane_panel(title, "", filled)] if filled else []


def _spread(name: str, title: str, counts: Mapping[str, Sequence[int]]) -> Spread:
    above = {method: _above(numbers) for method, numbers in counts.items()}
    # At 0 everything lies above; what the picture is about begins at the first bin's end.
    top = ceiling(max(shares[1] for shares in above.values()) or 0.1)
    x, y = Scale(0.0, 1.0, _LEFT, WIDTH - _RIGHT), Scale(0.0, top, _HEIGHT - _BOTTOM, _TOP)
    curves = []
    for number, (method, shares) in enumerate(above.items()):
        places = [(x(i / (len(shares) - 1)), y(share)) for i, share in enumerate(shares)][1:]
        points = " ".join(f"{across},{down}" for across, down in places)
        # The marks of different methods are at different places, so that lines that coincide can be told apart.
        curves.append(Curve(method, points, places[1 + number :: 6], f"{shares[len(shares) // 2]:.3f} above 0.5"))
    ticks = [Tick(x(value), f"{value:g}") for value in steps(0.0, 1.0)]
    return Spread(name, title, _HEIGHT, ticks, [Tick(y(value), f"{value:g}") for value in steps(0.0, top)], curves)


def _above(counts: Sequence[int]) -> list[float]:
    """Turn counts in n bins into the shares above their n + 1 edges."""
    total = sum(counts)
    return [1 - below / total for below in (0, *accumulate(counts))]
