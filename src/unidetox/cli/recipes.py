"""The verbs that do a recipe, or write one: run, tune, compare, init."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unidetox
from unidetox.cli.measuring import results_and_page
from unidetox.cli.options import COMPUTING, OUT, Argument, Option
from unidetox.cli.verbs import Said, verb
from unidetox.core.errors import UsageError

if TYPE_CHECKING:
    from unidetox.config.settings import Recipe


@verb(
    Argument("recipe", "A recipe in TOML; `unidetox init` writes one.", type=Path),
    Option("--dry-run", "Say what would be done, and whether it fits; do nothing.", COMPUTING, is_flag=True),
    Option("--gpu", "With --dry-run: whether it fits on a GPU, e.g. A100.", COMPUTING),
    OUT,
)
def run(recipe: Path, dry_run: bool, gpu: str | None, output: Path, fresh: bool, **told: Any) -> Said:
    """Do every stage of a recipe; what is complete and unchanged is skipped, a killed run goes on."""
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.pipeline import plan

    loaded = limited(load_recipe(recipe, told["overrides"]), told["limit"])
    if gpu is not None and not dry_run:
        raise UsageError("--gpu says whether a run would fit on a device", hint="Add --dry-run, or leave it out")
    if dry_run:
        yield from _what_would_be_done(loaded, output, gpu)
    else:
        yield from results_and_page(plan.run(loaded, output, fresh=fresh, command=sys.argv), output)


@verb(Argument("recipe", "A recipe in TOML with a section [tune].", type=Path), OUT)
def tune(recipe: Path, output: Path, **told: Any) -> Said:
    """Search settings on one model and validation prompts, under a ceiling of perplexity; write the best recipe."""
    from unidetox.pipeline.tuning import tuned_rows

    found = unidetox.tune(recipe, output=output, **told)
    yield found
    yield "Trials, the best first", *tuned_rows(found)
    yield f"best: {output / 'best.toml'}; `unidetox run {output / 'best.toml'} -o OUT` takes it to all models"


@verb(
    Argument("sources", "A recipe, or folders of finished runs.", nargs=-1, required=True),
    Option("--dry-run", "Say what would be done, and do nothing.", COMPUTING, is_flag=True),
    Option("-o --output", "Directory for the result.", type=Path, default=Path("runs/compare")),
)
def compare(sources: Sequence[str], dry_run: bool, output: Path, **told: Any) -> Said:
    """Compare methods on models: one table, with the cost of each; a killed one goes on. Or compare finished runs."""
    from unidetox import api
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.report.ranking import cost_table, terminal_rankings

    recipe = api.recipe_of(sources)
    if dry_run:
        if recipe is None:
            hint = "Leave it out: it takes a moment"
            raise UsageError("--dry-run is for recipes, and there are directories", hint=hint)
        loaded = load_recipe(recipe, [*told["overrides"], "costs=true"])
        yield from _what_would_be_done(limited(loaded, told["limit"]), output)
        return
    results = api.compare(sources, output=output, command=sys.argv, **told)
    yield results
    yield from ((f"{title} (* best, + second best)", *ranking) for title, *ranking in terminal_rankings(results))
    columns, rows = cost_table(results)
    if rows:
        yield "Costs", columns, rows
    yield f"page, with intervals and tests: {output / 'report' / 'index.html'}"


@verb(
    Option("--preset", "What to start from: paper, small, sandbox.", default="paper"),
    Option("--force", "Replace a file that is there.", is_flag=True),
    Option("-o --output", "File to write.", type=Path, default=Path("recipe.toml")),
    computes=False,
)
def init(preset: str, force: bool, output: Path) -> Said:
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
    yield {"recipe": output}
    yield f"{output}: change what you like, then `unidetox run {output} -o runs/NAME`"


def _what_would_be_done(recipe: Recipe, output: Path, gpu: str | None = None) -> Said:
    """Yield what a run would do and cost."""
    from unidetox.pipeline import estimates, plan
    from unidetox.pipeline.run_directory import Run

    Run(output).check(recipe)
    found = estimates.estimate(plan.Plan(recipe, output), gpu)
    yield found.as_json()
    yield plan.describe(recipe), estimates.COLUMNS, found.rows()
    yield found.summary()
