"""What fine-tuning holds in memory: how many tokens at a time, and what that comes to."""

from __future__ import annotations

from unidetox.models.sizes import Machine, Need, Shape
from unidetox.training.settings import TrainSettings

LOGITS_AT_ONCE = 1 << 24
"""Logits held at a time, in numbers: 64 MiB of float32, and as much for each of the two copies made of them."""

# A GPU wants all it can hold. A processor is as fast with 512 tokens of GPT-2 small at a time as with 2048, in half
# of the memory; narrower models need more tokens for the same work.
_GPU_TOKENS = 16384
_CPU_NUMBERS = 512 * 768
_CPU_LEAST_TOKENS = 256

_WEIGHT_BYTES = _GRADIENT_BYTES = 4
_MOMENT_BYTES = {"adafactor": 0, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Optimizer -> bytes of a trained parameter's moments where these are not two of float32: Adafactor keeps sums of rows
and columns, next to nothing."""
_ACTIVATIONS = 25
"""Numbers kept a token, layer and unit of width for the backward pass: on an H200 22 of GPT-2, 25 of LLaMA. In theory
17 (Korthikanti et al. 2023, section 4.1), but autocast keeps some of them in float32."""
_SLACK = 1.05
"""What the allocator takes for what is asked of it."""


def micro_tokens(device: str, width: int) -> int:
    """Return how many tokens go through a model of so many hidden units at a time, where nobody says."""
    return max(_CPU_LEAST_TOKENS, _CPU_NUMBERS // width) if device == "cpu" else _GPU_TOKENS


def fine_tuning_need(shape: Shape, settings: TrainSettings, machine: Machine, *, stored: int | None) -> Need:
    """Return what fine-tuning a model on texts of the greatest length needs, saving included.

    All that is trained is float32: with AdamW 16 bytes a parameter. Where it multiplies in bfloat16, matrices are there
    in that too until their part of the backward pass is done. Gradients come as these and activations go: the larger
    counts.

    Args:
        shape: The model.
        settings: How it is trained.
        machine: Where.
        stored: Bytes of a parameter in what is saved; None where it is the adapter alone.
    """
    adapter = settings.lora_rank * shape.sides if settings.lora else 0
    trained = adapter or shape.parameters
    weights = _WEIGHT_BYTES * (shape.parameters * (2 if settings.kl else 1) + adapter)
    limit = settings.micro_tokens or micro_tokens(machine.device, shape.width)
    part = min(settings.batch_size * settings.max_length, max(limit, settings.max_length))
    kept = _ACTIVATIONS + shape.layers if settings.gradient_checkpointing else _ACTIVATIONS * shape.layers
    copies = shape.body * machine.size if machine.size < 4 else 0
    logits = 3 * 4 * min(LOGITS_AT_ONCE, part * shape.vocabulary)
    head = 0 if adapter else _GRADIENT_BYTES * shape.width * shape.vocabulary  # its gradient is there first
    forward = copies + part * kept * shape.width * machine.size + logits + head
    moments = _MOMENT_BYTES.get(settings.optim, 8) * trained
    held = weights + moments + max(_GRADIENT_BYTES * trained, forward)
    # Two checkpoints of weights and moments for a moment: the old one goes when the new one is complete.
    scratch = 2 * (_WEIGHT_BYTES * trained + moments)
    return Need(machine.base + _SLACK * held, stored * shape.parameters if stored else 4 * adapter, scratch)
