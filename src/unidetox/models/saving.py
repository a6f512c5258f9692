"""Ordinary checkpoints: safetensors, configuration and tokenizer, loadable by ``from_pretrained``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from unidetox.core.errors import UniDetoxError
from unidetox.core.files import write_text
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
    """Save a model, or an adapter, with its tokenizer; readable by whoever may read the folder.

    Args:
        model: A Hugging Face or PEFT model; it is not changed.
        tokenizer: Its tokenizer.
        directory: Where to; made if it is not there.
        dtype: Number type of the saved weights, None for the type that they have. Adapters keep theirs.
        base_revision: Revision of the Hub id that the model was loaded by, which an adapter must name.

    Raises:
        UniDetoxError: It cannot be written: the disk is full, say.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _save(model, tokenizer, folder, dtype, base_revision)
    except (OSError, SafetensorError) as exc:
        what = f"the model cannot be written to {folder} ({exc})"
        raise UniDetoxError(
            what, hint="Make room on the disk; what was trained is kept, type the command again"
        ) from exc
    for file in folder.iterdir():  # weights are written for their owner alone
        if file.is_file():
            file.chmod(file.stat().st_mode | (folder.stat().st_mode & 0o444))


def _save(model: Any, tokenizer: Any, directory: Path, dtype: torch.dtype | None, base_revision: str | None) -> None:
    from peft import PeftModel

    tokenizer.save_pretrained(str(directory))
    if isinstance(model, PeftModel):
        model.active_peft_config.revision = base_revision
        # "auto", the default, asks the Hub whether the vocabulary of the base model has grown.
        with quiet_peft():
            model.save_pretrained(str(directory), save_embedding_layers=False)
        return
    with _kept_aside(model) as decoding:
        if dtype is None or dtype == model.dtype:
            model.save_pretrained(str(directory))
        else:
            model.save_pretrained(str(directory), state_dict=_converted(model.state_dict(), dtype))
            model.config.__class__.from_pretrained(str(directory), dtype=dtype).save_pretrained(str(directory))
    if decoding is not None:
        write_text(directory / "generation_config.json", decoding.to_json_string(use_diff=True))


def _converted(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Convert weights; tied ones stay one tensor, as ``save_pretrained`` writes every other one."""

    def place(tensor: torch.Tensor) -> object:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    floats = {place(tensor): tensor for tensor in state.values() if tensor.is_floating_point()}
    made = {key: tensor.to(dtype) for key, tensor in floats.items()}
    return {name: made.get(place(tensor), tensor) for name, tensor in state.items()}


@contextlib.contextmanager
def _kept_aside(model: Any) -> Iterator[Any]:
    """Yield the model's defaults of decoding, to be written as they are.

    ``save_pretrained`` refuses some that models come with: a temperature without sampling, a pad token of -1.
    """
    from transformers import GenerationConfig

    decoding = getattr(model, "generation_config", None)
    if decoding is not None:
        model.generation_config = GenerationConfig()
    try:
        yield decoding
    finally:
        if decoding is not None:
            model.generation_config = decoding
