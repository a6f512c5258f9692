"""Names of metrics for people, and numbers as they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

Record = Mapping[str, Any]
"""A row or another entry of a ``results.json``."""

_TITLES = {
    "tp": "TP", "emt": "EMT", "toxicity_mean": "mean toxicity", "ppl": "PPL, mean of texts", "ppl_token": "PPL",
    "dist_2": "Dist-2", "accuracy": "accuracy", "accuracy_letters": "accuracy", "mean_length": "length in tokens",
    "eos_rate": "ended by itself", "empty_rate": "empty", "loop_rate": "with loops", "refusal_rate": "refusals",
    "relevance": "relevance, nats a token",
    "false_positive_rate": "called toxic", "score_mean": "mean score", "kl_base": "KL from base, nats a token",
}  # fmt: skip


def title_of(metric: str, domain: str | None = None) -> str:
    """Name a metric, and the domain where it is not over all prompts."""
    name = _TITLES.get(metric, metric.replace("_", " "))
    return name if domain in ("all", None) else f"{name} {domain.upper() if domain in ('id', 'ood') else domain}"


def is_number(value: object) -> TypeGuard[float]:
    """Say whether a value can be shown: a finite number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_number(value: float, metric: str = "", digits: int = 3) -> str:
    """Write a number as befits its metric: perplexities with two decimals, lengths with one, else ``digits``."""
    if metric.startswith("ppl"):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.{1 if metric == 'mean_length' else digits}f}"


def format_signed(value: float, metric: str = "") -> str:
    """Write a difference with its sign; one that is 0 as written has none."""
    text = format_number(abs(value), metric)
    return text if not text.strip("0.,") else ("+" if value > 0 else "−") + text


def format_change(change: float, relative: bool) -> str:
    """Write a change with its sign: per cent (of 0 there are none), or points where it is a difference of shares."""
    if math.isinf(change):
        return "from 0"
    number = f"{100 * change:+.0f}" if relative else f"{100 * change:+.1f}"
    number = number.replace("-", "−") if number.strip("+-0.") else number[1:]
    return f"{number}\u00a0{'%' if relative else 'points'}"


def format_p(value: float) -> str:
    """Write a p-value."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def ends_of(
    record: Record, metric: str = "", write: Callable[[float, str], str] = format_number
) -> tuple[str, str] | None:
    """Write the ends of a record's interval; None where there is none."""
    low, high = record.get("ci_low"), record.get("ci_high")
    return (write(low, metric), write(high, metric)) if is_number(low) and is_number(high) else None
