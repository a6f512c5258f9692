"""A stage that fine-tunes a model on texts and leaves a checkpoint with its papers: card and ``unidetox.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import load_method, method_names
from unidetox.config.settings import Detoxify, Recipe, Toxic
from unidetox.core import console
from unidetox.core.files import write_json, write_text
from unidetox.core.hub import commit_of, license_of
from unidetox.core.names import sandbox_name, short_name
from unidetox.core.provenance import versions
from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.core.stages import Stage
from unidetox.data import TextSet
from unidetox.data.hub_datasets import known_id
from unidetox.models import LoadOptions, load_lm, save_lm, saved_dtype
from unidetox.models.sizes import Need, Sizes
from unidetox.report.cards import model_card

if TYPE_CHECKING:
    from unidetox.training import TrainSettings


def train_settings(recipe: Recipe, section: Toxic | Detoxify) -> TrainSettings:
    """Say how to train as a section of a recipe has it; its steps go before its epochs."""
    from unidetox.training import TrainSettings

    more = {"epochs": None} if section.steps else {}
    return TrainSettings.of(section, seed=recipe.seed, dtype=recipe.dtype, **more)


def fine_tune_into(
    stage: Stage, recipe: Recipe, section: Toxic | Detoxify, method: str, source: str, texts: TextSet, **how: bool
) -> None:
    """Fill a stage's directory with a fine-tuned copy of a model; masters are float32.

    What is made toxic is saved in float32; what is detoxified, in the number type of its source, and with
    ``detoxify.merge`` its LoRA adapter is merged into the weights before that.

    Args:
        stage: The stage; nothing is done where it is fresh.
        recipe: Says where to compute.
        section: Says how to train.
        method: What the texts are; written down beside the model.
        source: The model to fine-tune.
        texts: The texts.
        how: ``fresh`` and ``replace``, see `Stage.run`.
    """
    settings = train_settings(recipe, section)
    detox = section if isinstance(section, Detoxify) else None

    def make(work: Path) -> dict[str, Any]:
        import torch

        from unidetox.training import merge_lora, train_lm

        dtype = saved_dtype(source, LoadOptions.of(recipe)) if detox else None
        lm = load_lm(source, LoadOptions.of(recipe, dtype=torch.float32))
        console.info(f"{stage.name}: {short_name(source)} on {len(texts.texts)} texts ({method})")
        report = train_lm(lm.model, lm.tokenizer, texts.texts, settings, work_dir=work)
        trained = merge_lora(report.model) if detox and detox.merge else report.model
        save_lm(trained, lm.tokenizer, stage.out_dir, dtype=dtype, base_revision=split_revision(source)[1])
        info = {"method": method, "base_model": source, "texts": texts_info(texts), "settings": stage.settings}
        write_papers(stage.out_dir, info | {"training": report.as_dict()})
        return {key: value for key, value in report.as_dict().items() if key != "log"}

    stage.run(make, **how)


def fine_tune_need(recipe: Recipe, section: Toxic | Detoxify, source: str, sizes: Sizes) -> Need:
    """Return what `fine_tune_into` needs."""
    from unidetox.training.memory import fine_tuning_need

    shape = sizes.shape(source)
    stored: int | None = 4
    if isinstance(section, Detoxify):
        stored = None if section.lora and not section.merge else shape.stored
    return fine_tuning_need(shape, train_settings(recipe, section), sizes.machine, stored=stored)


def texts_info(texts: TextSet) -> dict[str, Any]:
    """Say which texts something was made with; of a local path only the name, as the result may be published."""
    source = sandbox_name(texts.source)
    source = short_name(source) if source == texts.source and is_local(source) else source
    commit = commit_of(at_revision(*known_id(texts.source)), "dataset")
    info = {"source": source, "sha256": texts.sha256, "number": len(texts.texts), "dropped": texts.dropped}
    return info | ({"commit": commit} if commit else {})


def base_info(name: str) -> dict[str, Any]:
    """Say which model something was made of, for cards and ``unidetox.json``; of a local path only the name."""
    if Path(name).exists():
        return {"base_model": short_name(name), "base_is_local": True}
    base, revision = split_revision(name)
    found = {"base_revision": revision, "base_commit": commit_of(name, "model")}
    return {"base_model": base, "base_is_local": False} | {key: value for key, value in found.items() if value}


def write_papers(directory: Path, info: dict[str, Any], **more: Any) -> None:
    """Write ``unidetox.json`` and a card.

    Args:
        directory: Where to.
        info: What was done: ``method``, ``base_model`` (a directory or ``HUB-ID@REVISION``), ``settings`` and so on.
        more: What the card alone says, see `card_of`.
    """
    base = str(info["base_model"])
    info = info | base_info(base) | {"versions": versions()}
    write_json(directory / "unidetox.json", info)
    write_text(directory / "README.md", card_of(info, base, **more))


def card_of(info: Mapping[str, Any], base: str, **more: Any) -> str:
    """Return the card of something that we made.

    Args:
        info: The content of its ``unidetox.json``.
        base: Where the base model is; its own card says the license.
        more: ``rule`` or ``results``, see `unidetox.report.cards.model_card`.
    """
    method = str(info.get("method", "unidetox"))
    datasets = [known_id(info[name]["source"])[0] for name in ("texts", "non_toxic", "civil") if name in info]
    about = {**info, **license_of(base), "datasets": datasets, **more}
    return model_card(about, load_method(method).done if method in method_names() else "")
