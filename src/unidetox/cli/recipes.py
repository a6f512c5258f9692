"""The verbs that do a recipe, or write one: run, tune, compare, init."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unidetox.cli.answers import answer, show_results
from unidetox.cli.options import COMPUTING, Argument, Option
from unidetox.cli.verbs import ComputeOptions, Shared, verb
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.resolve import output_path

if TYPE_CHECKING:
    from unidetox.config.settings import Recipe

_OUTPUT = Option("-o --output", "Directory for the result.", type=Path, required=True)


@verb(
    Argument("recipe", "A recipe in TOML; `unidetox init` writes one.", type=Path),
    Option("--dry-run", "Say what would be done, and whether it fits; do nothing.", COMPUTING, is_flag=True),
    Option("--gpu", "With --dry-run: whether it fits on a GPU, e.g. A100.", COMPUTING),
    _OUTPUT,
    whole=True,
)
def run(common: ComputeOptions, recipe: Path, dry_run: bool, gpu: str | None, output: Path) -> None:
    """Do every stage of a recipe; what is complete and unchanged is skipped, a killed run goes on."""
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.pipeline import plan

    loaded = limited(load_recipe(recipe, common.settings()), common.limit)
    if gpu is not None and not dry_run:
        raise UsageError("--gpu says whether a run would fit on a device", hint="Add --dry-run, or leave it out")
    if dry_run:
        _show_plan(common, loaded, output, gpu)
        return
    results = plan.run(loaded, output, fresh=common.fresh, command=sys.argv)
    show_results(common, results, output)


@verb(Argument("recipe", "A recipe in TOML with a section [tune].", type=Path), _OUTPUT, whole=True)
def tune(common: ComputeOptions, recipe: Path, output: Path) -> None:
    """Search settings on one model and validation prompts, under a ceiling of perplexity; write the best recipe."""
    from unidetox import api
    from unidetox.pipeline.tuning import tuned_rows

    settings = common.settings()
    found = api.tune(recipe, output=output, fresh=common.fresh, overrides=settings, limit=common.limit)
    if common.as_json:
        console.result(json.dumps(found))
        return
    console.table("Trials, the best first", *tuned_rows(found))
    console.result(f"best: {output / 'best.toml'}; `unidetox run {output / 'best.toml'} -o OUT` takes it to all models")


@verb(
    Argument("sources", "A recipe, or folders of finished runs.", nargs=-1, required=True),
    Option("--dry-run", "Say what would be done, and do nothing.", COMPUTING, is_flag=True),
    Option("-o --output", "Directory for the result.", type=Path, default=Path("runs/compare")),
    whole=True,
)
def compare(common: ComputeOptions, sources: tuple[str, ...], dry_run: bool, output: Path) -> None:
    """Compare methods on models: one table, with the cost of each; a killed one goes on. Or compare finished runs."""
    from unidetox import api
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.report.ranking import cost_table, terminal_rankings

    recipe = api.recipe_of(sources)
    if dry_run:
        if recipe is None:
            hint = "Leave it out: it takes a moment"
            raise UsageError("--dry-run is for recipes, and there are directories", hint=hint)
        _show_plan(common, limited(load_recipe(recipe, [*common.settings(), "costs=true"]), common.limit), output)
        return
    results = api.compare(
        sources, output=output, fresh=common.fresh, overrides=tuple(common.settings()), limit=common.limit,
        command=sys.argv,
    )  # fmt: skip
    if common.as_json:
        console.result(json.dumps(results))
        return
    for title, columns, rows in terminal_rankings(results):
        console.table(f"{title} (* best, + second best)", columns, rows)
    columns, rows = cost_table(results)
    if rows:
        console.table("Costs", columns, rows)
    console.result(f"page, with intervals and tests: {output / 'report' / 'index.html'}")


@verb(
    Option("--preset", "What to start from: paper, small, sandbox.", default="paper"),
    Option("--force", "Replace a file that is there.", is_flag=True),
    Option("-o --output", "File to write.", type=Path, default=Path("recipe.toml")),
    common=Shared,
)
def init(common: Shared, preset: str, force: bool, output: Path) -> None:
    """Write a commented recipe to start from."""
    from unidetox.config.recipe import commented_recipe
    from unidetox.core.directories import make_directory
    from unidetox.core.files import write_text

    output = output_path(output)
    if output.is_dir():
        raise UsageError(f"{output} is a directory", hint="Give a file: -o recipe.toml")
    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="Give another -o, or --force to replace it")
    commented = commented_recipe(preset, output.stem)
    make_directory(output.parent)
    write_text(output, commented)
    answer(common, {"recipe": output}, f"{output}: change what you like, then `unidetox run {output} -o runs/NAME`")


def _show_plan(common: ComputeOptions, recipe: Recipe, output: Path, gpu: str | None = None) -> None:
    """Say what a run would do and cost."""
    from unidetox.pipeline import estimates, plan
    from unidetox.pipeline.run_directory import Run

    Run(output).check(recipe)
    found = estimates.estimate(plan.Plan(recipe, output), gpu)
    if common.as_json:
        console.result(json.dumps(found.as_json()))
        return
    console.table(plan.describe(recipe), estimates.COLUMNS, found.rows())
    console.result(found.summary())
