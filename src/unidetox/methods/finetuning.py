"""What methods that fine-tune have in common: a target model, texts, and an ordinary checkpoint as the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unidetox.config.fields import Allowed, Flag, OptCount, Positive
from unidetox.config.settings import MethodOptions, Recipe, Texts
from unidetox.core.errors import UsageError
from unidetox.core.stages import Stage
from unidetox.data import TextSet, read_texts
from unidetox.methods import distillation
from unidetox.methods.best_of import read_starts
from unidetox.methods.checkpoint_stage import fine_tune_into, fine_tune_need, train_settings
from unidetox.methods.interface import Artifact, RunContext, Step, TargetMethod
from unidetox.models import LoadOptions, check_lm, fingerprint
from unidetox.models.directories import locate, require_base
from unidetox.models.loading import load_config, load_skeleton

OptPositive = Annotated[Positive | None, Allowed('a number above 0, or "none"')]
OptFlag = Annotated[Flag | None, Allowed('true, false, or "none"')]


class FinetuningOptions(MethodOptions):
    """Settings of ``[texts]`` and ``[detoxify]`` that are others for this key; the rest holds as it stands there."""

    num_texts: OptCount = Field(None, description="In place of texts.num_texts.")
    steps: OptCount = Field(None, description="In place of detoxify.steps.")
    lr: OptPositive = Field(None, description="In place of detoxify.lr.")
    lora: OptFlag = Field(None, description="In place of detoxify.lora.")

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these settings in the places of its own."""
        given = {name: value for name, value in self if value is not None and name != "name"}
        texts = {name: value for name, value in given.items() if name in Texts.model_fields}
        detoxify = recipe.detoxify.model_copy(update={name: given[name] for name in given.keys() - texts.keys()})
        return recipe.model_copy(update={"texts": recipe.texts.model_copy(update=texts), "detoxify": detoxify})


def texts_name(name: str, context: RunContext, recipe: Recipe) -> str:
    """Name a folder of texts: plainly, or with a hash of their settings where these are not those of the run."""
    same = recipe.texts == context.recipe.texts
    return name if same else f"{name}-{recipe.texts.section_hash('folder')[:6]}"


def made_texts(name: str, context: RunContext, recipe: Recipe, toxic: Artifact | None = None) -> Artifact:
    """Return texts that a step makes from the base model, and from a toxic copy of it where there is one."""
    folder = context.directory / texts_name(name, context, recipe)
    source = toxic.source if toxic else None

    def check() -> None:
        base = check_lm(recipe.base.model, LoadOptions.of(recipe))
        distillation.check_positions(recipe, base.name, base.config)
        read_starts(recipe)
        if toxic is not None:
            toxic.check()

    step = Step(
        folder.name,
        toxic.needs if toxic else (),
        lambda: distillation.texts_stage(recipe, folder, source),
        lambda fresh: distillation.distill(recipe, source, folder, fresh=fresh),
        check,
        lambda sizes: distillation.texts_need(recipe, sizes, contrast=toxic is not None),
    )
    return Artifact(str(folder), (*(toxic.steps if toxic else ()), step))


def finetuning_steps(recipe: Recipe, pair: TargetMethod, texts: Artifact) -> Iterator[Step]:
    """Yield what makes the texts, then the step that fine-tunes the pair's target on them."""

    def check() -> None:
        texts.check()
        check_target(recipe, pair.target)

    yield from texts.steps
    yield Step(
        pair.step,
        texts.needs,
        lambda: finetune_stage(recipe, pair.method, pair.target, read_texts(texts.source), pair.folder),
        lambda fresh: finetune(recipe, pair.method, pair.target, read_texts(texts.source), pair.folder, fresh=fresh),
        check,
        lambda sizes: fine_tune_need(recipe, recipe.detoxify, pair.target, sizes),
    )


def check_target(recipe: Recipe, target: str) -> None:
    """See that a model is there and can be trained as the section ``detoxify`` of a recipe says.

    Args:
        recipe: How to load and train.
        target: The model to detoxify.

    Raises:
        MissingError: A part of it is not there.
        UsageError: It cannot be trained so.
    """
    options = LoadOptions.of(recipe)
    config = load_config(require_base(locate(target).source) or target, options)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and (not recipe.detoxify.lora or recipe.detoxify.merge):
        method = getattr(quantised, "quant_method", None) or dict(quantised).get("quant_method", "")
        what = f"{target} holds quantised weights ({getattr(method, 'value', method)!s}), which cannot be trained"
        hint = "Detoxify the full-precision model that it was made of, or add --lora without --merge"
        raise UsageError(what, hint=hint)
    check_lm(target, options)
    if not recipe.detoxify.lora:
        return
    if not recipe.detoxify.merge and require_base(locate(target).source):
        message = f"{target} is an adapter, and one on top of it could be loaded by UniDetox alone"
        raise UsageError(message, hint="Add --merge (detoxify.merge = true)")
    import torch

    from unidetox.training import add_lora

    with torch.random.fork_rng(devices=[]):  # an adapter begins at random, also one that is only tried
        add_lora(load_skeleton(target, "AutoModelForCausalLM", options), train_settings(recipe, recipe.detoxify))


def finetune_stage(recipe: Recipe, method: str, target: str, texts: TextSet, directory: Path) -> Stage:
    """Describe the stage that fine-tunes a target model on texts."""
    settings = recipe.detoxify.key("detoxify") | {"method": method, "seed": recipe.seed, "dtype": recipe.dtype}
    inputs = {"target": fingerprint(target), "texts": texts.sha256}
    return Stage(directory, "detoxify", settings, inputs)


def finetune(
    recipe: Recipe, method: str, target: str, texts: TextSet, folder: Path, *, fresh: bool = False, replace: bool = True
) -> Path:
    """Fine-tune a target model on texts and write a checkpoint that needs nothing of ours.

    Args:
        recipe: Its section ``detoxify`` counts.
        method: What the texts are; written down beside the model.
        target: The model to detoxify.
        texts: The texts.
        folder: Where the checkpoint goes.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.

    Returns:
        The folder.

    Reference: UniDetox (Lu et al., ICLR 2025), section 2; unidetox.py:100-220 of the published code.
    """
    stage = finetune_stage(recipe, method, target, texts, folder)
    fine_tune_into(stage, recipe, recipe.detoxify, method, target, texts, fresh=fresh, replace=replace)
    return folder
