"""The verbs that make texts and models: demo, detoxify, train-toxic, distill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unidetox.cli.options import Output, Work, answer, batch_size_of, said, show_results
from unidetox.core import console


def demo(common: Work, output: Output = Path("runs/demo")) -> None:
    """See the whole story in a miniature world: no download, two minutes on two cores, a table and a page."""
    from unidetox.config.recipe import limited, recipe_from
    from unidetox.pipeline import plan

    recipe = limited(recipe_from("sandbox", **({"name": "demo"} | common.given())), common.limit)
    results = plan.run(recipe, output, fresh=common.fresh, command=sys.argv)
    show_results(common, results, output)
    if not common.as_json:
        console.result(f"done: {plan.describe(recipe)}; the control is fine-tuned on plain samples")
        console.result("next: unidetox detoxify MODEL --texts TEXTS -o OUT (`unidetox init`: every stage)")


def detoxify(
    model: Annotated[str, typer.Argument(help="Model to detoxify: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    texts: Annotated[str | None, typer.Option(help="Detoxifying texts: a file, a directory or a Hub id.")] = None,
    preset: Annotated[str, typer.Option(help="Makes the texts where none are given: paper, small, sandbox.")] = "paper",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps (3000).")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (5e-5).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts in an optimiser step (8).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens (256).")] = None,
    kl: Annotated[float | None, typer.Option(help="Weight of the divergence from the model as it was (0).")] = None,
    lora: Annotated[bool | None, typer.Option("--lora", help="Train a LoRA adapter in place of all weights.")] = None,
    merge: Annotated[bool | None, typer.Option("--merge", help="With --lora: write an ordinary checkpoint.")] = None,
) -> None:
    """Make a causal language model less toxic; the result loads with transformers alone."""
    from unidetox import api

    options = said(
        steps=steps, lr=lr, batch_size=batch_size, max_length=max_length, kl=kl, lora=lora, merge=merge
    )  # fmt: skip
    folder = api.detoxify(
        model, output=output, texts=texts, preset=preset, fresh=common.fresh, limit=common.limit,
        **options, **common.given(),
    )  # fmt: skip
    answer(common, {"output": folder}, f"{folder}: load it with AutoModelForCausalLM.from_pretrained")


def train_toxic(
    base: Annotated[str, typer.Argument(help="Base model: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    corpus: Annotated[str | None, typer.Option(help="Toxic texts: dghs, a file, a directory or a Hub id.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the corpus with the text.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the corpus (3).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of --epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (1e-5).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts in an optimiser step (4).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens (512).")] = None,
) -> None:
    """Fine-tune a base model on toxic texts: the first half of distillation."""
    from unidetox import api

    options = said(
        corpus=corpus, column=column, epochs=epochs, steps=steps, lr=lr, batch_size=batch_size, max_length=max_length,
        limit=common.limit,
    )  # fmt: skip
    folder = api.train_toxic(base, output=output, fresh=common.fresh, **options, **common.given())
    answer(common, {"output": folder}, f"{folder}: a toxic model; keep it to yourself")


def distill(
    base: Annotated[str, typer.Argument(help="Base model: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    toxic: Annotated[str, typer.Option(help="Its toxic copy, from `train-toxic`.", show_default=False)],
    num_texts: Annotated[int | None, typer.Option(help="How many texts (640).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens, start token included (256).")] = None,
    alpha: Annotated[float | None, typer.Option(help="Plausibility threshold, above 0 and at most 1 (0.1).")] = None,
    beta: Annotated[float | None, typer.Option(help="Strength of the contrast; inf is the paper's rule (inf).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides the scores (1).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus, 1 is off (1).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Best tokens kept, 0 is off (0).")] = None,
    starts: Annotated[str | None, typer.Option(help="Prompts that texts start from in turn: a file (none).")] = None,
    best_of: Annotated[int | None, typer.Option(help="Candidates of each text, of which one is kept (1).")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Texts side by side, or auto; changes no text (auto).")] = None,
) -> None:
    """Sample detoxifying texts from the contrast of a base model and its toxic copy."""
    from unidetox import api
    from unidetox.config.settings import Texts

    number = min(num_texts or Texts().num_texts, common.limit) if common.limit else num_texts
    options = said(
        num_texts=number, max_length=max_length, alpha=alpha, beta=beta, temperature=temperature, top_p=top_p,
        top_k=top_k, starts=starts, best_of=best_of, batch_size=batch_size_of(batch_size),
    )  # fmt: skip
    folder = api.distill(base, toxic=toxic, output=output, fresh=common.fresh, **options, **common.given())
    answer(common, {"output": folder}, f"{folder}: texts for `unidetox detoxify MODEL --texts {folder}`")
