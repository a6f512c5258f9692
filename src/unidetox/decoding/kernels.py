"""Faster kernels for what models ask of PyTorch, equal up to rounding: GELU, and matrix products on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.activations import FastGELUActivation, NewGELUActivation

_WRITTEN_OUT: tuple[Any, ...] = (NewGELUActivation, FastGELUActivation)


@contextmanager
def inference_kernels(device: torch.device) -> Iterator[None]:
    """Within this context, forward passes without gradients of a model on this device take the faster kernels."""
    with ExitStack() as stack:
        stack.enter_context(fused_gelu())
        if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            stack.enter_context(LinearLayers())
        yield


@contextmanager
def fused_gelu() -> Iterator[None]:
    """Within this context, GELU in its tanh approximation is PyTorch's own.

    transformers writes it out in eight operations, each of which reads and writes a layer. Training keeps one tensor of
    each layer for the backward pass then, not six; about a third of all that GPT-2 keeps.

    Reference: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, section 2.
    """
    before = [kind.forward for kind in _WRITTEN_OUT]
    for kind in _WRITTEN_OUT:
        kind.forward = _fused
    try:
        yield
    finally:
        for kind, forward in zip(_WRITTEN_OUT, before, strict=True):
            kind.forward = forward


def _fused(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    return functional.gelu(hidden, approximate="tanh")


class LinearLayers(TorchFunctionMode):
    """Within this context, linear layers in float32 on a CPU are computed by oneDNN in place of the BLAS library.

    Measured on an AMD EPYC (`benchmarks/`): 128 rows through GPT-2's layers 1.4 times as fast, through its output
    matrix of 50257 words twice. Each row gets the same bits whatever the number of rows, if that is a multiple of 8.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, or oneDNN's in its place."""
        if func is functional.linear and not kwargs and _fits(*args):
            return _linear(*args)
        # GPT-2 keeps its weights the other way round, and calls them so.
        if func is torch.addmm and not kwargs and args[0].dim() == 1 and _fits(args[1], args[2], args[0]):
            return _linear(args[1], args[2].t(), args[0])
        return func(*args, **(kwargs or {}))


def _fits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    tensors = [hidden, weight] if bias is None else [hidden, weight, bias]
    ordinary = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.layout == torch.strided for t in tensors)
    return ordinary and hidden.dim() >= 2 and hidden.numel() > 0 and not torch.is_grad_enabled()


def _linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Apply a linear layer, ``[..., inputs] -> [..., outputs]``, with ``weight [outputs, inputs]``."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result.view(*hidden.shape[:-1], weight.shape[0])
