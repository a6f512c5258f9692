"""Will it fit? How large models are, and what memory and disk work on them needs; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar

from unidetox.core.errors import MissingError, UsageError
from unidetox.models.checking import check_lm
from unidetox.models.loading import load_config
from unidetox.models.options import LoadOptions

GPUS = {"A100": 80e9, "H100": 80e9, "H200": 141e9, "L40S": 48e9, "RTX4090": 24e9}
"""GPU -> bytes of memory."""


@dataclass(frozen=True)
class Need:
    """What a stage needs.

    Attributes:
        memory: Most bytes at a time, on the device that computes.
        disk: Bytes that stay.
        scratch: Bytes beside them while it works.
    """

    memory: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0

    def __add__(self, other: Need) -> Need:
        """One after the other: what stays adds up, of memory and scratch the larger counts."""
        return Need(max(self.memory, other.memory), self.disk + other.disk, max(self.scratch, other.scratch))


@dataclass(frozen=True)
class Shape:
    """What a model's configuration says of its size.

    Attributes:
        parameters: All of them, tied ones once.
        body: Those that every token is multiplied with, embeddings and LM head left out.
        layers: Transformer layers.
        width: Of the hidden vectors.
        cache: Numbers in the keys and values of a token, all layers together; 0 for a classifier.
        sides: Rows and columns of all matrices of the body, added up: a LoRA adapter has this many numbers a rank.
        vocabulary: Rows of the LM head; 0 for a classifier.
        stored: Bytes of a parameter in the checkpoint.
    """

    parameters: int
    body: int
    layers: int
    width: int
    cache: int
    sides: int
    vocabulary: int
    stored: int = 4


@dataclass(frozen=True)
class Machine:
    """A device that computes.

    Attributes:
        name: What to call it.
        device: ``cpu`` or ``cuda``.
        dtype: What language models compute in: ``float32`` or ``bfloat16``.
        memory: Its bytes; of main memory those that are free.
    """

    name: str
    device: str
    dtype: str
    memory: float

    base: ClassVar[float] = 8e8
    """Bytes that the process takes before it loads anything: libraries, or the context of CUDA."""

    @property
    def size(self) -> int:
        """Bytes of a number that language models compute with."""
        return 4 if self.dtype == "float32" else 2

    @classmethod
    def known(cls, gpu: str) -> Machine:
        """Return one of `GPUS`.

        Raises:
            UsageError: It is not known.
        """
        if gpu not in GPUS:
            raise UsageError(f"nothing is known of the GPU {gpu!r}", hint=f"Known: {', '.join(GPUS)}")
        return cls(gpu, "cuda", "bfloat16", GPUS[gpu])

    @classmethod
    def here(cls, options: LoadOptions) -> Machine:
        """Return this machine, with the device and dtype that models are loaded with."""
        import torch

        from unidetox.decoding.memory import free_bytes

        device, dtype = options.resolve()
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else device.type
        memory = torch.cuda.mem_get_info(device)[1] if cuda else free_bytes(device)
        return cls(name, device.type, str(dtype).removeprefix("torch."), memory)


class Sizes:
    """Shapes of the models of a run, each looked up once; of one that is not here, the published one if it is known.

    Args:
        machine: Where it will run.
        options: How models are loaded.

    Attributes:
        published: Names of what is not here.
    """

    def __init__(self, machine: Machine, options: LoadOptions) -> None:
        self.machine, self.published = machine, list[str]()
        self._options, self._shapes = options, dict[str, Shape]()

    def shape(self, name: str, *, classifier: bool = False) -> Shape:
        """Return the shape of a model.

        Raises:
            MissingError: It is not here, and its size is not known.
            UsageError: It cannot be used.
        """
        if name not in self._shapes:
            try:
                config = load_config(name, self._options) if classifier else check_lm(name, self._options).config
            except MissingError:
                known = name.partition("@")[0]
                if known not in published_models():
                    raise
                config = published_config(known)
                self.published.append(known)
            trust = self._options.trust_remote_code
            self._shapes[name] = shape_of(config, classifier=classifier, trust_remote_code=trust)
        return self._shapes[name]


def published_models() -> dict[str, dict[str, Any]]:
    """Return what differs from an architecture's defaults in the configurations of the models that presets name.

    With them a run can be planned before anything is fetched.
    """
    return dict(json.loads(resources.files(__package__).joinpath("published.json").read_text()))


def published_config(name: str) -> Any:
    """Return a transformers configuration of the size of one of `published_models`."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**published_models()[name])


def shape_of(config: Any, *, classifier: bool = False, trust_remote_code: bool = False) -> Shape:
    """Return a model's size, counted on a model without memory that its configuration describes.

    Args:
        config: A transformers configuration.
        classifier: Whether it is a sequence classifier.
        trust_remote_code: Run code that a model's repository brings along.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from unidetox.decoding.memory import kept_numbers

    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=trust_remote_code)
    head = None if classifier else model.get_output_embeddings()
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    apart = {id(weight): weight.numel() for weight in [*embeddings, *([head.weight] if head is not None else [])]}
    parameters, text = list(model.parameters()), config.get_text_config()
    whole = sum(parameter.numel() for parameter in parameters)
    return Shape(
        parameters=whole,
        body=whole - sum(apart.values()),
        layers=int(text.num_hidden_layers),
        width=int(text.hidden_size),
        cache=0 if classifier else kept_numbers(model)[0],
        sides=sum(sum(p.shape) for p in parameters if p.dim() == 2 and id(p) not in apart),
        vocabulary=0 if head is None else int(head.weight.shape[0]),
        stored=config.dtype.itemsize if isinstance(config.dtype, torch.dtype) else 4,
    )


def sampling_need(shapes: Sequence[Shape], machine: Machine, rows: int, prompt: int, length: int) -> Need:
    """Return what sampling needs, as if no text ended early.

    Args:
        shapes: The models whose logits are mixed; one for plain sampling.
        machine: Where.
        rows: How many texts.
        prompt: Tokens that each goes on from.
        length: New tokens of each.
    """
    from unidetox.decoding.decoders import LENGTH_MULTIPLE, round_up
    from unidetox.decoding.memory import row_bytes
    from unidetox.decoding.sampling import rows_that_fit

    def row(tokens: int) -> int:
        return sum(row_bytes(shape.cache, shape.width, tokens, machine.size) for shape in shapes)

    held = machine.base + sum(shape.parameters for shape in shapes) * machine.size
    side = min(rows, rows_that_fit(max(0.0, machine.memory - held), row(prompt + length)))
    if len(shapes) > 1 and machine.size < 4:  # the heads of models that are mixed are copied in float32
        held += sum(4 * shape.width * shape.vocabulary for shape in shapes)
    return Need(held + side * row(round_up(prompt + length - 1, LENGTH_MULTIPLE)))


def scoring_need(shape: Shape, machine: Machine, size: int | None = None) -> Need:
    """Return what reading texts with a model needs: likelihoods of a language model, or a classifier's scores.

    Args:
        shape: The model.
        machine: Where.
        size: Bytes of a number; the language models' own where not given.
    """
    from unidetox.decoding.likelihood import PACK_TOKENS
    from unidetox.decoding.memory import row_bytes

    size, batch = size or machine.size, PACK_TOKENS.get(machine.device, PACK_TOKENS["cpu"])
    return Need(machine.base + shape.parameters * size + batch * row_bytes(shape.cache, shape.width, 1, size))
