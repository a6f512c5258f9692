"""The verbs that do a recipe, or write one: run, tune, compare, init."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from unidetox.cli.options import Output, Overrides, Shared, Work, answer, settings_of, show_results
from unidetox.core import console
from unidetox.core.errors import UsageError


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML; `unidetox init` writes one.", show_default=False)],
    common: Work,
    output: Output,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and cost; do nothing.")] = False,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: the cost on a GPU, e.g. A100.")] = None,
) -> None:
    """Do every stage of a recipe; what is complete and unchanged is skipped, a killed run goes on."""
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.pipeline import estimates, plan
    from unidetox.pipeline.run_directory import Run

    loaded = limited(load_recipe(recipe, settings_of(common, overrides)), common.limit)
    if gpu is not None and not dry_run:
        raise UsageError("--gpu says on what a run would take how long", hint="Add --dry-run, or leave it out")
    if dry_run:
        Run(output).check(loaded)
        found = estimates.estimate(plan.Plan(loaded, output), gpu)
        if common.as_json:
            console.result(json.dumps(found.as_json()))
            return
        console.table(plan.describe(loaded), estimates.COLUMNS, found.rows())
        console.result(found.summary())
        return
    results = plan.run(loaded, output, fresh=common.fresh, command=sys.argv)
    show_results(common, results, output)


def tune(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML with a section [tune].", show_default=False)],
    common: Work,
    output: Output,
    overrides: Overrides = None,
) -> None:
    """Search settings on one model and validation prompts, under a ceiling of perplexity; write the best recipe."""
    from unidetox import api
    from unidetox.pipeline.tuning import tuned_rows

    settings = settings_of(common, overrides)
    found = api.tune(recipe, output=output, fresh=common.fresh, overrides=settings, limit=common.limit)
    if common.as_json:
        console.result(json.dumps(found))
        return
    console.table("Trials, the best first", *tuned_rows(found))
    console.result(f"best: {output / 'best.toml'}; `unidetox run {output / 'best.toml'} -o OUT` takes it to all models")


def compare(
    sources: Annotated[list[str], typer.Argument(help="A recipe, or folders of finished runs.", show_default=False)],
    common: Work,
    output: Output = Path("runs/compare"),
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Compare methods on models: one table, with the cost of each; a killed one goes on. Or compare finished runs."""
    from unidetox import api
    from unidetox.report.ranking import cost_table, terminal_rankings

    settings = settings_of(common, overrides)
    recipe = api.recipe_of(sources)
    if recipe is None and dry_run:
        raise UsageError("--dry-run is for recipes, and there are directories", hint="Leave it out: it takes a moment")
    if recipe is not None and dry_run:
        run(recipe, common, output, [*settings, "costs=true"], dry_run=True)
        return
    results = api.compare(
        sources, output=output, fresh=common.fresh, overrides=tuple(settings), limit=common.limit, command=sys.argv
    )
    if common.as_json:
        console.result(json.dumps(results))
        return
    for title, columns, rows in terminal_rankings(results):
        console.table(f"{title} (* best, + second best)", columns, rows)
    columns, rows = cost_table(results)
    if rows:
        console.table("Costs", columns, rows)
    console.result(f"page, with intervals and tests: {output / 'report' / 'index.html'}")


def init(
    common: Shared,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("recipe.toml"),
    preset: Annotated[str, typer.Option(help="What to start from: paper, small, sandbox.")] = "paper",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    from unidetox.config.recipe import commented_recipe
    from unidetox.core.directories import make_directory
    from unidetox.core.files import write_text

    if output.is_dir():
        raise UsageError(f"{output} is a directory", hint="Give a file: -o recipe.toml")
    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="Give another -o, or --force to replace it")
    commented = commented_recipe(preset, output.stem)
    make_directory(output.parent)
    write_text(output, commented)
    answer(common, {"recipe": output}, f"{output}: change what you like, then `unidetox run {output} -o runs/NAME`")
