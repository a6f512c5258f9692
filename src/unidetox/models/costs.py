"""What work costs in time, memory and disk, by arithmetic: products, bytes that are moved, and calls.

Everything here is numbers in, numbers out; `machine` measures rates, `estimates` goes through the stages of a run.

    seconds = 2 x parameters x tokens / product rate  +  bytes / bandwidth  +  calls x layers x operations x call
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OPERATIONS = 30
"""Operations of a transformer layer, each of which takes a moment however small it is."""
TRAINING = 3
"""Forward and backward together, in forward passes."""
ADAM_BYTES = 16
"""Bytes of memory a trained parameter: float32 weight, gradient and two moments."""
ADAM_TRAFFIC = 36
"""Bytes moved a trained parameter and step: reads and writes of all four, and the clipped gradient."""
CHECKPOINT_BYTES = 12
"""Bytes of a checkpoint a trained parameter: weight and two moments."""
ACTIVATIONS = 17
"""Numbers kept a token, layer and unit of width for the backward pass (Korthikanti et al. 2023, section 4.1)."""
TRAFFIC = 60
"""Numbers moved a token, layer and unit of width beside the products, forward and backward together."""
DRAWING = 40
"""Bytes moved a word of the vocabulary to draw a token: mixing, soft-max, nucleus."""
DISK = 5e8
"""Bytes a second that a disk is taken to read and write; not measured."""
MAX_ROWS, PASS_TOKENS = 1024, 2048
"""Rows that the engine decodes side by side at most, tokens that it reads in one pass."""


@dataclass(frozen=True)
class Cost:
    """What a stage needs.

    Attributes:
        seconds: Time.
        memory: Most bytes at a time, on the device that computes.
        disk: Bytes that stay.
        scratch: Bytes beside them while it works.
    """

    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """One after the other: times and what stays add up, of memory and scratch the larger counts."""
        larger = max(self.memory, other.memory), max(self.scratch, other.scratch)
        return Cost(self.seconds + other.seconds, larger[0], self.disk + other.disk, larger[1])


@dataclass(frozen=True)
class Shape:
    """What a model's configuration says of its size.

    Attributes:
        parameters: All of them, tied ones once.
        body: Those that every token is multiplied with, embeddings and LM head left out.
        layers: Transformer layers.
        width: Of the hidden vectors.
        kv_width: Of a token's keys in one layer.
        vocabulary: Rows of the LM head; 0 for a classifier.
    """

    parameters: int
    body: int
    layers: int
    width: int
    kv_width: int
    vocabulary: int


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    Attributes:
        name: What to call it.
        products: Number type -> width of a matrix -> floating-point operations a second.
        bandwidth: Bytes a second between memory and processor.
        call: Seconds of one operation on next to nothing.
        memory: Bytes of the device.
        number_type: What language models compute in: ``float32`` or ``bfloat16``.
        base: Bytes that the process takes before it loads anything.
    """

    name: str
    products: Mapping[str, Mapping[int, float]]
    bandwidth: float
    call: float
    memory: float
    number_type: str
    base: float = 8e8

    def product(self, width: int, number_type: str) -> float:
        """Return the rate at the nearest width that is known."""
        known = self.products[number_type]
        return known[min(known, key=lambda w: abs(math.log(w / width)))]

    @property
    def size(self) -> int:
        """Bytes of a number that language models compute with."""
        return 4 if self.number_type == "float32" else 2


def reading(
    shape: Shape, rates: Rates, tokens: float, logits: float = 0.0, *, passes: float = 0.0, number_type: str = ""
) -> float:
    """Return the seconds of forward passes.

    Args:
        shape: The model.
        rates: The machine.
        tokens: How many tokens are read.
        logits: At how many of them the LM head runs.
        passes: In how many passes; as few as the engine needs where not given.
        number_type: The models' own where not given.
    """
    kind = number_type or rates.number_type
    passes = passes or math.ceil(tokens / PASS_TOKENS)
    work = 2 * shape.body * tokens + 2 * shape.width * shape.vocabulary * logits
    moved = passes * shape.body * (4 if kind == "float32" else 2)
    calls = passes * shape.layers * OPERATIONS * rates.call
    return work / rates.product(shape.width, kind) + moved / rates.bandwidth + calls


def fine_tuning(shape: Shape, rates: Rates, steps: int, tokens: float, *, lora: bool = False, saved: int = 4) -> Cost:
    """Return the cost of fine-tuning a model, loading and saving included.

    Args:
        shape: The model.
        rates: The machine.
        steps: Optimizer steps.
        tokens: Tokens of a step.
        lora: Train an adapter; its own size is left out of account.
        saved: Bytes a parameter of what is saved.
    """
    part = min(tokens, max(256.0, 512 * 768 / shape.width)) if rates.name == "cpu" else min(tokens, 16384)
    forward = reading(shape, rates, tokens, tokens, passes=math.ceil(tokens / part))
    moved = tokens * (TRAFFIC * shape.layers * shape.width + 6 * shape.vocabulary) * 4
    trained = 0 if lora else shape.parameters
    step = TRAINING * forward + (moved + ADAM_TRAFFIC * trained) / rates.bandwidth
    held = (4 if lora else ADAM_BYTES) * shape.parameters + part * ACTIVATIONS * shape.layers * shape.width * rates.size
    files = (0 if lora else saved) * shape.parameters
    seconds = steps * step + (4 * shape.parameters + files) / DISK
    # Two checkpoints for a moment: the old one goes when the new one is complete.
    return Cost(seconds, rates.base + held, files, 2 * CHECKPOINT_BYTES * trained)


def sampling(shapes: Sequence[Shape], rates: Rates, rows: int, length: int, prompts: int, prompt_length: float) -> Cost:
    """Return the cost of sampling with models that are loaded, as if no text ended early.

    Args:
        shapes: The models whose logits are mixed; one for plain sampling.
        rates: The machine.
        rows: How many texts.
        length: New tokens of each.
        prompts: Distinct prompts.
        prompt_length: Mean tokens of a prompt.
    """
    size = rates.size if len(shapes) == 1 else 4
    weights = sum(shape.parameters for shape in shapes) * rates.size
    token = sum(2 * shape.kv_width * shape.layers for shape in shapes) * size
    room = max(0.5 * (rates.memory - rates.base - weights), 0) / (token * (prompt_length + length))
    side = max(8, min(rows, MAX_ROWS, int(room)))
    drawn = rows * length
    steps = math.ceil(drawn / side)
    seconds = drawn * token * (prompt_length + length / 2) / rates.bandwidth
    for shape in shapes:
        seconds += reading(shape, rates, drawn, drawn, passes=steps) + reading(shape, rates, prompts * prompt_length)
        seconds += drawn * shape.vocabulary * DRAWING / rates.bandwidth
    return Cost(seconds, rates.base + weights + side * token * (prompt_length + length))


def loading(shapes: Sequence[Shape], rates: Rates) -> Cost:
    """Return the cost of reading models' weights from the disk, as numbers of the type they compute with."""
    weights = sum(shape.parameters for shape in shapes) * rates.size
    return Cost(weights / DISK, rates.base + weights)


def scoring(shape: Shape, rates: Rates, tokens: float, logits: float = 0.0, *, number_type: str = "") -> Cost:
    """Return the cost of loading a model and reading texts with it.

    Args:
        shape: The model.
        rates: The machine.
        tokens: Tokens of all texts.
        logits: At how many of them the LM head runs.
        number_type: The models' own where not given; a classifier's is ``float32``.
    """
    size = 4 if number_type == "float32" else rates.size
    held = shape.parameters * size + PASS_TOKENS * ACTIVATIONS * shape.width * size
    seconds = reading(shape, rates, tokens, logits, number_type=number_type) + shape.parameters * size / DISK
    return Cost(seconds, rates.base + held)
