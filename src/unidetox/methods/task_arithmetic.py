"""Task arithmetic: the difference that training on toxic text makes to the weights is subtracted from them.

``theta_new = theta - lambda (theta_toxic - theta)``, tensor by tensor; a tied weight is one tensor, and what is no
number with a fraction (masks, counters) is left alone.

Reference: Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, section 3 (negation). Their lambda is chosen
on validation data between 0 and 1.

Ours: lambda is 1 unless it is set; the toxic model is the target's toxic copy that other methods use too, trained as
``[toxic]`` says. Its tensors are read from their files one at a time, so that little more than one model is in memory;
differences are taken in float32, and the result is saved in the target's number type.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from unidetox.config.fields import Allowed
from unidetox.config.settings import MethodOptions, Recipe
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.names import short_name
from unidetox.core.stages import Stage
from unidetox.methods.checkpoint_stage import write_papers
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod
from unidetox.models import LoadOptions, check_lm, fingerprint, load_lm, save_lm, saved_dtype
from unidetox.models.sizes import Need, Sizes

if TYPE_CHECKING:
    import torch

_NO_COPY = "The toxic model must be a fine-tuned copy of the target"

Factor = Annotated[float, Field(strict=True, allow_inf_nan=False), Allowed("a number")]


class Options(MethodOptions):
    """Options of task arithmetic."""

    scale: Factor = Field(1.0, description="How much of the difference is subtracted; lambda in the paper.")


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    toxic = context.toxic(pair.target)
    yield from toxic.steps

    def stage() -> Stage:
        inputs = {"target": fingerprint(pair.target), "toxic": fingerprint(toxic.source)}
        return Stage(pair.folder, "task-arithmetic", pair.settings, inputs)

    def check() -> None:
        check_lm(pair.target, context.load_options)
        toxic.check()

    def need(sizes: Sizes) -> Need:
        shape = sizes.shape(pair.target)
        weights = shape.stored * shape.parameters
        return Need(sizes.machine.base + weights, disk=weights)

    def make(fresh: bool) -> None:
        made = stage()
        made.run(lambda work: _fill(context.recipe, pair, toxic.source, made.out_dir), fresh=fresh)

    yield Step(pair.step, toxic.needs, stage, make, check, need)


def _fill(recipe: Recipe, pair: TargetMethod, toxic: str, out: Path) -> dict[str, int]:
    options = LoadOptions.of(recipe, device="cpu", dtype="float32")
    lm = load_lm(pair.target, replace(options, dtype=saved_dtype(pair.target, options)))
    console.info(f"{pair.step}: {short_name(pair.target)} less {pair.options.scale:g} of what toxic text taught it")
    with _stored(toxic, {name for name, _ in lm.model.named_parameters()}, options) as tensor_of:
        changed = subtract(lm.model, tensor_of, pair.options.scale)
    save_lm(lm.model, lm.tokenizer, out)
    write_papers(out, {"method": pair.method, "base_model": pair.target, "settings": pair.settings})
    return {"tensors": changed}


def subtract(model: Any, toxic: Callable[[str], torch.Tensor], scale: float) -> int:
    """Subtract a part of the difference between a toxic model's weights and this model's from this model's.

    Args:
        model: Any model; it is changed in place.
        toxic: Gives the toxic model's tensor of a name.
        scale: How much; 0 leaves the model alone, -1 makes it the toxic model.

    Returns:
        How many tensors were changed, tied ones counted once.

    Raises:
        UsageError: A tensor of the toxic model has another shape.
    """
    import torch

    # Parameters come once, whatever they are tied to; buffers hold masks, and frequencies that no training changes.
    weights = {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}
    with torch.no_grad():
        for name, weight in weights.items():
            other = toxic(name).to(weight.device)
            if other.shape != weight.shape:
                what = f"{name} has other shapes: {tuple(weight.shape)} and {tuple(other.shape)}"
                raise UsageError(what, hint=_NO_COPY)
            weight.copy_(negated(weight, other, scale))
    return len(weights)


def negated(theta: torch.Tensor, toxic: torch.Tensor, scale: float) -> torch.Tensor:
    """Return ``theta - scale (toxic - theta)``, computed in float32 at least.

    Args:
        theta: A weight.
        toxic: The same weight after training on toxic text.
        scale: Lambda.

    Reference: Ilharco et al. (ICLR 2023), section 3: ``theta_new = theta_pre + lambda (-tau)``.
    """
    import torch

    number = torch.promote_types(theta.dtype, torch.float32)
    start = theta.to(number)
    return start - scale * (toxic.to(number) - start)


@contextlib.contextmanager
def _stored(source: str, names: Collection[str], options: LoadOptions) -> Iterator[Callable[[str], torch.Tensor]]:
    """Give tensors of a checkpoint by name, each read when it is asked for.

    What holds no such names is loaded whole: adapters, older files, families whose weights are merged as they load.
    """
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(safe_open(str(f), framework="pt")) for f in _shards(Path(source).expanduser())]
        places = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118 - it is no mapping
        if places.keys() >= set(names):
            yield lambda name: places[name].get_tensor(name)
            return
    weights = dict(load_lm(source, options).model.named_parameters(remove_duplicate=False))
    if missing := sorted(set(names) - weights.keys()):
        raise UsageError(f"{source} has no {missing[0]}", hint=_NO_COPY)
    yield weights.__getitem__


def _shards(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's tensors; none where they are not safetensors in a folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


METHOD = Method(Options, _steps, done="less the difference that fine-tuning on toxic text makes to its weights.")
