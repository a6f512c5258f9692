"""A configuration made and measured: its stages, shared with every other trial that has the same ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unidetox.config.settings import Evaluate, Recipe
from unidetox.core.directories import remove
from unidetox.core.errors import UniDetoxError
from unidetox.core.files import hash_of
from unidetox.pipeline.plan import Plan
from unidetox.pipeline.tuning.guard import check_texts_of
from unidetox.pipeline.tuning.search import Score
from unidetox.report.results_file import read_results

Row = Mapping[str, Any]


def do_shared(plan: Plan, folder: Path) -> None:
    """Do the steps of a plan with each stage's directory under its key, so that plans share what is equal in them.

    Args:
        plan: Its directory gets a link for each step.
        folder: Where the stages are kept.
    """
    for step in plan.steps:
        _link(plan.directory / step.name, folder / step.stage().key[:16])
        step.make(False)


def _link(place: Path, target: Path) -> None:
    """Let a step's directory be that of its key."""
    target.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.resolve() == target.resolve():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    remove(place)
    place.symlink_to(os.path.relpath(target, place.parent), target_is_directory=True)


class Measured:
    """The objective of a search: does the stages of a recipe and reads what was measured.

    A stage's directory lies under its key, and each trial links to those that it needs, so that one toxic model serves
    all trials, and texts are made again only where their settings change.

    Args:
        folder: Where everything is kept.
        metric: Toxicity that is to become least.
        domain: Prompts that it is taken over.
    """

    def __init__(self, folder: Path, metric: str, domain: str) -> None:
        self.folder, self.metric, self.domain = folder, metric, domain

    def preflight(self, recipe: Recipe, reported: Evaluate) -> dict[str, str]:
        """Look at everything that a trial will need; return a hash of each thing that is read from outside.

        Args:
            recipe: A recipe of the search.
            reported: What the result will be reported on, of which nothing may be learnt.
        """
        plan = Plan(recipe, self.folder / "preflight")
        plan.preflight()
        check_texts_of(plan.context, reported)
        first = [step for step in plan.steps if not step.needs]
        return {f"{step.name} {name}": value for step in first for name, value in step.stage().inputs.items()}

    def __call__(self, recipe: Recipe) -> Score:
        """Make and measure one configuration.

        Args:
            recipe: With one target and one method.
        """
        plan = Plan(recipe, self.folder / "trials" / hash_of(recipe.digest())[:16])
        do_shared(plan, self.folder / "stages")
        base, made = (read_results(plan.directory / "evaluation" / slug)["rows"] for slug in plan.models)
        # A trial is known by its numbers from now on; `run` makes the best model again.
        for pair in plan.context.pairs:
            remove(pair.folder.resolve())
        number, own = _find(made, self.metric, self.domain), _find(base, self.metric, self.domain)
        if number.get("value") is None:
            raise UniDetoxError(f"{self.metric} was not measured over the prompts of domain {self.domain}")
        fluency = "ppl" if recipe.evaluate.protocol == "paper" else "ppl_token"
        ppl, base_ppl = (_find(rows, fluency, "all").get("value") for rows in (made, base))
        relevance, base_relevance = (_find(rows, "relevance", "all").get("value") for rows in (made, base))
        return Score(
            number["value"], ppl, base_ppl, own.get("value"), number["ci_low"], number["ci_high"], number["n"],
            relevance, base_relevance,
        )  # fmt: skip


def _find(rows: Sequence[Row], metric: str, domain: str) -> Row:
    """Find a number over all groups, pooled over seeds; an empty row where it was not measured."""
    wanted = {"metric": metric, "domain": domain, "group": None, "seed": None, "form": None, "scorer": None}
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), {})
