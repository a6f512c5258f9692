"""The verbs that make texts and models: demo, detoxify, train-toxic, distill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import unidetox
from unidetox.cli.measuring import results_and_page
from unidetox.cli.options import OUT, Argument, Option
from unidetox.cli.verbs import Said, verb

_BASE = Argument("base", "Base model: a directory, or a Hub id (with @REVISION if you like).")


@verb(Option("-o --output", "Directory for the result.", type=Path, default=Path("runs/demo")))
def demo(output: Path, fresh: bool, **told: Any) -> Said:
    """See the whole story in a miniature world: no download, two minutes on two cores, a table and a page."""
    from unidetox.config.recipe import build_recipe, limited
    from unidetox.pipeline import plan

    settings = {"preset": "sandbox", "name": "demo"}
    recipe = limited(build_recipe(settings, "the demo", overrides=told["overrides"]), told["limit"])
    yield from results_and_page(plan.run(recipe, output, fresh=fresh, command=sys.argv), output)
    yield f"done: {plan.describe(recipe)}; the control is fine-tuned on plain samples"
    yield "next: unidetox detoxify MODEL --texts TEXTS -o OUT (`unidetox init`: every stage)"


@verb(
    Argument("model", "Model to detoxify: a directory, or a Hub id (with @REVISION if you like)."),
    Option("--texts", "Detoxifying texts: published (the paper's), a file, a directory or a Hub id.", "Texts"),
    Option("--preset", "Makes the texts where none are given; its [detoxify] counts too.", "Texts", default="paper"),
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
