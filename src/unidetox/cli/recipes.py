"""The verbs that do a recipe (demo, run, tune, compare), write one (init) or look at its run (status, report)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import unidetox
from unidetox.cli.options import COMPUTING, OUT, Argument, Option
from unidetox.cli.steps import results_and_page
from unidetox.cli.verbs import Said, verb
from unidetox.core.errors import UsageError
from unidetox.core.resolve import output_path


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
    Argument("recipe", "A recipe in TOML; `unidetox init` writes one.", type=Path),
    Option("--dry-run", "Say what would be done, and whether it fits; do nothing.", COMPUTING, is_flag=True),
    Option("--gpu", "With --dry-run: whether it fits on a GPU, e.g. A100.", COMPUTING),
    OUT,
)
def run(recipe: Path, dry_run: bool, gpu: str | None, output: Path, fresh: bool, **told: Any) -> Said:
    """Do every stage of a recipe; what is complete and unchanged is skipped, a killed run goes on."""
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.pipeline import plan

    if dry_run:
        yield from _planned(recipe, output, gpu=gpu, **told)
        return
    loaded = limited(load_recipe(recipe, told["overrides"]), told["limit"])
    if gpu is not None:
        raise UsageError("--gpu says whether a run would fit on a device", hint="Add --dry-run, or leave it out")
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
    from unidetox.report.ranking import cost_table, terminal_rankings

    recipe = api.recipe_of(sources)
    if recipe is not None and dry_run:
        yield from _planned(recipe, output, [*told["overrides"], "costs=true"], told["limit"])
        return
    if dry_run:
        raise UsageError("--dry-run is for recipes, and there are directories", hint="Leave it out: it takes a moment")
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

    output = output_path(output)
    if output.is_dir():
        raise UsageError(f"{output} is a directory", hint="Give a file: -o recipe.toml")
    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="Give another -o, or --force to replace it")
    commented = commented_recipe(preset, output.stem)
    make_directory(output.parent)
    write_text(output, commented)
    yield {"recipe": output}
    yield f"{output}: change what you like, then `unidetox run {output} -o runs/NAME`"


@verb(Argument("run", "Directory of a run.", type=Path), computes=False)
def status(run: Path) -> Said:
    """Say of each stage whether it is fresh, stale (and why), partial, failed or missing."""
    from unidetox import api

    found = api.status(run)
    yield {name: {"state": stage.state, "reasons": list(stage.reasons)} for name, stage in found.items()}
    rows = [[name, stage.state, "; ".join(stage.reasons)] for name, stage in found.items()]
    yield str(run), ["stage", "state", "why"], rows


@verb(Argument("directory", "Directory with results.json.", type=Path), computes=False)
def report(directory: Path) -> Said:
    """Render the page and the tables again from results.json."""
    from unidetox import api

    page = api.report(directory)
    yield {"page": page}
    yield f"page: {page}"


def _planned(path: Path, output: Path, overrides: Sequence[str], limit: int | None, gpu: str | None = None) -> Said:
    """Yield what a run of a recipe would do and cost."""
    from unidetox.config.recipe import limited, load_recipe
    from unidetox.pipeline import estimates, plan
    from unidetox.pipeline.run_directory import Run

    recipe = limited(load_recipe(path, overrides), limit)
    Run(output).check(recipe)
    found = estimates.estimate(plan.Plan(recipe, output), gpu)
    yield found.as_json()
    yield plan.describe(recipe), estimates.COLUMNS, found.rows()
    yield found.summary()
