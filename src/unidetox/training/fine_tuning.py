"""The way in: texts and a model, out comes the model trained on them."""

from __future__ import annotations

import contextlib
import copy
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.decoding.sequences import max_positions
from unidetox.models.adapters import quiet_peft
from unidetox.models.tokens import pad_id
from unidetox.training.encoding import EncodedTexts, TextLike, encode_texts
from unidetox.training.settings import TrainReport, TrainSettings

if TYPE_CHECKING:
    from unidetox.training.trainer import TextTrainer


def detoxify_model(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str | TextLike],
    *,
    steps: int = 3000,
    lr: float = 5e-5,
    batch_size: int = 8,
    max_length: int = 256,
    seed: int = 42,
    **settings: Any,
) -> Any:
    """Fine-tune a causal LM on detoxifying texts, in place.

    Args:
        model: A Hugging Face causal LM. Its weights become float32 unless ``lora=True``.
        tokenizer: Its tokenizer.
        texts: Detoxifying texts; of plain strings it is not known whether they are complete, so they get no end
            token.
        steps: Optimizer steps.
        lr: Peak learning rate, decaying linearly to zero.
        batch_size: Texts a step.
        max_length: Longest text in tokens.
        seed: Of the order of the texts and of drop-out.
        **settings: Further fields of `TrainSettings`, e.g. ``lora=True`` or ``dtype="float32"``.

    Returns:
        The trained model: the one given, or with ``lora=True`` the PEFT model around it.

    Raises:
        UsageError: There is nothing to train on, or a setting is out of range.

    Reference:
        UniDetox (ICLR 2025), section 2; hyper-parameters of the published code ``unidetox.py:200-210``.
    """
    from unidetox.data import Text

    rows = [Text(text) if isinstance(text, str) else text for text in texts]
    told = TrainSettings(lr=lr, batch_size=batch_size, max_length=max_length, steps=steps, seed=seed, **settings)
    return train_lm(model, tokenizer, rows, told).model


def train_lm(
    model: Any,
    tokenizer: Any,
    texts: Sequence[TextLike],
    settings: TrainSettings,
    *,
    work_dir: Path | None = None,
    description: str = "fine-tuning",
) -> TrainReport:
    """Fine-tune a causal LM on texts, in place.

    Args:
        model: A Hugging Face causal LM, on the device to train on. Its weights become float32 unless LoRA is asked
            for, whose base stays as it is.
        tokenizer: Its tokenizer.
        texts: Texts, each with how it ended.
        settings: How.
        work_dir: Where to keep checkpoints (in ``checkpoints/``); a run that was killed goes on from the last one
            and ends with the same weights. None: none are kept.
        description: What the progress bar says.

    Returns:
        What was done; `TrainReport.model` is the trained model, in evaluation mode.

    Raises:
        UsageError: There is nothing to train on.
        UniDetoxError: The loss became infinite or no number, or the memory does not suffice.
    """
    started = time.monotonic()
    longest = min(settings.max_length, max_positions(model) or settings.max_length)
    encoded = encode_texts(texts, tokenizer, model.config, longest)
    _announce(encoded, len(texts))
    _check_vocabulary(encoded, model)
    pad, saving = pad_id(tokenizer, model.config), work_dir is not None
    with _own_random_state(settings.seed), _folder(work_dir) as folder:
        reference = copy.deepcopy(model).eval().requires_grad_(False) if settings.kl else None
        model = add_lora(model, settings) if settings.lora else model.float()
        _unfreeze(model)
        from unidetox.training.trainer import TextTrainer

        trainer = TextTrainer(model, encoded.input_ids, settings, folder, pad, saving=saving, reference=reference)
        console.info(f"{description} in {trainer.precision}")
        with _training_mode(model, settings.gradient_checkpointing):
            resumed_from = trainer.run(description)
    return _report(trainer, encoded, resumed_from, time.monotonic() - started)


def add_lora(model: Any, settings: TrainSettings) -> Any:
    """Put a low-rank adapter around all linear layers but the head, unless the model has one already.

    Args:
        model: A Hugging Face causal LM, or a PEFT model, which is returned as it is.
        settings: Rank and weight of the adapter.

    Returns:
        A PEFT model, of which only the adapter is trained; its weights are float32.

    Raises:
        UsageError: PEFT knows no such adapter for this kind of model.

    Reference:
        Hu et al., LoRA (ICLR 2022).
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        return model
    # GPT-2 stores its matrices transposed; PEFT finds that out itself, with a warning.
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(
        task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0,
        target_modules="all-linear", fan_in_fan_out=transposed,
    )  # fmt: skip
    try:
        with quiet_peft():
            return get_peft_model(model, config)
    except (ValueError, NotImplementedError) as exc:
        message = f"PEFT puts no low-rank adapter around a model of the kind {model.config.model_type} ({exc})"
        raise UsageError(" ".join(message.split()), hint="Train all weights: leave lora out") from exc


def merge_lora(model: Any) -> Any:
    """Add a trained adapter to the weights under it.

    Args:
        model: A PEFT model; a plain model is returned as it is.

    Returns:
        The plain model, which loads without PEFT.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    with quiet_peft():
        return model.merge_and_unload()


def _announce(encoded: EncodedTexts, n_texts: int) -> None:
    if encoded.n_dropped:
        console.warn(f"{encoded.n_dropped} of {n_texts} texts have no words to train on and are left out")
    if encoded.n_truncated:
        longest = max(map(len, encoded.input_ids))
        console.info(f"{encoded.n_truncated} of {n_texts} texts are longer than {longest} tokens and are cut there")


def _unfreeze(model: Any) -> None:
    """PEFT leaves what it merged, and an adapter that it loaded, with no weight that could be trained."""
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    if hasattr(model, "set_requires_grad"):
        model.set_requires_grad(model.active_adapter)
    else:
        model.requires_grad_(True)


def _check_vocabulary(encoded: EncodedTexts, model: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(map(max, encoded.input_ids))
    if largest >= rows:
        message = f"the tokenizer gives token {largest}, but the model knows only {rows}"
        raise UsageError(message, hint="Use the tokenizer that belongs to the model")


@contextlib.contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed all generators for the block and give the caller's back afterwards."""
    import numpy as np
    import torch
    from transformers import set_seed

    python, numpy_state = random.getstate(), np.random.get_state()
    # Named, since several GPUs in sight would bring a warning.
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def _folder(work_dir: Path | None) -> Iterator[Path]:
    """Where the Trainer may write; it wants a folder even if it never does."""
    if work_dir is not None:
        yield Path(work_dir) / "checkpoints"
        return
    with tempfile.TemporaryDirectory(prefix="unidetox-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _training_mode(model: Any, gradient_checkpointing: bool) -> Iterator[None]:
    from unidetox.decoding.kernels import fused_gelu

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.train()
    if gradient_checkpointing:
        inner.activation_checkpointing_enable({"use_reentrant": False})
    try:
        with fused_gelu():
            yield
    finally:
        if gradient_checkpointing:
            inner.activation_checkpointing_disable()
        model.zero_grad()
        model.eval()


def _report(trainer: TextTrainer, encoded: EncodedTexts, resumed_from: int, seconds: float) -> TrainReport:
    log = [row for row in trainer.state.log_history if "loss" in row]
    steps = trainer.state.global_step
    return TrainReport(
        model=trainer.model, steps=steps, seconds=round(seconds, 3), loss_first=log[0]["loss"],
        loss_last=log[-1]["loss"], n_tokens=trainer.batches.tokens_in(steps), n_texts=len(encoded.input_ids),
        n_truncated=encoded.n_truncated, resumed_from=resumed_from, dtype=trainer.precision, log=log,
    )  # fmt: skip
