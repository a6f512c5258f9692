"""What a method is: given a target and data, the stages that make something which `evaluate` can load.

The result is an ordinary checkpoint, or a directory with ``detox.json`` that names models and a rule for decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unidetox.config.fields import Source
from unidetox.config.methods import load_method, title_of
from unidetox.config.settings import Base, MethodOptions, Recipe
from unidetox.core.names import unique_slugs
from unidetox.core.stages import Stage, StageStatus
from unidetox.data import TextSet
from unidetox.methods import distillation
from unidetox.methods.checkpoint_stage import fine_tune_need
from unidetox.models import LM, LoadOptions, check_lm, check_same_tokens
from unidetox.models.sizes import Need, Sizes


@dataclass(frozen=True)
class Step:
    """One stage of a run.

    Attributes:
        name: Its folder below the run's.
        needs: Names of the steps whose outputs it reads.
        stage: Describes it; may be called when all that it needs is fresh.
        make: Does it; takes whether to start over.
        check: Looks, before anything is done, whether all is there that it will need from outside; reads no weights.
        need: What memory and disk it needs, from the shapes of models alone; for `run --dry-run`. None where that is
            not known.
        models: How many models of the target's size what it made is when it is loaded.
    """

    name: str
    needs: tuple[str, ...]
    stage: Callable[[], Stage]
    make: Callable[[bool], object]
    check: Callable[[], object] = lambda: None
    need: Callable[[Sizes], Need] | None = None
    models: int = 1

    def status(self) -> StageStatus:
        """Say where the stage stands, once what a kill left undone is done; may be called when `stage` may."""
        stage = self.stage()
        stage.recover()
        return stage.status()


@dataclass(frozen=True)
class Artifact:
    """A model or texts that are there, or that steps will make.

    Attributes:
        source: A directory, file or Hub id.
        steps: What makes it, each after what it needs; none where it is there already.
        check: Sees whether what is there already fits; reads no weights.
    """

    source: str
    steps: tuple[Step, ...] = ()
    check: Callable[[], object] = lambda: None

    @property
    def needs(self) -> tuple[str, ...]:
        """What a step that reads it needs."""
        return tuple(step.name for step in self.steps[-1:])


@dataclass(frozen=True)
class TargetMethod:
    """One method for one target.

    Attributes:
        key: What recipe, folders and results call it; the method's name unless it is there twice.
        options: The method's own options.
        target: The model to detoxify: a directory or a Hub id.
        folder: Where the result goes.
    """

    key: str
    options: Any
    target: str
    folder: Path

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.options.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The options but for names of models and files, which are known by their content."""
        fields = type(self.options).model_fields.items()
        sources = {name for name, field in fields if any(isinstance(mark, Source) for mark in field.metadata)}
        return dict(self.options.model_dump(exclude={"name", *sources}))

    @property
    def step(self) -> str:
        """Name of the step that makes the result."""
        return f"targets/{self.folder.name}"

    @property
    def title(self) -> str:
        """What results call the method."""
        return title_of(self.method, self.key)


@dataclass(frozen=True)
class Method:
    """A way to make a model less toxic.

    Attributes:
        options: The class of its options, each with the default of its paper.
        steps: The steps of one target and method, each after what it needs; the last fills the pair's folder. Steps of
            equal names, also of other pairs, are one step.
        load: For a method that acts while decoding: makes of the models that ``detox.json`` names, and the options,
            what is asked. None where the result is an ordinary checkpoint.
        done: What the card of a checkpoint says was done to the model: an end of the sentence "MODEL, ...". Empty where
            the name must do.
    """

    options: type[MethodOptions]
    steps: Callable[[RunContext, TargetMethod], Iterable[Step]]
    load: Callable[[Sequence[LM], Any], LM] | None = None
    done: str = ""


class RunContext:
    """What the pairs of target and method of a run share; each is read or made once.

    Args:
        recipe: What to do.
        directory: The run's directory.

    Attributes:
        load_options: How the recipe's models are loaded.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory, self.load_options = recipe, directory, LoadOptions.of(recipe)

    @cached_property
    def corpus(self) -> TextSet:
        """The toxic texts."""
        return distillation.toxic_corpus(self.recipe)

    @cached_property
    def non_toxic(self) -> TextSet:
        """The non-toxic texts."""
        return distillation.non_toxic_texts(self.recipe)

    @property
    def learnt(self) -> tuple[TextSet, ...]:
        """Those of the two that a step has asked for so far: after every step's check, what the methods learn from."""
        return tuple(vars(self)[name] for name in ("corpus", "non_toxic") if name in vars(self))

    @cached_property
    def pairs(self) -> tuple[TargetMethod, ...]:
        """Every method for every target, in the order of the recipe; `base` needs none."""
        recipe = self.recipe
        found = []
        for slug, target in zip(unique_slugs(recipe.detoxify.targets), recipe.detoxify.targets, strict=True):
            for key in recipe.detoxify.methods:
                options = recipe.method.get(key) or load_method(key).options(name=key)
                if options.name != "base":
                    found.append(TargetMethod(key, options, target, self.directory / "targets" / f"{slug}-{key}"))
        return tuple(found)

    def toxic(self, model: str) -> Artifact:
        """Return the toxic copy of a model, shared by all methods that need it."""
        given = self.recipe.toxic.model
        if given is not None and model == self.recipe.base.model:
            return self.given(given, model)
        return self._copy(model, "toxic")

    def expert(self, model: str) -> Artifact:
        """Return a copy of a model that was trained on non-toxic texts."""
        return self._copy(model, "expert")

    def given(self, source: str, model: str) -> Artifact:
        """Return a model that is there already and must share the vocabulary of another."""

        def check() -> None:
            check_same_tokens(*(check_lm(name, self.load_options) for name in (model, source)))

        return Artifact(source, check=check)

    def _copy(self, model: str, kind: distillation.Kind) -> Artifact:
        folder = self.directory / self._name(model, f"{kind}_model")
        recipe = self.recipe.model_copy(update={"base": Base(model=model)})

        def texts() -> TextSet:
            return self.corpus if kind == "toxic" else self.non_toxic

        def check() -> None:
            check_lm(model, self.load_options)
            texts()

        step = Step(
            folder.name,
            (),
            lambda: distillation.toxic_stage(recipe, folder, texts(), kind),
            lambda fresh: distillation.train_toxic(recipe, folder, texts(), kind, fresh=fresh),
            check,
            lambda sizes: fine_tune_need(recipe, recipe.toxic, model, sizes),
        )
        return Artifact(str(folder), (step,))

    def _name(self, model: str, name: str) -> str:
        """Name a folder: that of the base model's copy plainly, others by their model."""
        if model == self.recipe.base.model:
            return name
        models = list(dict.fromkeys([self.recipe.base.model, *self.recipe.detoxify.targets, model]))
        return f"{name}-{unique_slugs(models)[models.index(model)]}"
