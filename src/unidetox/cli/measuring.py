"""The verbs that measure: evaluate (models) and analyze (texts)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import unidetox
from unidetox.cli.options import OUT, Argument, Option
from unidetox.cli.verbs import Said, verb
from unidetox.core.errors import UsageError


@verb(
    Argument("models", "Models: directories, or Hub ids (with @REVISION if you like).", nargs=-1, required=True),
    OUT,
    section="Evaluate",
    without=("seed",),  # one seed is a list of one
    aliases={"seeds": "--seed", "perturbations": "--perturb"},
    repeatable=("scorer", "scorer_label"),
)
def evaluate(models: Sequence[str], output: Path, **told: Any) -> Said:
    """Measure toxicity, perplexity, diversity and knowledge of models, with intervals, a table and a page."""
    results = unidetox.evaluate(list(models), output=output, **_with_scorers(told))
    yield from results_and_page(results, output)


@verb(
    Argument("texts", "Texts: files, directories or Hub ids.", nargs=-1, required=True),
    Option("-o --output", "Directory for the numbers and a page; without it, they are only shown.", type=Path),
    section="Analyze",
    aliases={"classifiers": "--classifier"},
)
def analyze(texts: Sequence[str], output: Path | None, **told: Any) -> Said:
    """Say what is in sets of texts, side by side: overlap, key terms, toxicity, labels, lengths, copies."""
    from unidetox.report.analysis_page import console_rows

    found = unidetox.analyze(list(texts), output=output, **told)
    yield found
    yield "Texts", *console_rows(found)
    if output is not None:
        yield f"page: {output / 'analysis.html'}"


def results_and_page(results: dict[str, Any], output: Path) -> Said:
    """Yield results, their main table and where the page is."""
    from unidetox.report.main_table import summary_table

    yield results
    yield "Results", *summary_table(results)
    yield f"page: {output / 'report' / 'index.html'}"


def _with_scorers(given: dict[str, Any]) -> dict[str, Any]:
    """Make of several ``--scorer`` the main one, and all others with their labels."""
    models, labels = given.get("scorer"), given.get("scorer_label", [])
    models, labels = ([value] if isinstance(value, str) else value or [] for value in (models, labels))
    if len(labels) > 1 and len(labels) != len(models):
        raise UsageError(
            f"{len(models)} --scorer and {len(labels)} --scorer-label", hint="Give one label for all, or one for each"
        )
    if len(set(models)) < len(models):
        raise UsageError("a --scorer is given twice", hint="Name each scorer once")
    each = labels if len(labels) > 1 else (labels or ["toxic"]) * len(models)
    others = dict(zip(models[1:], each[1:], strict=True)) | given.get("other_scorers", {})
    main = {"scorer": models[:1], "scorer_label": labels[:1]}
    chosen: dict[str, Any] = {name: value[0] for name, value in main.items() if value}
    return given | chosen | ({"other_scorers": others} if others else {})
