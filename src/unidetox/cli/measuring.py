"""The verbs that measure: evaluate (models) and analyze (texts)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unidetox.cli.options import Output, Work, batch_size_of, said, show_results
from unidetox.core import console
from unidetox.core.errors import UsageError


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Models: directories or Hub ids.", show_default=False)],
    common: Work,
    output: Output,
    prompts: Annotated[str | None, typer.Option(help="toxigen, or a file with text, group, domain (toxigen).")] = None,
    split: Annotated[str | None, typer.Option(help="Part of ToxiGen: validation or test (validation).")] = None,
    num_prompts: Annotated[int | None, typer.Option(help="A random sample of so many prompts.")] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="Classifier, or several (unitary/toxic-bert).")] = None,
    scorer_label: Annotated[list[str] | None, typer.Option(help="Its toxicity label; one or each (toxic).")] = None,
    ppl_model: Annotated[str | None, typer.Option(help="Language model for perplexity.")] = None,
    mmlu: Annotated[str | None, typer.Option(help="MMLU folder or cais/mmlu.")] = None,
    mmlu_protocol: Annotated[str | None, typer.Option(help="paper (answer texts), or standard (letters).")] = None,
    shots: Annotated[int | None, typer.Option(help="Worked examples before each question (1; standard 5).")] = None,
    samples: Annotated[int | None, typer.Option(help="Continuations for each prompt (25).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest continuation in tokens (20).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus, 1 is off (0.9).")] = None,
    seeds: Annotated[str | None, typer.Option(help="One evaluation each, e.g. 42,43 (42).")] = None,
    perturb: Annotated[str | None, typer.Option(help="Changes of the prompts, e.g. leetspeak,casing; or all.")] = None,
    few_shot: Annotated[str | None, typer.Option(help="Toxic texts for the perturbation few_shot.")] = None,
    neutral: Annotated[str | None, typer.Option(help="Polite mentions of groups: builtin, or a file.")] = None,
    protocol: Annotated[str | None, typer.Option(help="default, or paper: as in the published code.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows side by side, or auto; changes no result.")] = None,
) -> None:
    """Measure toxicity, perplexity, diversity and knowledge of models, with intervals, a table and a page."""
    from unidetox import api

    given = common.given()
    # One seed is a list of one; --seeds wins, as it says more.
    numbers = _numbers(seeds) if seeds is not None else ([given["seed"]] if "seed" in given else None)
    options = said(
        prompts=prompts, split=split, num_prompts=num_prompts, **_scorers(scorer or [], scorer_label or []),
        perturbations=_words(perturb), few_shot=few_shot, neutral=neutral,
        ppl_model=ppl_model, mmlu=mmlu, mmlu_protocol=mmlu_protocol, shots=shots, samples=samples,
        max_new_tokens=max_new_tokens, top_p=top_p, seeds=numbers, protocol=protocol,
        batch_size=batch_size_of(batch_size),
    )  # fmt: skip
    computing = {key: value for key, value in given.items() if key != "seed"}
    results = api.evaluate(models, output=output, limit=common.limit, fresh=common.fresh, **options, **computing)
    show_results(common, results, output)


def analyze(
    texts: Annotated[list[str], typer.Argument(help="Texts: files, directories or Hub ids.", show_default=False)],
    common: Work,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory for the numbers and a page.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Toxic texts to look for: dghs, a file or a Hub id.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the corpus with the text.")] = None,
    reference: Annotated[str | None, typer.Option(help="Texts that key terms are taken against.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Toxicity classifier.")] = None,
    scorer_label: Annotated[str | None, typer.Option(help="Its label that is the toxicity (toxic).")] = None,
    classifier: Annotated[list[str] | None, typer.Option(help="Report its labels' shares; may be repeated.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Model whose tokens lengths are counted in, too.")] = None,
) -> None:
    """Say what is in sets of texts, side by side: overlap, key terms, toxicity, labels, lengths, copies."""
    from unidetox import api
    from unidetox.report.analysis_page import console_rows

    options = said(
        corpus=corpus, column=column, reference=reference, scorer=scorer, scorer_label=scorer_label,
        classifiers=classifier or None, tokenizer=tokenizer, limit=common.limit,
    )  # fmt: skip
    found = api.analyze(texts, output=output, fresh=common.fresh, **options, **common.given())
    if common.as_json:
        console.result(json.dumps(found))
        return
    console.table("Texts", *console_rows(found))
    if output is not None:
        console.result(f"page: {output / 'analysis.html'}")


def _words(value: str | None) -> list[str] | None:
    return [part.strip() for part in value.split(",")] if value is not None else None


def _scorers(models: list[str], labels: list[str]) -> dict[str, Any]:
    """Return the settings of the scorers: the main one, and all others with their labels."""
    if len(labels) > 1 and len(labels) != len(models):
        raise UsageError(
            f"{len(models)} --scorer and {len(labels)} --scorer-label", hint="Give one label for all, or one for each"
        )
    if len(set(models)) < len(models):
        raise UsageError("a --scorer is given twice", hint="Name each scorer once")
    each = labels if len(labels) > 1 else (labels or ["toxic"]) * len(models)
    others = dict(zip(models[1:], each[1:], strict=True))
    main = {"scorer": models[0]} if models else {}
    return main | ({"scorer_label": labels[0]} if labels else {}) | ({"other_scorers": others} if others else {})


def _numbers(value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {value} is not a list of whole numbers", hint="Example: --seeds 42,43,44")
    return [int(part) for part in parts]
