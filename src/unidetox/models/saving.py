"""Ordinary checkpoints: safetensors, configuration and tokenizer, loadable by ``from_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.models.adapters import quiet_peft
from unidetox.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch


@quiet_transformers()
def save_lm(
    model: Any,
    tokenizer: Any,
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    base_revision: str | None = None,
) -> None:
    """Save a model, or an adapter, with its tokenizer.

    Args:
        model: A Hugging Face or PEFT model; it is not changed.
        tokenizer: Its tokenizer.
        directory: Where to; made if it is not there.
        dtype: Number type of the saved weights, None for the type that they have. Adapters keep theirs.
        base_revision: Revision of the Hub id that the model was loaded by, which an adapter must name.
    """
    from peft import PeftModel

    Path(directory).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(directory))
    if isinstance(model, PeftModel):
        model.active_peft_config.revision = base_revision
        # "auto", the default, asks the Hub whether the vocabulary of the base model has grown.
        with quiet_peft():
            model.save_pretrained(str(directory), save_embedding_layers=False)
        return
    _allow_saving(getattr(model, "generation_config", None))
    if dtype is None or dtype == model.dtype:
        model.save_pretrained(str(directory))
    else:
        model.save_pretrained(str(directory), state_dict=_converted(model.state_dict(), dtype))
        model.config.__class__.from_pretrained(str(directory), dtype=dtype).save_pretrained(str(directory))


def _converted(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Convert weights; tied ones stay one tensor, as ``save_pretrained`` writes every other one."""

    def place(tensor: torch.Tensor) -> object:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    floats = {place(tensor): tensor for tensor in state.values() if tensor.is_floating_point()}
    made = {key: tensor.to(dtype) for key, tensor in floats.items()}
    return {name: made.get(place(tensor), tensor) for name, tensor in state.items()}


def _allow_saving(config: Any) -> None:
    """Some published models set a temperature without sampling, which ``save_pretrained`` refuses."""
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True
