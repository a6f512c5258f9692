"""A stage that fine-tunes a model on texts and leaves a checkpoint with its papers: card and ``unidetox.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import load_method, method_names
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.files import write_json, write_text
from unidetox.core.hub import is_local
from unidetox.core.names import sandbox_name, short_name
from unidetox.core.provenance import versions
from unidetox.core.stages import Stage
from unidetox.data import TextSet
from unidetox.report.cards import model_card

if TYPE_CHECKING:
    import torch

    from unidetox.training import TrainSettings


def fine_tune_into(
    stage: Stage,
    recipe: Recipe,
    method: str,
    source: str,
    texts: TextSet,
    settings: TrainSettings,
    *,
    dtype: torch.dtype | None = None,
    merge: bool = False,
    fresh: bool = False,
    replace: bool = True,
) -> None:
    """Fill a stage's directory with a fine-tuned copy of a model; masters are float32.

    Args:
        stage: The stage; it is opened and committed here.
        recipe: Says where to compute.
        method: What the texts are; written down beside the model.
        source: The model to fine-tune.
        texts: The texts.
        settings: How to train.
        dtype: Number type of the saved weights; float32 where it is not given.
        merge: Merge a LoRA adapter into the weights before saving.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.
    """
    with stage.open(fresh=fresh, replace=replace) as work:
        import torch

        from unidetox.models import load_lm, save_lm
        from unidetox.training import merge_lora, train_lm

        lm = load_lm(source, device=recipe.device, dtype=torch.float32, trust_remote_code=recipe.trust_remote_code)
        console.info(f"{stage.name}: {short_name(source)} on {len(texts.texts)} texts ({method})")
        report = train_lm(lm.model, lm.tokenizer, texts.texts, settings, work_dir=work)
        save_lm(merge_lora(report.model) if merge else report.model, lm.tokenizer, stage.out_dir, dtype=dtype)
        info = {
            "method": method,
            "base_model": source,
            "texts": texts_info(texts),
            "settings": stage.settings,
            "training": report.as_dict(),
        }
        write_papers(stage.out_dir, info)
        stage.commit({key: value for key, value in report.as_dict().items() if key != "log"})


def texts_info(texts: TextSet) -> dict[str, Any]:
    """Say which texts something was made with; of a local path only the name, as the result may be published."""
    name = sandbox_name(texts.source)
    source = short_name(name) if is_local(name) else name
    return {"source": source, "sha256": texts.sha256, "number": len(texts.texts), "dropped": texts.dropped}


def write_papers(directory: Path, info: dict[str, Any], card: str | None = None) -> None:
    """Write ``unidetox.json`` and a card.

    Args:
        directory: Where to.
        info: What was done: ``method``, ``base_model`` (a directory or a Hub id), ``settings`` and so on.
        card: The card's text; without it, that of an ordinary checkpoint.
    """
    base = info["base_model"]
    local = Path(base).exists()
    info = info | {"base_model": short_name(base) if local else base, "base_is_local": local, "versions": versions()}
    write_json(directory / "unidetox.json", info)
    if card is None:
        method = info.get("method", "unidetox")
        card = model_card(info, load_method(method).done if method in method_names() else "")
    write_text(directory / "README.md", card)
