"""The further tables of a report: robustness, fairness, other scorers, comparisons. Looks numbers up; computes none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from unidetox.config.methods import method_name
from unidetox.core.names import public_name
from unidetox.report.main_table import COLUMNS, Column, Number, ResultIndex, column_of, number_cell, number_table
from unidetox.report.table import NONE, Cell, Table
from unidetox.report.words import Record, ends_of, format_number, format_p, format_signed, title_of

_ABOUT = {
    "Robustness": "TP over all prompts, changed in the same way for every model. What survives: the fall of TP from "
    "base on the changed prompts, as a share of the fall on the prompts as they are.",
    "Groups: worst, best, and the gap": "The largest of several noisy numbers always looks bad. So beside the gap "
    "stands the one that groups drawn at random would show, and how often random groups are as far apart as these (p).",
    "Answers to neutral prompts": "What models generate after neutral sentences that mention a group: the groups that "
    "get most and least of each, and how often groups drawn at random are as far apart (p).",
    "False positives of the scorer": "What the scorer makes of neutral sentences that only mention a group. Whatever "
    "it calls toxic here is a mistake of the scorer, not of a model.",
    "Other scorers": "The same continuations in other scorers' eyes. Kappa: Cohen's, of toxic or not at the threshold; "
    "correlation: Spearman's, of the scores; both with the main scorer.",
    "Comparisons": "Method minus what it is held against, prompt by prompt on the same prompts, with 95 % intervals. "
    "The corrected p-value (Holm) pays for all the comparisons of this table.",
}
_LEVEL = 0.05


def robustness(index: ResultIndex, about: Mapping[str, Any]) -> Table | None:
    """TP under each perturbation, and how much of its fall survives; ``about``: what each perturbation does."""
    forms = index.forms("tp")
    rows = []
    for target, form in product(index.targets if forms else (), (None, *forms)):
        numbers = {m: index.number(target, m, column_of("tp", "all", form)) for m in index.methods}
        if any(numbers.values()):
            cells = [cell for m, number in numbers.items() for cell in _robust(number, index, target, m, form)]
            rows.append([Cell(index.names[target]), Cell(form_name(form)), *cells])
    columns = ["Model", "Prompts"]
    for method in index.methods:
        columns += [f"TP {method_name(method)}", *(["survives"] if method != "base" else [])]
    meanings = about.get("perturbations") or {}
    notes = [(form_name(form), str(meanings[form])) for form in forms if form in meanings]
    return _table("Robustness", columns, rows, 2, notes)


def _table(
    title: str, columns: list[str], rows: list[list[Cell]], words: int, notes: Sequence[tuple[str, str]] = ()
) -> Table | None:
    return Table(title, _ABOUT[title], columns, rows, words, notes) if rows else None


def form_name(form: str | None) -> str:
    """Name a perturbation for people."""
    return "as they are" if form is None else form.replace("_", " ")


def breakdowns(index: ResultIndex) -> list[Table]:
    """TP and EMT by domain and group: a table for each target, one row a place, a pair of columns for each method."""
    places = list(dict.fromkeys(index.breakdown("tp") + index.breakdown("emt")))
    made = []
    for target in index.targets:
        methods, rows = index.methods_of(target), []
        for domain, group in places:
            pairs = [(method, column_of(metric, domain)) for method in methods for metric in ("tp", "emt")]
            numbers = {(method, column): index.number(target, method, column, group) for method, column in pairs}
            if known := [number for number in numbers.values() if number]:
                n = Cell("–" if known[0].n is None else f"{known[0].n:,}")
                place = Cell("all prompts" if domain == "all" else public_name(domain or "other"))
                cells = [_with_bar(number, *pair) for pair, number in numbers.items()]
                rows.append([place, Cell("" if group is None else public_name(str(group))), n, *cells])
        columns = [f"{metric} {method_name(method)}" for method in methods for metric in ("TP", "EMT")]
        if rows:
            made.append(Table(index.names[target], "", ["Domain", "Group", "n", *columns], rows, words=2))
    return made


def group_gaps(fairness: Mapping[str, Any], index: ResultIndex) -> Table | None:
    """Which group fares worst, how far apart groups are, and what became of the base's worst group."""
    records = fairness.get("groups") or ()
    rows = []
    for record in _in_order(records, index):
        means, base, change = record.get("means") or {}, record.get("base"), record.get("change")
        worst, best = str(record["worst"]), str(record["best"])
        ends = [Cell(public_name(name), note=_known(means.get(name))) for name in (worst, best)]
        fate = f"{_known(base['mean'])} → {_known(base['mean_after'])}" if base else ""
        apart = change and (change["ci_low"] > 0 or change["ci_high"] < 0)
        rows.append([
            *_who(record, index), Cell(title_of(str(record["metric"]))),
            *(ends if worst != best else [Cell("all alike", note=ends[0].note), NONE]),
            _record_cell(record, ""), Cell(_known(record["by_chance"])), Cell(format_p(record["p"])),
            Cell(fate, note=public_name(str(base["worst"]))) if base else NONE,
            _signed(change, "tp", higher_is_better=False if apart else None) if change else NONE,
        ])  # fmt: skip
    columns = ["Model", "Method", "Measure", "Worst group", "Best group", "Gap", "Gap by chance", "p"]
    columns += ["Base's worst group", "Change of gap"]
    small = dict.fromkeys(public_name(str(group)) for record in records for group in record.get("left_out") or ())
    few = f"groups with fewer than {fairness.get('least_prompts', 3)} prompts: {', '.join(small)}"
    notes = [("left out", few)] if small else []
    return _table("Groups: worst, best, and the gap", columns, rows, 5, notes)


def neutral_gaps(records: Sequence[Record], index: ResultIndex) -> Table | None:
    """How neutral prompts that mention groups are answered: who gets most and least of each measure."""
    known = {(record["target"], record["method"], record["measure"]): record for record in records}
    rows = []
    for target, measure in dict.fromkeys((r["target"], r["measure"]) for r in _in_order(records, index)):
        cells = [_most_and_least(known.get((target, method, measure))) for method in index.methods]
        rows.append([Cell(index.name(target)), Cell(title_of(measure)), *cells])
    columns = ["Model", "Measure", *(method_name(method) for method in index.methods)]
    return _table("Answers to neutral prompts", columns, rows, 2)


def neutral_by_group(records: Sequence[Record], index: ResultIndex) -> list[Table]:
    """The same group by group, a table for each target."""
    made = []
    for target in dict.fromkeys(str(record["target"]) for record in records):
        mine = [record for record in _in_order(records, index) if record["target"] == target]
        methods = [method_name(record["method"]) for record in mine]
        made.append(_by_group(f"Answers to neutral prompts, {index.name(target)}, group by group", methods, mine))
    return made


def false_positives(records: Sequence[Record]) -> Table | None:
    """What scorers make of neutral prompts that mention groups: those that they judge most and least harshly."""
    known = [record for record in records if record.get("gap")]
    rows = [[Cell(_scorer(record)), Cell(title_of(record["measure"])), _most_and_least(record)] for record in known]
    return _table("False positives of the scorer", ["Scorer", "Measure", "Groups"], rows, 2)


def false_positives_by_group(records: Sequence[Record]) -> list[Table]:
    """The same group by group."""
    scorers = [_scorer(record) for record in records]
    return [_by_group("False positives of the scorer, group by group", scorers, records)] if records else []


def other_scorers(index: ResultIndex) -> Table | None:
    """TP and EMT by other scorers, and how far they agree with the main one."""
    rows = []
    shown = [(metric, domain) for metric in ("tp", "emt") for domain in ("id", "ood")]
    for (target, method), name in product(index.systems(), index.scorers()):
        columns = [column_of(*pair, scorer=name) for pair in (*shown, ("agreement", "all"), ("correlation", "all"))]
        numbers = {column: index.number(target, method, column) for column in columns}
        if any(numbers.values()):
            cells = [number_cell(number, c, changes=c.metrics[0] in ("tp", "emt")) for c, number in numbers.items()]
            rows.append([*_who({"target": target, "method": method}, index), Cell(public_name(name)), *cells])
    titles = ["Model", "Method", "Scorer", "TP ID", "TP OOD", "EMT ID", "EMT OOD", "Kappa", "Correlation"]
    return _table("Other scorers", titles, rows, 3)


def comparisons(records: Sequence[Record], index: ResultIndex) -> Table | None:
    """Differences on the same prompts, with corrected p-values."""
    rows = []
    for record in records:
        first, second, metric = record["first"], record["second"], str(record["metric"])
        better, sure = record.get("higher_is_better"), record["p_holm"] < _LEVEL
        change = {**record, "value": record["difference"]}
        difference = _signed(change, metric, higher_is_better=better if sure else None)
        verdict = difference.kind or "differs" if sure else "unclear"
        judge = f" ({public_name(str(record['scorer']))})" if record.get("scorer") else ""
        what = title_of(metric, record["domain"]) + judge
        rows.append([
            *_who(first, index), Cell(method_name(str(second["method"]))), Cell(what),
            difference, Cell(format_p(record["p"])), Cell(format_p(record["p_holm"]), note=verdict),
            Cell(f"{record['n']:,}"),
        ])  # fmt: skip
    columns = ["Model", "Method", "Against", "Measure", "Difference", "p", "p, corrected", "n"]
    return _table("Comparisons", columns, rows, 4)


def further_measures(index: ResultIndex) -> Table | None:
    """Every other pooled metric that was measured on the prompts as they are."""
    pooled = [(m, domain) for m, domain, group in index.plain() if group is None]
    ppl = next((metric for metric in ("ppl_token", "ppl") if (metric, "all") in pooled), None)
    main = {ppl} | {metric for column in COLUMNS if column.key != "ppl" for metric in column.metrics}
    # Gaps between groups have a table of their own.
    further = [pair for pair in pooled if pair[0] not in main and not pair[0].endswith("_gap")]
    columns = [column_of(*pair) for pair in further if pair[1] in ("id", "ood", "all", None)]
    return replace(number_table(index, columns), title="Further measures") if columns else None


def _robust(number: Number | None, index: ResultIndex, target: str, method: str, form: str | None) -> list[Cell]:
    shown = number_cell(number, column_of("tp", "all", form))
    if method == "base":
        return [shown]
    kept = index.number(target, method, column_of("survival", "all", form)) if form else None
    if kept is None:
        return [shown, NONE]
    known = kept.low is not None and kept.high is not None
    return [shown, Cell(f"{kept.value:.0%}", (f"{kept.low:.0%}", f"{kept.high:.0%}") if known else None)]


def _with_bar(number: Number | None, method: str, column: Column) -> Cell:
    cell = number_cell(number, column, changes=False)
    return replace(cell, method=method, bar=min(number.value, 1.0)) if number else cell


def _by_group(title: str, whose: Sequence[str], records: Sequence[Record]) -> Table:
    """Make a table with a row a group and a column a record; ``whose``: the method or scorer of each record."""
    rows = {g: [Cell(public_name(g))] for record in records for g in record["groups"]}
    for group, cells in rows.items():
        cells += [_record_cell(record["groups"].get(group), record["measure"]) for record in records]
    columns = [f"{title_of(record['measure'])}, {name}" for record, name in zip(records, whose, strict=True)]
    return Table(title, "", ["Group", *columns], list(rows.values()))


def _record_cell(record: Record | None, metric: str) -> Cell:
    if record is None:
        return NONE
    write = format_signed if (record.get("ci_low") or 0) < 0 else format_number
    return Cell(format_number(record["value"], metric), ends_of(record, metric, write))


def _most_and_least(record: Record | None) -> Cell:
    if not record or not (gap := record.get("gap")):
        return NONE
    values = [format_number(record["groups"][gap[end]]["value"], record["measure"]) for end in ("worst", "best")]
    if gap["value"] == 0:
        return Cell(values[0], note="all alike")
    most, least = (f"{public_name(str(gap[end]))} {v}" for end, v in zip(("worst", "best"), values, strict=True))
    return Cell(f"most {most}", note=f"least {least}, p {format_p(gap['p'])}")


def _in_order(records: Sequence[Record], index: ResultIndex) -> Iterable[Record]:
    """Sort records as the systems are, and within them as they come."""
    order = {system: place for place, system in enumerate(index.systems())}
    return sorted(records, key=lambda record: order.get((record["target"], record["method"]), len(order)))


def _scorer(record: Record) -> str:
    return public_name(str(record.get("scorer", "scorer")))


def _who(record: Record, index: ResultIndex) -> list[Cell]:
    method = str(record["method"])
    return [Cell(index.name(str(record["target"]))), Cell(method_name(method), method=method)]


def _known(value: float | None) -> str:
    return "" if value is None else format_number(value)


def _signed(change: Record, metric: str, *, higher_is_better: bool | None) -> Cell:
    value = float(change["value"])
    kind = "" if higher_is_better is None or value == 0 else "better" if (value > 0) == higher_is_better else "worse"
    return Cell(format_signed(value, metric), ends_of(change, metric, format_signed), kind=kind)
