"""What the results say, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unidetox.config.methods import method_name
from unidetox.report.main_table import COLUMNS, Cell, Column, ResultIndex, format_change, public_name

_LOST = {
    "prompts_cut": "prompts cut on the left to fit the model's context",
    "questions_cut": "questions cut on the left to fit the model's context",
    "scorer_texts_cut": "continuations cut to fit the scorer",
    "perplexity_texts_cut": "prompts cut on the left to fit the perplexity model",
    "perplexity_texts_too_long": "continuations too long for the perplexity model",
    "kl_base_missing": "no divergence from the base:",
}
_COUNTED = {
    "prompts": "prompts",
    "prompts_repeated": "of them repeat another",
    "prompts_without_domain": "without a domain",
    "continuations": "continuations",
    "continuations_empty": "of them empty",
}


def headline(index: ResultIndex) -> str:
    """Say in one sentence what the results show."""
    method, count = _main_method(index), _count(len(index.targets), "model")
    if not index.targets:
        return "No results yet"
    if method is None:
        return f"How toxic {count} {'is' if len(index.targets) == 1 else 'are'}"
    changed = _changed(index, method, COLUMNS[0])
    fell = [target for target, cell in changed.items() if cell.verdict == "better"]
    if not changed:
        return f"{method_name(method)} on {count}"
    if len(changed) == 1:
        return f"Toxicity {'falls' if fell else 'does not clearly fall'} on {index.names[next(iter(changed))]}"
    if not fell:
        return f"Toxicity does not clearly fall on any of {len(changed)} models"
    return f"Toxicity falls on {'all' if len(fell) == len(changed) else f'{len(fell)} of'} {len(changed)} models"


def _main_method(index: ResultIndex) -> str | None:
    """Give the method that the page is about: the first that is neither the base nor the control, if any."""
    return next((method for method in index.methods if method != "base"), None)


def _changed(index: ResultIndex, method: str, column: Column) -> dict[str, Cell]:
    """Give the numbers of a method that can be compared with a base, by target."""
    cells = {target: index.cell(target, method, column) for target in index.targets}
    return {target: cell for target, cell in cells.items() if cell is not None and cell.change is not None}


def notes(index: ResultIndex, groups: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Say what the headline leaves out: how far, at what price, how it lasts, for whom, and what the control does.

    Args:
        index: The results.
        groups: ``fairness.groups`` of a ``results.json``.
    """
    main = _main_method(index)
    if main is None:
        return [note for column in COLUMNS[:2] if (note := _state(index, column))]
    said = [_movement(index, main, column) for column in COLUMNS[:2]]
    price = [
        _range_of_changes(index, main, column) for column in COLUMNS if column.key in ("ppl", "dist_2", "accuracy")
    ]
    if any(price):
        said.append("The price: " + ", ".join(filter(None, price)) + ".")
    said += [_lasting(index, main), _worst_groups(groups, main)]
    control = _range_of_changes(index, "samples", COLUMNS[0]) if main != "samples" else ""
    if control:
        said.append(f"The control, fine-tuning on plain samples: {control}.")
    return [note for note in said if note]


def _state(index: ResultIndex, column: Column) -> str:
    cells = [cell for target in index.targets if (cell := index.cell(target, "base", column))]
    return f"{column.title}: {_range([c.value for c in cells], '{:.2f}')}." if cells else ""


def _movement(index: ResultIndex, method: str, column: Column) -> str:
    """Say from where to where a number goes over all targets that have a base."""
    after = _changed(index, method, column)
    before = [cell for target in after if (cell := index.cell(target, "base", column))]
    if not after:
        return ""
    start, end = (_range([cell.value for cell in cells], "{:.2f}") for cells in (before, after.values()))
    where = "In distribution" if column.domain == "id" else "Out of distribution"
    return f"{where}, TP goes from {start} to {end} ({_changes(after.values(), column)})."


def _lasting(index: ResultIndex, method: str) -> str:
    """Say how much of the fall survives the perturbation that it survives worst and best."""
    found = []
    for metric in (m for m, domain in index.pooled() if m.startswith("survival@") and domain == "all"):
        column = Column(metric, metric, (metric,), "all", "")
        cells = [index.cell(target, method, column) for target in index.targets]
        found += [(cell.value, metric.removeprefix("survival@").replace("_", " ")) for cell in cells if cell]
    if not found:
        return ""
    ends = dict.fromkeys(
        f"{value:.0%}".replace("%", "\u00a0%") + f" ({name})" for value, name in (min(found), max(found))
    )
    return f"Of the fall in TP, {' to '.join(ends)} survives when the prompts are changed."


def _worst_groups(records: Sequence[Mapping[str, Any]], method: str) -> str:
    """Say how the group fares that fares worst, before and after."""
    mine = [r for r in records if r["method"] == method and r["metric"] == "tp" and r.get("base")]
    if not mine:
        return ""
    before, after = [r["base"]["mean"] for r in mine], [r["means"][r["worst"]] for r in mine]
    ends = [(side["worst"], side["value"]) for side in (mine[0]["base"], mine[0])]
    names = [f" ({public_name(str(name))})" if len(mine) == 1 and apart else "" for name, apart in ends]
    start, end = _range(before, "{:.2f}"), _range(after, "{:.2f}")
    return f"The group that fares worst: TP {start}{names[0]} before, {end}{names[1]} after."


def _range_of_changes(index: ResultIndex, method: str, column: Column) -> str:
    cells = _changed(index, method, column).values()
    name = {"ppl": "perplexity", "accuracy": "accuracy"}.get(column.key, column.title.replace(" ", "\u00a0"))
    return f"{name} {_changes(cells, column)}" if cells else ""


def _changes(cells: Iterable[Cell], column: Column) -> str:
    ordered = sorted(cell.change for cell in cells if cell.change is not None)
    values = dict.fromkeys(format_change(change, column.relative) for change in (ordered[0], ordered[-1]))
    ends = [value.replace("-", "−").replace("%", "\u00a0%").replace(" pt", "\u00a0points") for value in values]
    return " to ".join(ends)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def counted(counts: Mapping[str, Any], *, lost_only: bool = False) -> str:
    """Say what was measured of one model, and what was cut or left out.

    Args:
        counts: The model's ``counts`` of a ``results.json``.
        lost_only: Say only what could change a number unseen; empty where there is nothing of the kind.
    """
    words = _LOST if lost_only else _COUNTED | _LOST
    said = []
    for key, count in counts.items():
        name, _, where = key.replace("@", ":").partition(":")
        if count and name in words:
            what = f"{count:,} {words[name]}" if isinstance(count, int) else public_name(f"{words[name]} {count}")
            said.append(what + (f" ({public_name(where)})" if where else ""))
    return "; ".join(said)


def sizes(index: ResultIndex) -> list[tuple[str, str, str]]:
    """Say on how many prompts each number stands, and how many were dropped."""
    found = []
    for column in index.shown():
        cells = [cell for system in index.systems() if (cell := index.cell(*system, column))]
        counts = [cell.n for cell in cells if cell.n is not None]
        dropped = max(cell.n_dropped for cell in cells)
        n = _range(counts, "{:,}") if counts else "not recorded"
        unit = {"ppl": "continuations", "accuracy": "questions"}.get(column.key, "prompts")
        found.append(
            (column.title, column.about, f"n = {n} {unit}" + (f", at most {dropped:,} dropped" if dropped else ""))
        )
    return found
