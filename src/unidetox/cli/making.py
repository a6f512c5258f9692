"""The verbs that make texts and models: demo, detoxify, train-toxic, distill."""

from __future__ import annotations

import sys
from pathlib import Path

from unidetox.cli.answers import answer, show_results
from unidetox.cli.options import Argument, Option
from unidetox.cli.verbs import ComputeOptions, verb
from unidetox.core import console

_BASE = Argument("base", "Base model: a directory, or a Hub id (with @REVISION if you like).")
_OUTPUT = Option("-o --output", "Directory for the result.", type=Path, required=True)


@verb(Option("-o --output", "Directory for the result.", type=Path, default=Path("runs/demo")), whole=True)
def demo(common: ComputeOptions, output: Path) -> None:
    """See the whole story in a miniature world: no download, two minutes on two cores, a table and a page."""
    from unidetox.config.recipe import build_recipe, limited
    from unidetox.pipeline import plan

    settings = {"preset": "sandbox", "name": "demo"}
    recipe = limited(build_recipe(settings, "the demo", overrides=common.settings()), common.limit)
    results = plan.run(recipe, output, fresh=common.fresh, command=sys.argv)
    show_results(common, results, output)
    if not common.as_json:
        console.result(f"done: {plan.describe(recipe)}; the control is fine-tuned on plain samples")
        console.result("next: unidetox detoxify MODEL --texts TEXTS -o OUT (`unidetox init`: every stage)")


@verb(
    Argument("model", "Model to detoxify: a directory, or a Hub id (with @REVISION if you like)."),
    Option("--texts", "builtin (of this package), published (the paper's), a file, a directory or a Hub id.", "Texts"),
    Option("--preset", "Texts and settings; without it builtin, or paper where other --texts are given.", "Texts"),
    _OUTPUT,
    section="Detoxify",
    without=("targets", "methods"),
    whole=True,
)
def detoxify(common: ComputeOptions, model: str, texts: str | None, preset: str | None, output: Path) -> None:
    """Make a causal language model less toxic; the result loads with transformers alone."""
    from unidetox import api

    folder = api.detoxify(
        model, output=output, texts=texts, preset=preset, fresh=common.fresh, limit=common.limit,
        overrides=common.overrides, **common.given,
    )  # fmt: skip
    answer(common, {"output": folder}, f"{folder}: load it with AutoModelForCausalLM.from_pretrained")


@verb(_BASE, _OUTPUT, section="Toxic", without=("model", "limit", "non_toxic"))
def train_toxic(common: ComputeOptions, base: str, output: Path) -> None:
    """Fine-tune a base model on toxic texts: the first half of distillation."""
    from unidetox import api

    few = {"limit": common.limit} if common.limit else {}
    folder = api.train_toxic(base, output=output, fresh=common.fresh, **few, **common.given)
    answer(common, {"output": folder}, f"{folder}: a toxic model; keep it to yourself")


@verb(
    _BASE,
    Option("--toxic", "Its toxic copy, from `train-toxic`.", "Texts", required=True),
    _OUTPUT,
    section="Texts",
    without=("source",),
)
def distill(common: ComputeOptions, base: str, toxic: str, output: Path) -> None:
    """Sample detoxifying texts from the contrast of a base model and its toxic copy."""
    from unidetox import api
    from unidetox.config.settings import Texts

    given = dict(common.given)
    if common.limit:
        given["num_texts"] = min(common.limit, given.get("num_texts", Texts().num_texts))
    folder = api.distill(base, toxic=toxic, output=output, fresh=common.fresh, **given)
    answer(common, {"output": folder}, f"{folder}: texts for `unidetox detoxify MODEL --texts {folder}`")
