"""The further tables of a report: robustness, fairness, other scorers, comparisons. Looks numbers up; computes none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unidetox.config.methods import method_name
from unidetox.report import standings
from unidetox.report.grid import Entry, Grid
from unidetox.report.main_table import Cell, Column, ResultIndex, format_number, public_name

AS_THEY_ARE = "as they are"
_MEASURES = {
    "tp": "TP",
    "emt": "EMT",
    "toxicity_mean": "mean toxicity",
    "ppl_token": "PPL",
    "dist_2": "Dist-2",
    "accuracy": "accuracy",
    "accuracy_letters": "accuracy",
    "mean_length": "length in tokens",
    "empty_rate": "empty",
    "refusal_rate": "refusals",
    "false_positive_rate": "called toxic",
    "score_mean": "mean score",
}
_ABOUT = {
    "robustness": (
        "TP over all prompts, changed in the same way for every model. What survives: the fall of TP from "
        "base on the changed prompts, as a share of the fall on the prompts as they are."
    ),
    "gaps": (
        "The largest of several noisy numbers always looks bad. So beside the gap stands the one that groups "
        "drawn at random would show, and how often random groups are as far apart as these (p)."
    ),
    "mentions": (
        "What models write after neutral sentences that mention a group: the groups that get most and least of "
        "each, and how often groups drawn at random are as far apart (p)."
    ),
    "alarms": (
        "What the scorer makes of neutral sentences that only mention a group. Whatever it calls toxic here "
        "is a mistake of the scorer, not of a model."
    ),
    "scorers": (
        "The same continuations in other scorers' eyes. Kappa: Cohen's, of toxic or not at the threshold; "
        "correlation: Spearman's, of the scores; both with the main scorer."
    ),
    "comparisons": (
        "Method minus what it is held against, prompt by prompt on the same prompts, with 95 % intervals. The "
        "corrected p-value (Holm) pays for all the comparisons of this table."
    ),
}
_LEVEL = 0.05
_NONE = Entry("–")


def grids(results: Mapping[str, Any], index: ResultIndex) -> list[Grid]:
    """Make every further table for which the results hold numbers."""
    fairness = results.get("fairness") or {}
    made = [
        *standings.grids(results, index),
        robustness(index, results.get("about") or {}),
        group_gaps(fairness, index),
        mention_gaps(fairness.get("mentions") or (), index),
        false_alarms(fairness.get("false_positives") or ()),
        other_scorers(index),
        comparisons(results.get("comparisons") or (), index),
    ]
    return [grid for grid in made if grid is not None]


def robustness(index: ResultIndex, about: Mapping[str, Any]) -> Grid | None:
    """TP under each perturbation, and how much of its fall survives; ``about``: what each perturbation does."""
    names = perturbations(index)
    if not names:
        return None
    methods = index.methods
    rows = []
    for target in index.targets:
        for name in [AS_THEY_ARE, *names]:
            cells = [index.cell(target, method, toxicity_under(name)) for method in methods]
            if any(cells):
                pairs = zip(methods, cells, strict=True)
                numbers = [part for method, cell in pairs for part in _numbers(cell, index, target, method, name)]
                rows.append([Entry(index.names[target]), Entry(_words(name)), *numbers])
    columns = [part for method in methods for part in _robust_columns(method)]
    meanings = about.get("perturbations") or {}
    notes = [(_words(name), str(meanings[name])) for name in names if name in meanings]
    return Grid("robustness", "Robustness", _ABOUT["robustness"], ["Model", "Prompts", *columns], rows, 2, notes)


def perturbations(index: ResultIndex) -> list[str]:
    """List the perturbations that were measured."""
    return [metric[3:] for metric, domain in index.pooled() if metric.startswith("tp@") and domain == "all"]


def toxicity_under(name: str) -> Column:
    """Give TP under a perturbation, or as the prompts are, as a column."""
    metric = "tp" if name == AS_THEY_ARE else f"tp@{name}"
    return Column(metric, "TP", (metric,), "all", "")


def group_gaps(fairness: Mapping[str, Any], index: ResultIndex) -> Grid | None:
    """Which group fares worst, how far apart groups are, and what became of the base's worst group."""
    records = fairness.get("groups") or ()
    rows = []
    for record in _in_order(records, index):
        means, base, change = record.get("means") or {}, record.get("base"), record.get("change")
        worst, best = str(record["worst"]), str(record["best"])
        fate = f"{_number(base['mean'])} → {_number(base['mean_after'])}" if base else ""
        ends = [Entry(public_name(name), _number(means.get(name))) for name in (worst, best)]
        rows.append([
            *_who(record, index),
            Entry(_measure(record["metric"])),
            *(ends if worst != best else [Entry("all alike", _number(means.get(worst))), _NONE]),
            Entry(_number(record["value"]), _range(record)),
            Entry(_number(record["by_chance"])),
            Entry(_p(record["p"])),
            Entry(fate, public_name(str(base["worst"]))) if base else _NONE,
            _signed(change, "tp", higher_is_better=False if _apart(change) else None) if change else _NONE,
        ])  # fmt: skip
    columns = ["Model", "Method", "Measure", "Worst group", "Best group", "Gap", "Gap by chance", "p"]
    columns += ["Base's worst group", "Change of gap"]
    small = dict.fromkeys(public_name(str(group)) for record in records for group in record.get("left_out") or ())
    few = f"groups with fewer than {fairness.get('least_prompts', 3)} prompts: {', '.join(small)}"
    notes = [("left out", few)] if small else []
    return Grid("gaps", "Groups: worst, best, and the gap", _ABOUT["gaps"], columns, rows, 5, notes) if rows else None


def mention_gaps(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> Grid | None:
    """How polite mentions of groups are answered: who gets most and least of each measure."""
    known = {(record["target"], record["method"], record["measure"]): record for record in records}
    rows = []
    for target, measure in dict.fromkeys((r["target"], r["measure"]) for r in _in_order(records, index)):
        cells = [_most_and_least(known.get((target, method, measure))) for method in index.methods]
        rows.append([Entry(index.names.get(target, public_name(target))), Entry(_measure(measure)), *cells])
    columns = ["Model", "Measure", *(method_name(method) for method in index.methods)]
    return Grid("mentions", "Answers to polite mentions", _ABOUT["mentions"], columns, rows, 2) if rows else None


def mentions_by_group(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> list[Grid]:
    """The same group by group, a table for each target."""
    made = []
    for target in dict.fromkeys(str(record["target"]) for record in records):
        mine = [record for record in _in_order(records, index) if record["target"] == target]
        groups = dict.fromkeys(group for record in mine for group in record["groups"])
        columns = [f"{_measure(r['measure'])}, {method_name(r['method'])}" for r in mine]
        rows = [
            [Entry(public_name(group)), *(_cell(record["groups"].get(group), record["measure"]) for record in mine)]
            for group in groups
        ]
        made.append(Grid("", index.names.get(target, public_name(target)), "", ["Group", *columns], rows))
    return made


def false_alarms(records: Sequence[Mapping[str, Any]]) -> Grid | None:
    """What scorers make of neutral mentions: the groups that they judge most and least harshly."""
    rows = [
        [Entry(_scorer(record)), Entry(_measure(record["measure"])), _most_and_least(record)]
        for record in records
        if record.get("gap")
    ]
    columns = ["Scorer", "Measure", "Groups"]
    return Grid("alarms", "False alarms of the scorer", _ABOUT["alarms"], columns, rows, 2) if rows else None


def alarms_by_group(records: Sequence[Mapping[str, Any]]) -> Grid:
    """The same group by group."""
    groups = dict.fromkeys(group for record in records for group in record["groups"])
    columns = [f"{_measure(record['measure'])}, {_scorer(record)}" for record in records]
    rows = [
        [Entry(public_name(group)), *(_cell(record["groups"].get(group), record["measure"]) for record in records)]
        for group in groups
    ]
    return Grid("", "The scorer", "", ["Group", *columns], rows)


def other_scorers(index: ResultIndex) -> Grid | None:
    """TP and EMT by other scorers, and how far they agree with the main one."""
    names = [
        metric.split(":", 1)[1] for metric, domain in index.pooled() if metric.startswith("tp:") and domain == "all"
    ]
    rows = []
    for target, method in index.systems():
        for name in dict.fromkeys(names):
            columns = [_pooled(f"{metric}:{name}", d) for metric in ("tp", "emt") for d in ("id", "ood")]
            agreed = [_pooled(f"{metric}:{name}", "all") for metric in ("agreement", "correlation")]
            cells = [index.cell(target, method, column) for column in columns]
            cells += [cell and replace(cell, verdict=None) for c in agreed for cell in [index.cell(target, method, c)]]
            if any(cells):
                who = [Entry(index.names[target]), Entry(method_name(method)), Entry(public_name(name))]
                rows.append([*who, *(_looked_up(cell) for cell in cells)])
    columns_ = ["Model", "Method", "Scorer", "TP ID", "TP OOD", "EMT ID", "EMT OOD", "Kappa", "Correlation"]
    return Grid("scorers", "Other scorers", _ABOUT["scorers"], columns_, rows, words=3) if rows else None


def comparisons(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> Grid | None:
    """Differences on the same prompts, with corrected p-values."""
    rows = []
    for record in records:
        first, second, metric = record["first"], record["second"], str(record["metric"])
        target = str(first["target"])
        change = {"value": record["difference"], "ci_low": record["ci_low"], "ci_high": record["ci_high"]}
        sure = record["p_holm"] < _LEVEL
        rows.append([
            Entry(index.names.get(target, public_name(target))),
            Entry(method_name(str(first["method"]))),
            Entry(method_name(str(second["method"]))),
            Entry(_measure(metric) + _place(record["domain"])),
            _signed(change, metric, higher_is_better=record.get("higher_is_better") if sure else None),
            Entry(_p(record["p"])),
            Entry(_p(record["p_holm"]), _verdict(record) if sure else "unclear"),
            Entry(f"{record['n']:,}"),
        ])  # fmt: skip
    columns = ["Model", "Method", "Against", "Measure", "Difference", "p", "p, corrected", "n"]
    return Grid("comparisons", "Comparisons", _ABOUT["comparisons"], columns, rows, words=4) if rows else None


def _robust_columns(method: str) -> list[str]:
    name = method_name(method)
    return [f"TP {name}"] if method == "base" else [f"TP {name}", "survives"]


def _numbers(cell: Cell | None, index: ResultIndex, target: str, method: str, name: str) -> list[Entry]:
    shown = _looked_up(cell)
    if method == "base":
        return [shown]
    survives = index.cell(target, method, _pooled(f"survival@{name}", "all"))
    return [shown, _percent(survives)]


def _pooled(metric: str, domain: str) -> Column:
    return Column(metric, metric, (metric,), domain, "")


def _looked_up(cell: Cell | None) -> Entry:
    if cell is None:
        return _NONE
    kind = cell.verdict if cell.verdict in ("better", "worse") else ""
    interval = "" if cell.low is None or cell.high is None else f"{_number(cell.low)}–{_number(cell.high)}"
    verdict = cell.verdict if cell.verdict != "changed" else None
    return Entry(_number(cell.value), ", ".join(filter(None, [interval, verdict])), kind)


def _percent(cell: Cell | None) -> Entry:
    if cell is None:
        return _NONE
    known = cell.low is not None and cell.high is not None
    return Entry(f"{cell.value:.0%}", f"{cell.low:.0%} to {cell.high:.0%}" if known else "")


def _cell(record: Mapping[str, Any] | None, measure: str) -> Entry:
    if record is None:
        return _NONE
    return Entry(_number(record["value"], measure), _range(record, measure))


def _most_and_least(record: Mapping[str, Any] | None) -> Entry:
    gap = record and record.get("gap")
    if not record or not gap:
        return _NONE
    if gap["value"] == 0:
        return Entry(_number(record["groups"][gap["worst"]]["value"], record["measure"]), "all alike")
    most, least = (
        f"{public_name(str(gap[end]))} {_number(record['groups'][gap[end]]['value'], record['measure'])}"
        for end in ("worst", "best")
    )
    return Entry(f"most {most}", f"least {least}, p {_p(gap['p'])}")


def _in_order(records: Sequence[Mapping[str, Any]], index: ResultIndex) -> Iterable[Mapping[str, Any]]:
    """Sort records as the systems are, and within them as they come."""
    order = {system: place for place, system in enumerate(index.systems())}
    return sorted(records, key=lambda record: order.get((record["target"], record["method"]), len(order)))


def _scorer(record: Mapping[str, Any]) -> str:
    return public_name(str(record.get("scorer", "scorer")))


def _who(record: Mapping[str, Any], index: ResultIndex) -> list[Entry]:
    target = str(record["target"])
    return [Entry(index.names.get(target, public_name(target))), Entry(method_name(str(record["method"])))]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _measure(metric: object) -> str:
    return _MEASURES.get(str(metric), str(metric).replace("_", " "))


def _place(domain: object) -> str:
    return "" if domain == "all" else f" {str(domain).upper() if domain in ('id', 'ood') else domain}"


def _number(value: float | None, metric: str = "") -> str:
    return "" if value is None else format_number(value, metric, 1 if metric == "mean_length" else 3)


def _range(record: Mapping[str, Any], metric: str = "") -> str:
    low, high = record.get("ci_low"), record.get("ci_high")
    if low is None or high is None:
        return ""
    if low < 0:
        return f"{_with_sign(low, metric)} to {_with_sign(high, metric)}"
    return f"{_number(low, metric)}–{_number(high, metric)}"


def _signed(change: Mapping[str, Any], metric: str, *, higher_is_better: bool | None) -> Entry:
    value = float(change["value"])
    kind = "" if higher_is_better is None or value == 0 else "better" if (value > 0) == higher_is_better else "worse"
    ends = [_with_sign(change[end], metric) for end in ("ci_low", "ci_high") if change[end] is not None]
    return Entry(_with_sign(value, metric), " to ".join(ends), kind)


def _apart(change: Mapping[str, Any]) -> bool:
    """Whether the interval of a change leaves out 0."""
    return bool(change["ci_low"] > 0 or change["ci_high"] < 0)


def _with_sign(value: float, metric: str) -> str:
    text = format_number(abs(value), metric)
    return text if not text.strip("0.,") else ("+" if value > 0 else "−") + text


def _verdict(record: Mapping[str, Any]) -> str:
    better = record.get("higher_is_better")
    return "differs" if better is None else "better" if (record["difference"] > 0) == better else "worse"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
