"""The order of the stages of a run: what is fresh, what is made again, and where a killed run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from unidetox.config.methods import METHODS, load_method
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.directories import check_directory
from unidetox.core.files import write_text
from unidetox.core.names import short_name, unique_slugs
from unidetox.core.stages import Stage, StageStatus
from unidetox.evaluation.evaluate import load_inputs, run_target, target_stage
from unidetox.evaluation.measure import EvalInputs
from unidetox.evaluation.memory import evaluation_need, writing_need
from unidetox.evaluation.prompt_encoding import check_room
from unidetox.evaluation.results import Target, merge
from unidetox.evaluation.scorers import check_helpers
from unidetox.evaluation.scorers.contamination import contamination
from unidetox.evaluation.speed import BASE, measure_speed, read_speed, speed_stage
from unidetox.methods.best_of import check_starts
from unidetox.methods.checkpoint_stage import card_of
from unidetox.methods.interface import RunContext, Step, TargetMethod
from unidetox.models import RULE_FILE, check_lm, choose_device, choose_training_dtype
from unidetox.models.directories import read_unidetox
from unidetox.pipeline.run_directory import Run
from unidetox.training.settings import check_optimizer


class Plan:
    """The steps of a recipe in a directory.

    Args:
        recipe: What to do.
        directory: The run's directory.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory
        self.context = RunContext(recipe, directory)

    @cached_property
    def inputs(self) -> EvalInputs:
        """Prompts and questions."""
        bases, corpus = {str(pair.folder): pair.target for pair in self.context.pairs}, self.recipe.toxic.corpus
        return load_inputs(self.recipe.evaluate, self.context.load_options, bases=bases, corpus=corpus)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, each once and after what it needs: what is shared, then the targets, then the evaluations."""
        pairs = {pair.folder.name: pair for pair in self.context.pairs}
        made = {s.name: s for pair in pairs.values() for s in load_method(pair.method).steps(self.context, pair)}
        results = {pair.step: made[pair.step] for pair in pairs.values()}
        shared = [step for step in made.values() if step.name not in results]
        evaluations = [self._evaluation(slug, model, pairs.get(slug), made) for slug, model in self.models.items()]
        timed = self.recipe.detoxify.targets if self.recipe.costs else ()
        return (*shared, *results.values(), *evaluations, *(self._speed(target, made) for target in timed))

    @cached_property
    def models(self) -> dict[str, str]:
        """What is evaluated: folder name -> model name or directory, in the order of the results."""
        titles = self.titles.items()
        return {f"{title.target}-base" if title.method == BASE else Path(name).name: name for name, title in titles}

    @cached_property
    def titles(self) -> dict[str, Target]:
        """Model name or directory -> what results call it; folders tell apart two targets of one name."""
        found, targets = dict[str, Target](), self.recipe.detoxify.targets
        for slug, target in zip(unique_slugs(targets), targets, strict=True):
            found[target] = Target(slug)
            found |= {str(p.folder): Target(slug, p.title) for p in self.context.pairs if p.target == target}
        return found

    def preflight(self) -> None:
        """Look at everything that the run will need, so that a mistake shows now and not in an hour; reads no weights.

        Raises:
            MissingError: Something is not there.
            UsageError: Something cannot be used as the recipe asks.
        """
        self._check_models()
        for warning in contamination(self.recipe.evaluate, self.recipe.toxic.corpus):
            console.warn(warning)
        for step in self.steps:
            step.check()
        check_starts(self.recipe, self.inputs.prompts)

    def _check_models(self) -> None:
        from unidetox.decoding.sequences import max_positions

        recipe, options = self.recipe, self.context.load_options
        choose_training_dtype(recipe.dtype, choose_device(recipe.device))
        for section in (recipe.toxic, recipe.detoxify):
            check_optimizer(section.optim)
        for target in recipe.detoxify.targets:
            check_room(target, max_positions(check_lm(target, options).config), recipe.evaluate.max_new_tokens)
        check_helpers(recipe.evaluate, options)

    def _evaluation(self, slug: str, model: str, pair: TargetMethod | None, made: Mapping[str, Step]) -> Step:
        folder, settings = self.directory / "evaluation" / slug, self.recipe.evaluate
        target, needs = (pair.target, (pair.step,)) if pair else (model, ())
        models, compared = made[pair.step].models if pair else 1, pair is not None and settings.neutral is not None
        return Step(
            f"evaluation/{slug}",
            needs,
            lambda: target_stage(model, folder, self.inputs, settings),
            lambda fresh: run_target(model, folder, self.inputs, settings, fresh=fresh, replace=True),
            need=lambda sizes: evaluation_need(settings, sizes, target, models, compared),
        )

    def _speed(self, target: str, made: Mapping[str, Step]) -> Step:
        folder, settings = self.directory / "speed" / self.titles[target].target, self.recipe.evaluate
        pairs = [pair for pair in self.context.pairs if pair.target == target]
        models = {"base": target} | {pair.title: str(pair.folder) for pair in pairs}
        most = max((made[pair.step].models for pair in pairs), default=1)
        return Step(
            f"speed/{folder.name}",
            tuple(pair.step for pair in pairs),
            lambda: speed_stage(models, folder, self.inputs, settings),
            lambda fresh: measure_speed(models, folder, self.inputs, settings, fresh=fresh),
            need=lambda sizes: writing_need(settings, sizes, target, most),
        )

    def costs(self) -> list[dict[str, Any]]:
        """Return what each pair took to make, all that it needs included, and how fast the result writes.

        Returns:
            Records ``{target, method, seconds, seconds_own, peak_bytes, sessions, steps, slow_down,
            tokens_per_second}``; seconds are those of the last session where a stage was interrupted.
        """
        needs = {step.name: step.needs for step in self.steps}
        records = []
        for pair in self.context.pairs:
            names = _with_needs(pair.step, needs)
            made = [Stage.read_record(self.directory / name) or {} for name in names]
            title = self.titles[str(pair.folder)]
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

    def write_cards(self, results: Mapping[str, Any]) -> None:
        """Write each model's card with what was measured to ``report/cards``.

        The card beside a model is made before that, and what a finished stage holds does not change.

        Args:
            results: The content of the run's ``results.json``.
        """
        for pair in self.context.pairs:
            title, info = self.titles[str(pair.folder)], read_unidetox(str(pair.folder))
            rows = [r for r in results["rows"] if r["target"] == title.target and r["method"] in (BASE, title.method)]
            if info is not None:
                rule = (pair.folder / RULE_FILE).is_file()
                card = card_of(info, pair.target, rule=rule, results={**results, "rows": rows})
                write_text(self.directory / "report" / "cards" / f"{pair.folder.name}.md", card)

    def statuses(self) -> dict[str, StageStatus]:
        """Say where each step stands; a step after one that is not fresh cannot be."""
        found: dict[str, StageStatus] = {}
        for step in self.steps:
            late = [name for name in step.needs if found[name].state != "fresh"]
            found[step.name] = _waiting(self.directory / step.name, late) if late else step.status()
        return found


def _with_needs(name: str, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """List a step after all that it needs, each once."""
    before = [earlier for need in needs.get(name, ()) for earlier in _with_needs(need, needs)]
    return list(dict.fromkeys([*before, name]))


def _waiting(folder: Path, late: Sequence[str]) -> StageStatus:
    made = Stage.read_record(folder) is not None
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
        for count, step in enumerate(plan.steps, 1):
            status = step.status()
            if status.state == "fresh" and not fresh:
                console.info(f"[{count}/{len(plan.steps)}] {step.name}: fresh, skipped")
                continue
            console.info(f"[{count}/{len(plan.steps)}] {step.name}: {'made again' if fresh else status}")
            step.make(fresh)
        evaluated = {model: directory / "evaluation" / slug for slug, model in plan.models.items()}
        # Times differ from run to run, so only a run that asks for them has them among its results.
        costs = plan.costs() if recipe.costs else ()
        corpus, titles = recipe.toxic.corpus, plan.titles
        results = merge(evaluated, directory, plan.inputs, recipe.evaluate, titles, corpus=corpus, costs=costs)
        plan.write_cards(results)
        return results


def describe(recipe: Recipe) -> str:
    """Say in one line what a recipe does."""
    targets = ", ".join(short_name(target) for target in recipe.detoxify.targets)
    methods = ", ".join(key if key in recipe.method else METHODS.get(key, key) for key in recipe.detoxify.methods)
    return f"{recipe.name}: {short_name(recipe.base.model)} -> {methods} -> {targets}"
