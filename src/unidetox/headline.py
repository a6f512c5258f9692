"""What the results say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from unidetox.tables import COLUMNS, Cell, Column, ResultIndex, format_change, method_name, public_name


def headline(index: ResultIndex) -> str:
    """Say in one sentence what the results show."""
    column, method = COLUMNS[0], _main_method(index)
    if method is None:
        count = _count(len(index.targets), "model")
        return (
            f"How toxic {count} {'is' if len(index.targets) == 1 else 'are'}"
            if index.targets
            else "No results yet"
        )
    cells = [
        cell for target in index.targets if (cell := index.cell(target, method, column)) and cell.verdict
    ]
    if not cells:
        return f"{method_name(method)} on {_count(len(index.targets), 'model')}"
    fell = sum(cell.verdict == "better" for cell in cells)
    if len(cells) == 1:
        return f"Toxicity {'falls' if fell else 'does not clearly fall'} on {_model_names(index)[0]}"
    if fell == 0:
        return f"Toxicity does not clearly fall on any of {len(cells)} models"
    return f"Toxicity falls on {'all' if fell == len(cells) else f'{fell} of'} {len(cells)} models"


def _main_method(index: ResultIndex) -> str | None:
    """Give the method that the page is about: the first that is neither the base nor, if possible, the control."""
    others = [method for method in index.methods if method != "base"]
    return others[0] if others else None


def _model_names(index: ResultIndex) -> list[str]:
    return [public_name(target) for target in index.targets]


def notes(index: ResultIndex) -> list[str]:
    """Say what the headline leaves out: how far, at what price, and what the control does."""
    main = _main_method(index)
    if main is None:
        return [note for column in COLUMNS[:2] if (note := _state(index, column))]
    said = [_movement(index, main, column) for column in COLUMNS[:2]]
    price = [
        _range_of_changes(index, main, column)
        for column in COLUMNS
        if column.key in ("ppl", "dist_2", "accuracy")
    ]
    if any(price):
        said.append("The price: " + ", ".join(filter(None, price)) + ".")
    control = _range_of_changes(index, "samples", COLUMNS[0]) if main != "samples" else ""
    if control:
        said.append(f"The control, fine-tuning on plain samples: {control}.")
    return [note for note in said if note]


def _state(index: ResultIndex, column: Column) -> str:
    cells = [cell for target in index.targets if (cell := index.cell(target, "base", column))]
    return f"{column.title}: {_range([c.value for c in cells], '{:.2f}')}." if cells else ""


def _movement(index: ResultIndex, method: str, column: Column) -> str:
    """Say from where to where a number goes over all targets that have a base."""
    pairs = [(index.cell(t, "base", column), index.cell(t, method, column)) for t in index.targets]
    both = [(before, after) for before, after in pairs if before and after and after.change is not None]
    if not both:
        return ""
    before = _range([b.value for b, _ in both], "{:.2f}")
    after = _range([a.value for _, a in both], "{:.2f}")
    where = "In distribution" if column.domain == "id" else "Out of distribution"
    return f"{where}, TP goes from {before} to {after} ({_changes([a for _, a in both], column)})."


def _range_of_changes(index: ResultIndex, method: str, column: Column) -> str:
    cells = [
        cell for target in index.targets if (cell := index.cell(target, method, column)) and cell.verdict
    ]
    name = {"ppl": "perplexity"}.get(column.key, column.title[:1] + column.title[1:])
    return f"{name} {_changes(cells, column)}" if cells else ""


def _changes(cells: Sequence[Cell], column: Column) -> str:
    values = sorted({format_change(c.change or 0.0, column.relative) for c in cells}, key=_leading_number)
    ends = [value.replace("-", "−").replace("%", " %").replace("pt", "points") for value in values]
    return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def _leading_number(text: str) -> float:
    return float(text.split("%")[0].split()[0])


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def sizes(index: ResultIndex) -> list[tuple[str, str, str]]:
    """Say on how many prompts each number stands, and how many were dropped."""
    found = []
    for column in index.shown():
        cells = [cell for system in index.systems() if (cell := index.cell(*system, column))]
        counts = [cell.n for cell in cells if cell.n is not None]
        dropped = max(cell.n_dropped for cell in cells)
        n = _range(counts, "{:,}") if counts else "not recorded"
        found.append(
            (column.title, column.about, f"n = {n}" + (f", at most {dropped:,} dropped" if dropped else ""))
        )
    return found
