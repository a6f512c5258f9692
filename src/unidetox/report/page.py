"""`results.json` to a page, and to tables beside it. Shows numbers and compares them; computes no metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import METHODS, method_kind, method_name, method_places
from unidetox.core.files import read_jsonl
from unidetox.core.provenance import flatten
from unidetox.core.version import __version__
from unidetox.report import charts, curves
from unidetox.report.further_tables import alarms_by_group, grids, mentions_by_group
from unidetox.report.grid import Grid, grid_latex, grid_markdown
from unidetox.report.headline import counted, headline, notes, sizes
from unidetox.report.main_table import (
    COLUMNS,
    Cell,
    Column,
    ResultIndex,
    csv_table,
    format_change,
    format_number,
    is_number,
    latex_table,
    markdown_table,
    public_name,
    summary_table,
)

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["csv_table", "example_rows", "latex_table", "markdown_table", "render_report", "summary_table"]

_EXAMPLE_PROMPTS = 100
_FURTHER = {
    "ppl": "PPL, mean of texts",
    "ppl_token": "PPL, by token",
    "mean_length": "tokens",
    "eos_rate": "ended by itself",
    "empty_rate": "empty",
    "loop_rate": "with loops",
    "kl_base": "KL from base, nats a token",
}
_WORDS = {"better": "better", "worse": "worse", "changed": "", "unclear": "unclear", "same": "no change"}


@dataclass(frozen=True)
class Example:
    """What every method made of one prompt, for one sample number."""

    target: str
    prompt: str
    place: str
    texts: Sequence[tuple[str, str, float | None]]
    worst: float


def render_report(
    results: Mapping[str, Any],
    examples: Iterable[Mapping[str, Any]],
    output_dir: Path,
    title: str = "UniDetox",
    *,
    max_examples: int = 6,
) -> Path:
    """Write the report: ``index.html``, one file that needs no network, and ``results.{md,csv,tex}`` beside it.

    Args:
        results: The content of a ``results.json``; its ``settings``, where present, are listed at the bottom.
        examples: Rows of ``generations.jsonl``, each with ``target`` and ``method`` as well. Any number of rows:
            a few prompts a target are chosen, the same for every method.
        output_dir: The directory to write into; made where it is missing.
        title: The title of the page.
        max_examples: How many prompts to show a target.

    Returns:
        The path of ``index.html``.
    """
    index = ResultIndex(results)
    fairness = results.get("fairness") or {}
    further = {grid.key: grid for grid in grids(results, index)}
    chosen = choose_examples(examples, index.targets, max_examples)
    page = _environment().get_template("report.html.j2").render(
        title=title,
        version=__version__,
        methods=index.methods,
        styles=_styles([*index.methods, *sorted(_methods_of(chosen))]),
        places=method_places(),
        main=next((method for method in index.methods if method != "base"), None),
        lead=headline(index),
        notes=notes(index, fairness.get("groups") or ()),
        warnings=[public_name(str(warning)) for warning in results.get("warnings") or ()],
        columns=index.shown(),
        systems=_systems(index),
        panels=charts.panels(index),
        planes=charts.planes(index),
        spreads=curves.spreads(results.get("distributions") or (), index),
        breakdowns=_breakdowns(index),
        group_panels=curves.group_panels(index),
        robustness_panels=curves.robustness_panels(index),
        grids=further,
        by_group={
            "mentions": mentions_by_group(fairness.get("mentions") or (), index),
            "alarms": [alarms_by_group(fairness.get("false_positives") or ())],
        },
        further=_further(index),
        examples=chosen,
        names=index.names,
        sizes=sizes(index),
        counts={public_name(name): counted(found) for name, found in (results.get("counts") or {}).items()},
        settings=list(_shown(results.get("settings") or {})),
        models=list(_shown(results.get("models") or {})),
    )  # fmt: skip
    output_dir.mkdir(parents=True, exist_ok=True)
    tables = {
        "results.md": _joined([markdown_table(results)], further.values(), grid_markdown),
        "results.csv": csv_table(results),
        "results.tex": _joined([latex_table(results)], further.values(), grid_latex),
    }
    for name, text in {**tables, "index.html": page}.items():
        (output_dir / name).write_text(text, encoding="utf-8")
    return output_dir / "index.html"


def choose_examples(
    rows: Iterable[Mapping[str, Any]], targets: Sequence[str], max_examples: int
) -> dict[str, list[Example]]:
    """Choose what to show: the same prompt and sample of every method, several domains, nobody favoured.

    Of each prompt that sample is taken on which any method did worst, so that a detoxified model gets the same
    chance to look bad as its base; prompts are then taken in turn from each domain, the worst first.

    Args:
        rows: Rows of ``generations.jsonl`` with ``target`` and ``method``.
        targets: The targets in the order of the page.
        max_examples: How many prompts a target.

    Returns:
        Examples by target; a target without any is left out.
    """
    matched: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        key = (row.get("target"), row.get("prompt_id", row.get("prompt")), row.get("seed"), row.get("sample"))
        matched[key].setdefault(str(row.get("method", "base")), row)
    worst: dict[tuple[Any, Any], tuple[str, Example]] = {}
    for key, by_method in matched.items():
        domain, example = _example(by_method)
        if key[:2] not in worst or _rank(example) < _rank(worst[key[:2]][1]):
            worst[key[:2]] = (domain, example)
    names = [*targets, *(key[0] for key in worst if key[0] not in targets)]
    chosen = {
        str(name): _in_turn([pair for key, pair in worst.items() if key[0] == name], max_examples)
        for name in dict.fromkeys(names)
    }
    return {name: examples for name, examples in chosen.items() if examples}


def _joined(first: list[str], further: Iterable[Grid], write: Callable[[Grid], str]) -> str:
    return "\n".join([*first, *map(write, further)])


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unidetox.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        method=method_name,
        short=public_name,
        number=lambda cell, column: format_number(cell.value, column.key),
        interval=lambda cell, column: _interval(cell, column),
        change=lambda cell, column: _change(cell, column),
    )
    return environment


def _methods_of(examples: Mapping[str, Sequence[Example]]) -> set[str]:
    return {method for chosen in examples.values() for example in chosen for method, _, _ in example.texts}


def _styles(methods: Sequence[str]) -> dict[str, str]:
    """Give each method a colour and shape: its own, or one that is left where two results are of one method."""
    styles: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        kind = method_kind(method)
        free = [name for name in METHODS if name not in styles.values() and name not in methods]
        styles[method] = kind if kind in METHODS and kind not in styles.values() else next(iter(free), "other")
    return styles


def _systems(index: ResultIndex) -> dict[str, list[tuple[str, list[Cell | None]]]]:
    """Give the main table: by target, each method with its cells."""
    columns = index.shown()
    table: dict[str, list[tuple[str, list[Cell | None]]]] = defaultdict(list)
    for target, method in index.systems():
        table[target].append((method, [index.cell(target, method, column) for column in columns]))
    return table


def _breakdowns(index: ResultIndex) -> dict[str, list[dict[str, Any]]]:
    """Give TP and EMT by domain and group: by target, one row a place, one pair of cells a method."""
    places = list(dict.fromkeys(index.breakdown("tp") + index.breakdown("emt")))
    tables: dict[str, list[dict[str, Any]]] = {}
    for target in index.targets:
        methods = [method for name, method in index.systems() if name == target]
        rows = []
        for domain, group in places:
            pair = [Column(m, m.upper(), (m,), domain, "") for m in ("tp", "emt")]
            cells = {method: [index.cell(target, method, c, group) for c in pair] for method in methods}
            known = [cell for two in cells.values() for cell in two if cell]
            if known:
                rows.append({"domain": domain, "group": group, "n": known[0].n, "cells": cells, "columns": pair})
        if rows:
            tables[target] = rows
    return tables


def _further(index: ResultIndex) -> tuple[list[Column], list[tuple[str, str, list[Cell | None]]]]:
    """Give every other pooled metric that was measured: columns, and rows of (target, method, cells)."""
    ppl = next((m for m in ("ppl_token", "ppl") if (m, "all") in index.pooled()), None)
    shown = {"ppl_token", "ppl"} & {ppl} | {m for c in COLUMNS if c.key != "ppl" for m in c.metrics}
    pairs = [(m, d) for m, d in index.pooled() if m not in shown and d in ("id", "ood", "all", None)]
    # What was measured on other prompts, by other scorers or between groups has a table of its own.
    pairs = [(m, d) for m, d in pairs if not set(m) & set("@:") and not m.endswith("_gap")]
    columns = [Column(m, _further_title(m, d), (m,), d, "") for m, d in pairs]
    return columns, [(t, m, [index.cell(t, m, column) for column in columns]) for t, m in index.systems()]


def _further_title(metric: str, domain: str | None) -> str:
    name = _FURTHER.get(metric, metric.replace("_", " "))
    return name if domain in ("all", None) else f"{name} {domain.upper()}"


def _shown(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Turn nested settings into ``section.key``, value pairs without local paths."""
    for name, value in flatten(settings):
        if isinstance(value, list | tuple):
            yield public_name(name), ", ".join(public_name(str(item)) for item in value)
        elif value is not None:
            yield public_name(name), public_name(str(value))


def _example(by_method: Mapping[str, Mapping[str, Any]]) -> tuple[str, Example]:
    order = method_places()
    methods = sorted(by_method, key=lambda name: order.get(name, len(order)))
    first = by_method[methods[0]]
    texts = [(m, str(by_method[m].get("continuation") or ""), _score(by_method[m].get("toxicity"))) for m in methods]
    place = " · ".join(public_name(str(first[key])) for key in ("domain", "group") if first.get(key))
    worst = max((score for _, _, score in texts if score is not None), default=0.0)
    return str(first.get("domain")), Example(
        str(first.get("target")), str(first.get("prompt", "")), place, texts, worst
    )


def _score(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _rank(example: Example) -> tuple[int, float]:
    """Order examples: those that more methods have in common first, then the worst."""
    return (-len(example.texts), -example.worst)


def _in_turn(pairs: Sequence[tuple[str, Example]], count: int) -> list[Example]:
    """Take examples from each domain in turn, in the order of `_rank`."""
    queues: dict[str, list[Example]] = defaultdict(list)
    for domain, example in pairs:
        queues[domain].append(example)
    for queue in queues.values():
        queue.sort(key=_rank)
    rounds = range(max(map(len, queues.values()), default=0))
    return [queue[i] for i in rounds for _, queue in sorted(queues.items()) if i < len(queue)][:count]


def _interval(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"{format_number(cell.low, column.key)}–{format_number(cell.high, column.key)}"


def _change(cell: Cell, column: Column) -> dict[str, str] | None:
    """Give a change as an arrow, a size and a word, so that its colour adds nothing that is not also said."""
    if cell.change is None or cell.verdict is None:
        return None
    arrow = "=" if cell.verdict == "same" else "↑" if cell.change > 0 else "↓"
    size = format_change(abs(cell.change), column.relative).lstrip("+").replace("%", " %")
    return {"kind": cell.verdict, "arrow": arrow, "size": size, "word": _WORDS[cell.verdict]}


def example_rows(path: Path) -> list[dict[str, Any]]:
    """Return the first seed's rows of evenly spread prompts, for the page to choose from.

    Args:
        path: A ``generations.jsonl``; it need not be there.
    """
    rows = read_jsonl(path) if path.exists() else []
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    shown = set(prompts[:: max(1, len(prompts) // _EXAMPLE_PROMPTS)])
    return [row for row in rows if row["prompt_id"] in shown]
