"""What a fine-tuning run is told, and what it reports."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from unidetox.config.fields import Section
from unidetox.core.errors import MissingError, UsageError


@dataclass(frozen=True)
class TrainSettings:
    """How to fine-tune; the defaults are the paper's for detoxification.

    No weight decay, linear decay of the learning rate to zero without warm-up, gradients clipped at norm 1: as the
    paper has it, and not to be set.

    Attributes:
        lr: Peak learning rate, above 0.
        batch_size: Texts an optimizer step.
        max_length: Longest text in tokens, with its start and end token.
        steps: Optimizer steps; goes before ``epochs``.
        epochs: Passes over the texts, may be a fraction.
        seed: Of the order of the texts, of drop-out and of LoRA's start.
        dtype: ``auto``, ``bfloat16`` or ``float32``: what to multiply in. The weights trained are float32 always.
        kl: Weight of KL(model at the start || model), in nats a token, added to the loss; 0 is off. Needs memory for a
            second copy of the model.
        lora: Train a low-rank adapter instead of all weights.
        lora_rank: Rank of the adapter.
        lora_alpha: The adapter counts ``lora_alpha / lora_rank``.
        save_steps: Steps between checkpoints; None: a tenth of the run, but at least half a minute.
        optim: Optimizer, by its name in transformers.
        gradient_checkpointing: Keep less for the backward pass: less memory, a third more time.
        micro_tokens: Most tokens (with padding) in one forward pass; a batch of more is taken in parts, with the
            same result. None: as suits the device.

    Reference:
        UniDetox (ICLR 2025), published code ``unidetox.py:200-210``.
    """

    lr: float = 5e-5
    batch_size: int = 8
    max_length: int = 256
    steps: int | None = None
    epochs: float | None = None
    seed: int = 42
    dtype: str = "auto"
    kl: float = 0.0
    lora: bool = False
    lora_rank: int = 16
    lora_alpha: float = 32.0
    save_steps: int | None = None
    optim: str = "adamw_torch_fused"
    gradient_checkpointing: bool = False
    micro_tokens: int | None = None

    @classmethod
    def of(cls, section: Section, **more: Any) -> TrainSettings:
        """Return the settings that a section of a recipe has under the same names.

        Args:
            section: ``[toxic]`` or ``[detoxify]``.
            more: Further settings, which win.
        """
        return cls(**{name: value for name, value in section if name in cls.__dataclass_fields__} | more)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            UsageError: A number is out of range, or neither steps nor epochs are given.
            MissingError: The optimizer needs a package that is not there.
        """
        check_optimizer(self.optim)
        if self.steps is None and self.epochs is None:
            raise UsageError("neither steps nor epochs of training are given", hint="Set one of them")
        least = {"batch_size": 1, "max_length": 2, "steps": 1, "lora_rank": 1, "save_steps": 1, "micro_tokens": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UsageError(f"{name} is {value}", hint=f"It must be at least {bound}")
        for name in ("lr", "epochs", "lora_alpha"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}", hint="It must be above 0")
        if not (math.isfinite(self.kl) and self.kl >= 0):
            raise UsageError(f"kl is {self.kl}", hint="It must be at least 0")

    def total_steps(self, n_texts: int) -> int:
        """The number of optimizer steps for so many texts."""
        if self.steps is not None:
            return self.steps
        return math.ceil((self.epochs or 0) * math.ceil(n_texts / self.batch_size))


def check_optimizer(name: str) -> None:
    """See that what an optimizer needs is there.

    Args:
        name: Its name in transformers.

    Raises:
        MissingError: It is not.
    """
    if name.endswith("8bit") and find_spec("bitsandbytes") is None:
        raise MissingError(f"optim {name} needs bitsandbytes", hint="pip install bitsandbytes, or leave optim out")


@dataclass(frozen=True)
class TrainReport:
    """What a fine-tuning run did.

    Attributes:
        model: The trained model: the one given, or with LoRA the PEFT model around it.
        steps: Optimizer steps of the whole run.
        seconds: Time that this call took; a resumed run counts what came after the interruption.
        loss_first: Mean loss a token (nats) of the first step.
        loss_last: Mean loss a token (nats) of the last steps logged.
        n_tokens: Tokens learnt from in the whole run, repeats counted.
        n_texts: Texts trained on.
        n_truncated: Texts that were cut at the maximum length.
        resumed_from: The step that the run went on from after an interruption, 0 for none.
        dtype: What it multiplied in, and why.
        log: Rows of ``step``, ``loss``, ``grad_norm``, ``learning_rate``, ``epoch``.
    """

    model: Any = field(repr=False, compare=False)
    steps: int
    seconds: float
    loss_first: float
    loss_last: float
    n_tokens: int
    n_texts: int
    n_truncated: int
    resumed_from: int
    dtype: str
    log: list[dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the model, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}
