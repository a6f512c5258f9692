"""A stage that fine-tunes a model on texts and leaves a checkpoint with its papers: card and ``unidetox.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import load_method, method_names
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.files import write_json, write_text
from unidetox.core.hub import commit_of, license_of
from unidetox.core.names import sandbox_name, short_name
from unidetox.core.provenance import versions
from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.core.stages import Stage
from unidetox.data import TextSet
from unidetox.data.hub_datasets import known_id
from unidetox.models import LoadOptions
from unidetox.report.cards import model_card

if TYPE_CHECKING:
    from unidetox.training import TrainSettings


def fine_tune_into(
    stage: Stage,
    recipe: Recipe,
    method: str,
    source: str,
    texts: TextSet,
    settings: TrainSettings,
    *,
    keep_dtype: bool = False,
    merge: bool = False,
    fresh: bool = False,
    replace: bool = True,
) -> None:
    """Fill a stage's directory with a fine-tuned copy of a model; masters are float32.

    Args:
        stage: The stage; nothing is done where it is fresh.
        recipe: Says where to compute.
        method: What the texts are; written down beside the model.
        source: The model to fine-tune.
        texts: The texts.
        settings: How to train.
        keep_dtype: Save in the number type of the source, not in float32.
        merge: Merge a LoRA adapter into the weights before saving.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.
    """

    def make(work: Path) -> dict[str, Any]:
        import torch

        from unidetox.models import load_lm, save_lm, saved_dtype
        from unidetox.training import merge_lora, train_lm

        dtype = saved_dtype(source, LoadOptions.of(recipe)) if keep_dtype else None
        lm = load_lm(source, LoadOptions.of(recipe, dtype=torch.float32))
        console.info(f"{stage.name}: {short_name(source)} on {len(texts.texts)} texts ({method})")
        report = train_lm(lm.model, lm.tokenizer, texts.texts, settings, work_dir=work)
        trained, revision = merge_lora(report.model) if merge else report.model, split_revision(source)[1]
        save_lm(trained, lm.tokenizer, stage.out_dir, dtype=dtype, base_revision=revision)
        info = {
            "method": method,
            "base_model": source,
            "texts": texts_info(texts),
            "settings": stage.settings,
            "training": report.as_dict(),
        }
        write_papers(stage.out_dir, info)
        return {key: value for key, value in report.as_dict().items() if key != "log"}

    stage.run(make, fresh=fresh, replace=replace)


def texts_info(texts: TextSet) -> dict[str, Any]:
    """Say which texts something was made with; of a local path only the name, as the result may be published."""
    source = sandbox_name(texts.source)
    if source == texts.source and is_local(source):
        source = short_name(source)
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
