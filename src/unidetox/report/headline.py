"""What the results say, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unidetox.config.methods import method_name
from unidetox.core.names import public_name
from unidetox.report.main_table import COLUMNS, Column, Number, ResultIndex, column_of
from unidetox.report.words import format_change

_LOST = {
    "prompts_cut": "prompts cut on the left to fit the model's context",
    "questions_cut": "questions cut on the left to fit the model's context",
    "scorer_texts_cut": "continuations cut to fit the scorer",
    "perplexity_texts_cut": "prompts cut on the left to fit the perplexity model",
    "perplexity_texts_too_long": "continuations too long for the perplexity model",
    "perplexity_model_small": "perplexity and relevance are by a much smaller model:",
    "kl_base_missing": "no divergence from the base:",
}
_COUNTED = {
    "prompts": "prompts", "prompts_repeated": "of them repeat another", "prompts_without_domain": "without a domain",
    "continuations": "continuations", "continuations_empty": "of them empty",
}  # fmt: skip


def headline(index: ResultIndex) -> str:
    """Say in one sentence what the results show."""
    method, n = main_method(index), len(index.targets)
    count = f"{n} model{'' if n == 1 else 's'}"
    if not n:
        return "No results yet"
    if method is None:
        return f"How toxic {count} {'is' if n == 1 else 'are'}"
    changed = _changed(index, method, COLUMNS[0])
    fell = [target for target, number in changed.items() if number.verdict == "better"]
    if not changed:
        return f"{method_name(method)} on {count}"
    if len(changed) == 1:
        return f"Toxicity {'falls' if fell else 'does not clearly fall'} on {index.names[next(iter(changed))]}"
    if not fell:
        return f"Toxicity does not clearly fall on any of {len(changed)} models"
    return f"Toxicity falls on {'all' if len(fell) == len(changed) else f'{len(fell)} of'} {len(changed)} models"


def main_method(index: ResultIndex) -> str | None:
    """Give the method that the page is about: the first that is not the base, the control if there is no other."""
    return next((method for method in index.methods if method != "base"), None)


def _changed(index: ResultIndex, method: str, column: Column) -> dict[str, Number]:
    """Give the numbers of a method that can be compared with a base, by target."""
    numbers = index.numbers(column, method)
    return {target: number for (target, _), number in numbers.items() if number.change is not None}


def notes(index: ResultIndex, groups: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Say what the headline leaves out: how far, at what price, how it lasts, for whom, and what the control does.

    Args:
        index: The results.
        groups: ``fairness.groups`` of a ``results.json``.
    """
    main = main_method(index)
    if main is None:
        found = [(column.title, index.numbers(column, "base").values()) for column in COLUMNS[:2]]
        return [f"{title}: {_range(number.value for number in numbers)}." for title, numbers in found if numbers]
    movements = [_movement(index, main, column) for column in COLUMNS[:2]]
    price = ", ".join(filter(None, (_range_of_changes(index, main, column) for column in COLUMNS if column.price)))
    control = _range_of_changes(index, "samples", COLUMNS[0]) if main != "samples" else ""
    said = [*movements, price and f"The price: {price}.", _lasting(index, main), _worst_groups(groups, main)]
    return [note for note in (*said, control and f"The control, fine-tuning on plain samples: {control}.") if note]


def _movement(index: ResultIndex, method: str, column: Column) -> str:
    """Say from where to where a number goes over all targets that have a base."""
    after = _changed(index, method, column)
    if not after:
        return ""
    before = index.numbers(column, "base")
    start, end = _range(before[target, "base"].value for target in after), _range(n.value for n in after.values())
    where = "In distribution" if column.domain == "id" else "Out of distribution"
    return f"{where}, TP goes from {start} to {end} ({_changes(after.values(), column)})."


def _lasting(index: ResultIndex, method: str) -> str:
    """Say how much of the fall survives the perturbation that it survives worst and best."""
    kept = {form: index.numbers(column_of("survival", "all", form), method) for form in index.forms("survival")}
    found = [(number.value, form.replace("_", " ")) for form, numbers in kept.items() for number in numbers.values()]
    if not found:
        return ""
    ends = dict.fromkeys(f"{100 * value:.0f}\u00a0% ({name})" for value, name in (min(found), max(found)))
    return f"Of the fall in TP, {' to '.join(ends)} survives when the prompts are changed."


def _worst_groups(records: Sequence[Mapping[str, Any]], method: str) -> str:
    """Say how the group fares that fares worst, before and after."""
    mine = [r for r in records if r["method"] == method and r["metric"] == "tp" and r.get("base")]
    if not mine:
        return ""
    start, end = _range(r["base"]["mean"] for r in mine), _range(r["means"][r["worst"]] for r in mine)
    ends = [(side["worst"], side["value"]) for side in (mine[0]["base"], mine[0])]
    names = [f" ({public_name(str(name))})" if len(mine) == 1 and apart else "" for name, apart in ends]
    return f"The group that fares worst: TP {start}{names[0]} before, {end}{names[1]} after."


def _range_of_changes(index: ResultIndex, method: str, column: Column) -> str:
    numbers = _changed(index, method, column).values()
    name = column.price or column.title.replace(" ", "\u00a0")
    return f"{name} {_changes(numbers, column)}" if numbers else ""


def _changes(numbers: Iterable[Number], column: Column) -> str:
    ordered = sorted(number.change for number in numbers if number.change is not None)
    return " to ".join(dict.fromkeys(format_change(change, column.relative) for change in (ordered[0], ordered[-1])))


def _range(values: Iterable[float], form: str = "{:.2f}") -> str:
    known = list(values)
    low, high = form.format(min(known)), form.format(max(known))
    return low if low == high else f"{low}–{high}"


def counted(counts: Mapping[str, Any], *, lost_only: bool = False, where: str = "") -> str:
    """Say what was measured of one model, and what was cut or left out.

    Args:
        counts: The model's ``counts`` of a ``results.json``.
        lost_only: Say only what could change a number unseen; empty where there is nothing of the kind.
        where: The perturbation or scorer that they are of.
    """
    words = _LOST if lost_only else _COUNTED | _LOST
    said = []
    for name, count in counts.items():
        if name in ("forms", "scorers"):
            tagged = ((f" ({public_name(tag)})", inner) for tag, inner in count.items())
            said += [counted(inner, lost_only=lost_only, where=tag) for tag, inner in tagged]
        elif count and name in words:
            what = f"{count:,} {words[name]}" if isinstance(count, int) else public_name(f"{words[name]} {count}")
            said.append(what + where)
    return "; ".join(filter(None, said))


def sizes(index: ResultIndex) -> list[tuple[str, str]]:
    """Say what each column of the main table is, on how many prompts it stands, and how many were dropped."""
    found = []
    for column in index.shown():
        numbers = list(index.numbers(column).values())
        counts = [number.n for number in numbers if number.n is not None]
        n = f"n = {_range(counts, '{:,}') if counts else 'not recorded'} {column.unit}"
        better = {None: "", True: " Higher is better.", False: " Lower is better."}[numbers[0].higher_is_better]
        dropped = max(number.n_dropped for number in numbers)
        left_out = f", at most {dropped:,} dropped" if dropped else ""
        found.append((column.title, f"{column.about}.{better} {n}{left_out}."))
    return found
