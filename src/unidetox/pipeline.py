"""The order of the stages of a run: what is fresh, what is made again, and where a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unidetox import console, distillation
from unidetox.data import TextSet, read_texts
from unidetox.directories import check_directory
from unidetox.evaluation import Target, Work, load_work, merge, run_target, target_stage
from unidetox.methods import TEXT_METHODS, finetuning
from unidetox.models import short_name, unique_slugs
from unidetox.preflight import check_recipe
from unidetox.runs import Run
from unidetox.settings import Recipe
from unidetox.stages import Stage, StageStatus

TOXIC_MODEL = "toxic_model"


@dataclass(frozen=True)
class Step:
    """One stage of a run.

    Attributes:
        name: Its folder below the run's.
        needs: Names of the steps whose outputs it reads.
        stage: Describes it; may be called when all that it needs is fresh.
        make: Does it; takes whether to start over.
    """

    name: str
    needs: tuple[str, ...]
    stage: Callable[[], Stage]
    make: Callable[[bool], object]


class Plan:
    """The steps of a recipe in a directory.

    Args:
        recipe: What to do.
        directory: The run's directory.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory

    @cached_property
    def corpus(self) -> TextSet:
        """The toxic texts."""
        return distillation.toxic_corpus(self.recipe)

    @cached_property
    def work(self) -> Work:
        """Prompts and questions."""
        r = self.recipe
        return load_work(r.evaluate, device=r.device, dtype=r.dtype, trust_remote_code=r.trust_remote_code)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, each after what it needs."""
        return (*self._toxic(), *self._texts(), *self._targets(), *self._evaluations())

    @cached_property
    def models(self) -> dict[str, str]:
        """What is evaluated: folder name -> model name or directory, in the order of the results."""
        targets = self.recipe.detoxify.targets
        found: dict[str, str] = {}
        for slug, target in zip(unique_slugs(targets), targets, strict=True):
            found[f"{slug}-base"] = target
            for method in self.recipe.detoxify.methods:
                found[f"{slug}-{method}"] = str(self.directory / "targets" / f"{slug}-{method}")
        return found

    def preflight(self) -> None:
        """Look at everything that the run will need, so that a mistake shows now and not in an hour."""
        check_recipe(self.recipe)
        if self.recipe.texts.source:
            read_texts(self.recipe.texts.source)
        if any(step.name == TOXIC_MODEL for step in self.steps):
            _ = self.corpus
        _ = self.work

    def _toxic(self) -> Iterator[Step]:
        recipe, folder = self.recipe, self.directory / TOXIC_MODEL
        if recipe.toxic.model is None and recipe.texts.source is None and "unidetox" in recipe.detoxify.methods:
            yield Step(
                TOXIC_MODEL,
                (),
                lambda: distillation.toxic_stage(recipe, folder, self.corpus),
                lambda fresh: distillation.train_toxic(recipe, folder, corpus=self.corpus, fresh=fresh),
            )

    def _texts(self) -> Iterator[Step]:
        for method in self.recipe.detoxify.methods:
            if method == "unidetox" and self.recipe.texts.source is not None:
                continue
            yield self._texts_step(method)

    def _texts_step(self, method: str) -> Step:
        recipe, folder = self.recipe, self._texts_folder(method)
        toxic = recipe.toxic.model or str(self.directory / TOXIC_MODEL)
        needs = (TOXIC_MODEL,) if method == "unidetox" and recipe.toxic.model is None else ()
        return Step(
            folder.name,
            needs,
            lambda: TEXT_METHODS[method].texts_stage(recipe, folder, toxic),
            lambda fresh: TEXT_METHODS[method].make_texts(recipe, folder, toxic, fresh=fresh),
        )

    def _texts_folder(self, method: str) -> Path:
        return self.directory / ("texts" if method == "unidetox" else f"texts-{method}")

    def _texts_of(self, method: str) -> TextSet:
        given = self.recipe.texts.source if method == "unidetox" else None
        return read_texts(given or str(self._texts_folder(method)))

    def _targets(self) -> Iterator[Step]:
        targets = self.recipe.detoxify.targets
        for slug, target in zip(unique_slugs(targets), targets, strict=True):
            for method in self.recipe.detoxify.methods:
                yield self._target_step(f"targets/{slug}-{method}", target, method)

    def _target_step(self, name: str, target: str, method: str) -> Step:
        recipe, folder = self.recipe, self.directory / name
        given = method == "unidetox" and recipe.texts.source is not None
        return Step(
            name,
            () if given else (self._texts_folder(method).name,),
            lambda: finetuning.finetune_stage(recipe, method, target, self._texts_of(method), folder),
            lambda fresh: finetuning.finetune(recipe, method, target, self._texts_of(method), folder, fresh=fresh),
        )

    def _evaluations(self) -> Iterator[Step]:
        for slug, model in self.models.items():
            needs = () if slug.endswith("-base") else (f"targets/{slug}",)
            yield self._evaluation_step(slug, model, needs)

    def _evaluation_step(self, slug: str, model: str, needs: tuple[str, ...]) -> Step:
        folder, settings = self.directory / "evaluation" / slug, self.recipe.evaluate
        return Step(
            f"evaluation/{slug}",
            needs,
            lambda: target_stage(model, folder, self.work, settings),
            lambda fresh: run_target(model, folder, self.work, settings, fresh=fresh, replace=True),
        )

    def statuses(self) -> dict[str, StageStatus]:
        """Say where each step stands; a step after one that is not fresh cannot be."""
        found: dict[str, StageStatus] = {}
        for step in self.steps:
            late = [name for name in step.needs if found[name].state != "fresh"]
            found[step.name] = _waiting(self.directory / step.name, late) if late else step.stage().status()
        return found


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
        # The folders tell apart two targets of one name, and keep what is made of each with its base.
        titles = {model: Target(*slug.rsplit("-", 1)) for slug, model in plan.models.items()}
        return merge(evaluated, directory, plan.work, recipe.evaluate, titles)


def describe(recipe: Recipe) -> str:
    """Say in one line what a recipe does."""
    targets = ", ".join(short_name(target) for target in recipe.detoxify.targets)
    return f"{recipe.name}: {short_name(recipe.base.model)} -> texts -> {targets}"
