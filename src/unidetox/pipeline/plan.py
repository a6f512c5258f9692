"""The order of the stages of a run: what is fresh, what is made again, and where a killed run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from unidetox.config.methods import METHODS, load_method
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.directories import check_directory
from unidetox.core.files import read_json
from unidetox.core.names import short_name, unique_slugs
from unidetox.core.stages import StageStatus
from unidetox.evaluation.evaluate import Target, Work, load_work, merge, run_target, target_stage
from unidetox.evaluation.scorers import contamination
from unidetox.evaluation.speed import measure_speed, read_speed, speed_stage
from unidetox.methods.best_of import check_starts
from unidetox.methods.interface import Bench, Step
from unidetox.pipeline.preflight import check_recipe
from unidetox.pipeline.run_directory import Run


class Plan:
    """The steps of a recipe in a directory.

    Args:
        recipe: What to do.
        directory: The run's directory.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory
        self.bench = Bench(recipe, directory)

    @cached_property
    def work(self) -> Work:
        """Prompts and questions."""
        r = self.recipe
        return load_work(
            r.evaluate, device=r.device, dtype=r.dtype, trust_remote_code=r.trust_remote_code,
            bases={str(job.folder): job.target for job in self.bench.jobs}, corpus=r.toxic.corpus,
        )  # fmt: skip

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, each once and after what it needs: what is shared, then the targets, then the evaluations."""
        jobs = self.bench.jobs
        made = {step.name: step for job in jobs for step in load_method(job.method).steps(self.bench, job)}
        results = {job.step for job in jobs}
        shared = [step for step in made.values() if step.name not in results]
        timed = self._speeds() if self.recipe.costs else ()
        return (*shared, *(made[job.step] for job in jobs), *self._evaluations(), *timed)

    @cached_property
    def models(self) -> dict[str, str]:
        """What is evaluated: folder name -> model name or directory, in the order of the results."""
        found: dict[str, str] = {}
        for slug, target in self._slugs.items():
            found[f"{slug}-base"] = target
            found |= {job.folder.name: str(job.folder) for job in self.bench.jobs if job.target == target}
        return found

    @cached_property
    def titles(self) -> dict[str, Target]:
        """Model name or directory -> what results call it; folders tell apart two targets of one name."""
        slugs = {target: slug for slug, target in self._slugs.items()}
        titles = {target: Target(slug) for target, slug in slugs.items()}
        return titles | {str(job.folder): Target(slugs[job.target], job.title) for job in self.bench.jobs}

    def preflight(self) -> None:
        """Look at everything that the run will need, so that a mistake shows now and not in an hour."""
        check_recipe(self.recipe)
        for warning in contamination(self.recipe.evaluate, self.recipe.toxic.corpus):
            console.warn(warning)
        for step in self.steps:
            step.check()
        check_starts(self.recipe, self.work.prompts)

    def _evaluations(self) -> Iterator[Step]:
        made = {job.folder.name: (job.step,) for job in self.bench.jobs}
        for slug, model in self.models.items():
            yield self._evaluation_step(slug, model, made.get(slug, ()))

    def _evaluation_step(self, slug: str, model: str, needs: tuple[str, ...]) -> Step:
        folder, settings = self.directory / "evaluation" / slug, self.recipe.evaluate
        return Step(
            f"evaluation/{slug}",
            needs,
            lambda: target_stage(model, folder, self.work, settings),
            lambda fresh: run_target(model, folder, self.work, settings, fresh=fresh, replace=True),
        )

    def _speeds(self) -> Iterator[Step]:
        for slug, target in self._slugs.items():
            jobs = [job for job in self.bench.jobs if job.target == target]
            models = {"base": target} | {job.title: str(job.folder) for job in jobs}
            yield self._speed_step(slug, models, tuple(job.step for job in jobs))

    def _speed_step(self, slug: str, models: dict[str, str], needs: tuple[str, ...]) -> Step:
        folder, settings = self.directory / "speed" / slug, self.recipe.evaluate
        return Step(
            f"speed/{slug}",
            needs,
            lambda: speed_stage(models, folder, self.work, settings),
            lambda fresh: measure_speed(models, folder, self.work, settings, fresh=fresh),
        )

    @cached_property
    def _slugs(self) -> dict[str, str]:
        targets = self.recipe.detoxify.targets
        return dict(zip(unique_slugs(targets), targets, strict=True))

    def costs(self) -> list[dict[str, Any]]:
        """Return what each job took to make, all that it needs included, and how fast the result writes.

        Returns:
            Records ``{target, method, seconds, seconds_own, peak_bytes, sessions, steps, slow_down,
            tokens_per_second}``; seconds are those of the last session where a stage was interrupted.
        """
        needs = {step.name: step.needs for step in self.steps}
        records = []
        for job in self.bench.jobs:
            names = _with_needs(job.step, needs)
            made = [read_json(self.directory / name / "stage.json") or {} for name in names]
            title = self.titles[str(job.folder)]
            speed = read_speed(self.directory / "speed" / title.target).get(title.method, {})
            records.append({
                "target": title.target, "method": title.method,
                "seconds": sum(record.get("seconds", 0.0) for record in made),
                "seconds_own": made[-1].get("seconds"),
                "peak_bytes": max((record.get("peak_bytes") or 0 for record in made), default=0) or None,
                "sessions": max(record.get("sessions", 1) for record in made),
                "steps": names, **speed,
            })  # fmt: skip
        return records

    def statuses(self) -> dict[str, StageStatus]:
        """Say where each step stands; a step after one that is not fresh cannot be."""
        found: dict[str, StageStatus] = {}
        for step in self.steps:
            late = [name for name in step.needs if found[name].state != "fresh"]
            found[step.name] = _waiting(self.directory / step.name, late) if late else step.stage().status()
        return found


def _with_needs(name: str, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """List a step after all that it needs, each once."""
    before = [earlier for need in needs.get(name, ()) for earlier in _with_needs(need, needs)]
    return list(dict.fromkeys([*before, name]))


def _waiting(folder: Path, late: Sequence[str]) -> StageStatus:
    made = (folder / "stage.json").exists()
    reason = f"{', '.join(late)} {'is' if len(late) == 1 else 'are'} not fresh"
    return StageStatus("stale" if made else "missing", (reason,))


def run(
    recipe: Recipe, directory: Path, *, fresh: bool = False, command: Sequence[str] = ("unidetox", "run")
) -> dict[str, Any]:
    """Do all stages of a recipe; what is complete and unchanged is skipped.

    Args:
        recipe: What to do.
        directory: The run's directory.
        fresh: Do everything again.
        command: The command line, for the manifest.

    Returns:
        The content of ``results.json``.

    Raises:
        UniDetoxError: Any of its children; what was complete stays, and the same call goes on there.
    """
    plan = Plan(recipe, directory)
    # A mistake must not touch what a run that is there says of itself.
    check_directory(directory)
    Run(directory).check(recipe)
    plan.preflight()
    with Run(directory).session(recipe, command):
        number = len(plan.steps)
        for count, step in enumerate(plan.steps, 1):
            status = step.stage().status()
            if status.state == "fresh" and not fresh:
                console.info(f"[{count}/{number}] {step.name}: fresh, skipped")
                continue
            console.info(f"[{count}/{number}] {step.name}: {'made again' if fresh else status}")
            step.make(fresh)
        evaluated = {model: directory / "evaluation" / slug for slug, model in plan.models.items()}
        titles = {model: plan.titles[model] for model in evaluated}
        # Times differ from run to run, so only a run that asks for them has them among its results.
        costs = plan.costs() if recipe.costs else ()
        return merge(evaluated, directory, plan.work, recipe.evaluate, titles, corpus=recipe.toxic.corpus, costs=costs)


def describe(recipe: Recipe) -> str:
    """Say in one line what a recipe does."""
    targets = ", ".join(short_name(target) for target in recipe.detoxify.targets)
    keys = recipe.detoxify.methods
    methods = ", ".join(METHODS[key] if key in METHODS and key not in recipe.method else key for key in keys)
    return f"{recipe.name}: {short_name(recipe.base.model)} -> {methods} -> {targets}"
