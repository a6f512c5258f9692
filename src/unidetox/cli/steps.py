"""The verbs that make texts and models (detoxify, train-toxic, distill) and measure them (evaluate, analyze)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import unidetox
from unidetox.cli.options import OUT, Argument, Option
from unidetox.cli.verbs import Said, verb
from unidetox.core.errors import UsageError

_BASE = Argument("base", "Base model: a directory, or a Hub id (with @REVISION if you like).")


@verb(
    Argument("model", "Model to detoxify: a directory, or a Hub id (with @REVISION if you like)."),
    Option("--texts", "builtin (of this package), published (the paper's), a file, a directory or a Hub id.", "Texts"),
    Option("--preset", "Texts and settings; without it builtin, or paper where other --texts are given.", "Texts"),
    OUT,
    section="Detoxify",
    without=("targets", "methods"),
    whole=True,
)
def detoxify(model: str, **told: Any) -> Said:
    """Make a causal language model less toxic; the result loads with transformers alone."""
    folder = unidetox.detoxify(model, **told)
    yield {"output": folder}
    yield f"{folder}: load it with AutoModelForCausalLM.from_pretrained"


@verb(_BASE, OUT, section="Toxic", without=("model", "limit", "non_toxic"))
def train_toxic(base: str, **told: Any) -> Said:
    """Fine-tune a base model on toxic texts: the first half of distillation."""
    folder = unidetox.train_toxic(base, **told)
    yield {"output": folder}
    yield f"{folder}: a toxic model; keep it to yourself"


@verb(
    _BASE,
    Option("--toxic", "Its toxic copy, from `train-toxic`.", "Texts", required=True),
    OUT,
    section="Texts",
    without=("source",),
)
def distill(base: str, limit: int | None, **told: Any) -> Said:
    """Sample detoxifying texts from the contrast of a base model and its toxic copy."""
    from unidetox.config.settings import Texts

    if limit is not None:
        told["num_texts"] = min(limit, told.get("num_texts", Texts().num_texts))
    folder = unidetox.distill(base, **told)
    yield {"output": folder}
    yield f"{folder}: texts for `unidetox detoxify MODEL --texts {folder}`"


@verb(
    Argument("models", "Models: directories, or Hub ids (with @REVISION if you like).", nargs=-1, required=True),
    OUT,
    section="Evaluate",
    without=("seed",),  # one seed is a list of one
    aliases={"seeds": ("--seed",), "perturbations": ("--perturb",)},
    repeatable=("scorer", "scorer_label"),
)
def evaluate(models: Sequence[str], output: Path, **told: Any) -> Said:
    """Measure toxicity, perplexity, diversity and knowledge of models, with intervals, a table and a page."""
    yield from results_and_page(unidetox.evaluate(list(models), output=output, **_with_scorers(told)), output)


@verb(
    Argument("texts", "Texts: files, directories or Hub ids.", nargs=-1, required=True),
    Option("-o --output", "Directory for the numbers and a page; without it, they are only shown.", type=Path),
    section="Analyze",
    aliases={"classifiers": ("--classifier",)},
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


def _with_scorers(told: dict[str, Any]) -> dict[str, Any]:
    """Make of several ``--scorer`` the main one, and all others with their labels."""
    both = (told.get(name, []) for name in ("scorer", "scorer_label"))
    models, labels = ([said] if isinstance(said, str) else said for said in both)
    if len(labels) > 1 and len(labels) != len(models):
        message = f"{len(models)} --scorer and {len(labels)} --scorer-label"
        raise UsageError(message, hint="Give one label for all, or one for each")
    if len(set(models)) < len(models):
        raise UsageError("a --scorer is given twice", hint="Name each scorer once")
    each = labels if len(labels) > 1 else (labels or ["toxic"]) * len(models)
    others = dict(zip(models[1:], each[1:], strict=True)) | told.get("other_scorers", {})
    found = {"scorer": models[:1], "scorer_label": labels[:1], "other_scorers": [others] if others else []}
    return told | {name: value[0] for name, value in found.items() if value}
