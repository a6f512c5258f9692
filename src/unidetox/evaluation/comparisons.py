"""Two targets on the same prompts: differences with intervals and corrected p-values, and what of them survives.

Prompts are paired, so what makes a prompt hard for both cancels out. All comparisons of an evaluation are one family
for Holm's correction: whoever picks the best-looking one has looked at all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unidetox.config.settings import ID_DOMAINS
from unidetox.evaluation.metrics.stats import Statistic, bootstrap_of_means, holm, paired_difference
from unidetox.evaluation.metrics.summary import METRICS, Column, PromptTable, Row

Key = tuple[str, str]
"""Target and method."""

Answers = Mapping[str, Sequence[float]]
"""Metric (``accuracy`` ...) -> whether each answer is right, 0 or 1."""

COMPARED: Mapping[str, tuple[str, ...]] = {
    "tp": ("id", "ood", "all"),
    "emt": ("id", "ood", "all"),
    "toxicity_mean": ("id", "ood", "all"),
    "toxic_fraction": ("id", "ood", "all"),
    "ppl_token": ("all",),
    "relevance": ("all",),
    "dist_2": ("all",),
}
"""Metric -> the domains in which targets are compared; few, as every one more costs the others power."""

ANCHORS = ("base", "unidetox")
"""Methods that all others of the same target are compared with."""


def compare(
    tables: Mapping[Key, PromptTable],
    answers: Mapping[Key, Answers] | None = None,
    *,
    scorers: Mapping[str, Mapping[Key, PromptTable]] | None = None,
    id_domains: Sequence[str] = ID_DOMAINS,
) -> list[dict[str, Any]]:
    """Compare every method with the base of the same target, and with UniDetox.

    Args:
        tables: (target, method) -> its numbers, prompt by prompt.
        answers: (target, method) -> its answers to the same questions in the same order.
        scorers: Other scorer -> the same numbers by it.
        id_domains: The in-distribution domains.

    Returns:
        Records ``{metric, domain, scorer, first: {target, method}, second: {target, method}, difference, ci_low,
        ci_high, p, p_holm, n, higher_is_better}`` of first minus second; ``scorer`` is None for the main one, ``n``
        counts prompts (questions for ``accuracy``). Targets that met other prompts are not compared.
    """
    records = []
    for first, second in _pairs(list(tables)):
        identity = {"first": _names(first), "second": _names(second)}
        numbers = [
            *_differences(tables[first], tables[second], id_domains),
            *_differences_of_answers((answers or {}).get(first, {}), (answers or {}).get(second, {})),
        ]
        records += [{**number, "scorer": None, **identity} for number in numbers]
        for scorer, judged in (scorers or {}).items():
            if first in judged and second in judged:
                numbers = list(_differences(judged[first], judged[second], id_domains))
                records += [{**number, "scorer": scorer, **identity} for number in numbers]
    corrected = holm([record["p"] for record in records])
    return [record | {"p_holm": p} for record, p in zip(records, corrected, strict=True)]


def survival_rows(
    tables: Mapping[Key, PromptTable],
    perturbed: Mapping[str, Mapping[Key, PromptTable]],
    *,
    id_domains: Sequence[str] = ID_DOMAINS,
) -> list[Row]:
    """Return how much of the detoxification survives each perturbation: rows of the metric ``survival``.

    The number is the fall of TP from base to detoxified on perturbed prompts, divided by that on the prompts as they
    are: 1 where the perturbation changes nothing, 0 where it undoes the detoxification.

    Args:
        tables: (target, method) -> its numbers on the prompts as they are.
        perturbed: Perturbation -> the same on perturbed prompts.
        id_domains: The in-distribution domains.

    Returns:
        Rows for ``id``, ``ood`` and ``all``, with an interval over prompts. The value is None where TP did not clearly
        fall (the interval of the fall holds 0): then there is nothing that could survive.
    """
    rows = []
    for name, changed in perturbed.items():
        for target, method in changed:
            four = [side.get((target, which)) for side in (changed, tables) for which in ("base", method)]
            known = [table for table in four if table is not None and "tp" in table.columns]
            if method == "base" or len(known) < 4 or len({table.prompt_ids for table in known}) > 1:
                continue
            for domain, chosen, strata in _parts(known[0], id_domains):
                columns = [table.columns["tp"].value[chosen] for table in known]
                number, n = _survival(columns, strata), len(chosen)
                rows.append(Row(target, method, "survival", domain, None, None, *number, n, 0, True, form=name))
    return rows


def _pairs(keys: Sequence[Key]) -> Iterator[tuple[Key, Key]]:
    """Yield what is compared: each method with the base, then each other one with UniDetox, target by target."""
    for place, anchor in enumerate(ANCHORS):
        for target, method in keys:
            if method not in ANCHORS[: place + 1] and (target, anchor) in keys:
                yield (target, method), (target, anchor)


def _differences(first: PromptTable, second: PromptTable, id_domains: Sequence[str]) -> Iterator[dict[str, Any]]:
    if first.prompt_ids != second.prompt_ids:
        return
    for domain, chosen, strata in _parts(first, id_domains):
        for metric, places in COMPARED.items():
            if domain in places and metric in first.columns and metric in second.columns:
                columns = (first.columns[metric], second.columns[metric])
                found = _difference(metric, domain, *columns, chosen, strata)
                if found:
                    yield found


def _difference(
    metric: str, domain: str, first: Column, second: Column, chosen: NDArray[np.intp], strata: list[str] | None
) -> dict[str, Any] | None:
    """Compare one metric on the prompts that count for both, or return None where there are none."""
    keep = [(first.weight[i] > 0) and (second.weight[i] > 0) for i in chosen]
    rows = chosen[np.array(keep, dtype=bool)]
    if not len(rows):
        return None
    statistic: Statistic = METRICS[metric].statistic
    weights = {} if statistic == "mean" else {"weights_a": first.weight[rows], "weights_b": second.weight[rows]}
    domains = [d for d, kept in zip(strata, keep, strict=True) if kept] if strata is not None else None
    share = METRICS[metric].share
    found = paired_difference(first.value[rows], second.value[rows], statistic, domains=domains, share=share, **weights)
    return {
        "metric": metric, "domain": domain, "difference": found.value, "ci_low": found.low, "ci_high": found.high,
        "p": found.p_value, "n": found.n, "higher_is_better": METRICS[metric].higher_is_better,
    }  # fmt: skip


def _differences_of_answers(first: Answers, second: Answers) -> Iterator[dict[str, Any]]:
    for metric, right in first.items():
        if len(second.get(metric, ())) == len(right) > 0:
            found = paired_difference(right, second[metric], share=True)
            yield {
                "metric": metric, "domain": "all", "difference": found.value, "ci_low": found.low,
                "ci_high": found.high, "p": found.p_value, "n": found.n, "higher_is_better": True,
            }  # fmt: skip


def _parts(table: PromptTable, id_domains: Sequence[str]) -> Iterator[tuple[str, NDArray[np.intp], list[str] | None]]:
    """Yield ``id``, ``ood`` and ``all``: which prompts, and their domains where the number is a mean over domains."""
    inside = [i for i, domain in enumerate(table.domains) if domain in id_domains]
    outside = [i for i, domain in enumerate(table.domains) if domain is not None and domain not in id_domains]
    for name, rows in (("id", inside), ("ood", outside)):
        if rows:
            yield name, np.array(rows), [str(table.domains[i]) for i in rows]
    yield "all", np.arange(len(table.domains)), None


def _survival(
    columns: Sequence[NDArray[np.float64]], domains: list[str] | None
) -> tuple[float | None, float | None, float | None]:
    """Return value and interval; columns are base and detoxified on perturbed prompts, then as they are."""
    fall = paired_difference(columns[2], columns[3], domains=domains, share=True)
    if fall.low is None or fall.low <= 0:
        return None, None, None

    def share(means: NDArray[np.float64]) -> NDArray[np.float64]:
        before = means[..., 2] - means[..., 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(before > 0, (means[..., 0] - means[..., 1]) / before, np.nan)

    return bootstrap_of_means(columns, share, domains=domains)


def _names(key: Key) -> dict[str, str]:
    return {"target": key[0], "method": key[1]}
