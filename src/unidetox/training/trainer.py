"""transformers' Trainer with our batches, our loss and checkpoints that survive a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from unidetox.core import console, files
from unidetox.core.errors import UniDetoxError
from unidetox.decoding.memory import is_out_of_memory
from unidetox.models.devices import choose_training_dtype
from unidetox.training.batches import Batch, LengthGroupedBatches, TextLoader, collate, count_supervised, split_batch
from unidetox.training.checkpoints import Checkpoints
from unidetox.training.loss import TokenLoss
from unidetox.training.memory import micro_tokens
from unidetox.training.settings import TrainSettings

_WEIGHTS = "trained.safetensors"
_SAVES = 10
# Half a minute of work is lost more cheaply than a checkpoint is written.
_SECONDS_BETWEEN_SAVES = 30.0
# What changes only how a run is carried out, not what comes out of it.
_NO_RESULT = ("save_steps", "gradient_checkpointing", "micro_tokens")


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Shows progress and decides when to save.

    Args:
        save_steps: Steps between checkpoints, 0 for none.
        patience: Least seconds between them.

    Attributes:
        advance: Takes how many more steps are done.
    """

    def __init__(self, save_steps: int, patience: float) -> None:
        self.save_steps, self.patience, self.saved_at = save_steps, patience, time.monotonic()
        self.advance: Callable[[float], None] = lambda done: None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step; ask for a checkpoint where one is due."""
        self.advance(1)
        due = self.save_steps and state.global_step % self.save_steps == 0 and state.global_step < state.max_steps
        if due and time.monotonic() - self.saved_at >= self.patience:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note when it was saved."""
        self.saved_at = time.monotonic()


class TextTrainer(Trainer):  # type: ignore[misc]
    """Trains a causal LM on encoded texts.

    The Trainer's own loss is not used: it divides GPT-2's by one token a row too many, since that class names no
    loss type. Ours is the mean over supervised tokens of the whole optimizer step, whatever the architecture and
    however the step is split up.

    Args:
        model: A causal LM or PEFT model on its device, with the weights to train in float32.
        rows: Token ids of the texts.
        settings: How to train.
        folder: Where the Trainer may write.
        pad: Token to fill rows with.
        saving: Whether to keep checkpoints there.
        reference: The model to stay near to, where ``settings.kl`` is above 0.

    Attributes:
        batches: The order of the rows.
        token_loss: Adds a batch's gradient to the parameters.
        precision: What it multiplies in, and why.
        micro_tokens: Most tokens in one forward pass.
        pad: Token that rows are filled with.
        checkpoints: Where they are kept, None for none.
        watcher: Shows progress and decides when to save.

    Raises:
        UsageError: The number type cannot be trained in.
    """

    def __init__(
        self,
        model: Any,
        rows: list[list[int]],
        settings: TrainSettings,
        folder: Path,
        pad: int,
        *,
        saving: bool,
        reference: Any = None,
    ) -> None:
        device = next(model.parameters()).device
        dtype, reason = choose_training_dtype(settings.dtype, device)
        steps, width = settings.total_steps(len(rows)), model.get_input_embeddings().weight.shape[1]
        data = [torch.tensor(row) for row in rows]
        super().__init__(model, _arguments(model, settings, steps, folder), train_dataset=data)
        self.batches = LengthGroupedBatches([len(row) for row in rows], settings.batch_size, settings.seed)
        autocast = None if dtype == torch.float32 else dtype
        self.token_loss = TokenLoss(model, autocast, reference=reference, kl=settings.kl)
        self.precision = f"{str(dtype).removeprefix('torch.')} ({reason})"
        self.micro_tokens = settings.micro_tokens or micro_tokens(device.type, width)
        self.pad = pad
        self.checkpoints = Checkpoints(folder, _run_key(model, rows, settings, dtype)) if saving else None
        save_steps = settings.save_steps or math.ceil(steps / _SAVES)
        self.watcher = Watcher(save_steps if saving else 0, 0.0 if settings.save_steps else _SECONDS_BETWEEN_SAVES)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.watcher)

    def run(self, description: str) -> int:
        """Train, from the last checkpoint if there is one.

        Args:
            description: What the progress bar says.

        Returns:
            The step that it went on from.
        """
        latest = self.checkpoints.latest() if self.checkpoints else None
        done = int(latest.name.rpartition("-")[2]) if latest else 0
        with console.progress(description, self.args.max_steps) as advance:
            advance(done)
            self.watcher.advance = advance
            self.train(resume_from_checkpoint=str(latest) if latest else None)
        return done

    def get_train_dataloader(self) -> TextLoader:
        """Our length-grouped batches."""
        return TextLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=partial(collate, pad=self.pad))

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over one batch, in parts that fit into memory.

        Raises:
            UniDetoxError: The loss is no number, or not even one text fits into memory.
        """
        model.train()
        n_tokens = count_supervised(inputs)
        while True:
            try:
                parts = [self._prepare_inputs(part) for part in split_batch(inputs, self.micro_tokens)]
                loss = torch.stack([self.token_loss.backward(part, n_tokens) for part in parts]).sum()
                break
            except (RuntimeError, MemoryError) as exc:
                self._shrink(exc, len(inputs["input_ids"]) == len(split_batch(inputs, self.micro_tokens)))
        if not math.isfinite(loss.item()):
            hint = "The learning rate is too high for this model; try a tenth of it"
            raise UniDetoxError(f"the loss became {loss.item()} at step {self.state.global_step + 1}", hint=hint)
        return loss

    def _shrink(self, exc: Exception, smallest: bool) -> None:
        """After running out of memory, start the step again in smaller parts; the result is the same."""
        if not is_out_of_memory(exc):
            raise exc
        if smallest:
            hint = "Try a smaller --max-length, or for `detoxify` --lora"
            raise UniDetoxError("not enough memory to train on one text at a time", hint=hint) from exc
        self.micro_tokens = max(1, self.micro_tokens // 2)
        self.model.zero_grad()
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        console.detail(f"out of memory; going on with {self.micro_tokens} tokens at a time")

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.checkpoints is not None:
            self.checkpoints.seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: p.detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / _WEIGHTS), strict=False)


def _run_key(model: Any, rows: list[list[int]], settings: TrainSettings, dtype: torch.dtype) -> str:
    """Hash of all that decides the result: settings, texts and the weights at the start (64 numbers of each)."""
    told = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _NO_RESULT}
    if settings.optim == TrainSettings.optim:
        del told["optim"]  # it came later, and checkpoints of before are still good
    digest = hashlib.sha256(np.concatenate([np.asarray([len(row), *row]) for row in rows]).tobytes())
    for name, weight in model.named_parameters():
        numbers = weight.detach().flatten()[:: max(1, weight.numel() // 64)].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.tobytes())
    return files.hash_of({"settings": told, "dtype": str(dtype), "data": digest.hexdigest()})


def _arguments(model: Any, settings: TrainSettings, steps: int, output_dir: Path) -> TrainingArguments:
    """The paper's optimizer, and nothing that writes or prints by itself."""
    args = TrainingArguments(
        output_dir=str(output_dir), max_steps=steps, per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
        optim=settings.optim, seed=settings.seed, save_strategy="no", report_to="none", disable_tqdm=True,
        logging_steps=max(1, steps // 100), logging_first_step=True, logging_nan_inf_filter=False,
        dataloader_pin_memory=False, remove_unused_columns=False, use_cpu=model.device.type == "cpu",
        use_cache=model.config.get_text_config().use_cache,  # what the Trainer leaves in the model's configuration
    )  # fmt: skip
    # Several GPUs in sight would make the Trainer copy the model to all of them.
    args._n_gpu = min(args.n_gpu, 1)
    return args
