"""Attention of one new token a row to a cache, on a CPU: two batched matrix products.

PyTorch's fused kernel on a CPU is made for long queries: with one query a row it takes two to ten times as long as the
plain products, and with several threads a row's last bits depend on what else is in the batch. So while a step runs,
calls of `scaled_dot_product_attention`, whichever model makes them, come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SMALLEST_PRODUCT = 400
"""PyTorch computes smaller batched products in another way, with other roundings."""


class DecodingAttention(TorchFunctionMode):
    """Within this context, attention of single tokens goes through `attend`; everything else stays as it is."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, or ours in its place."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and _fits(*args, **kwargs):
            return attend(*args, **kwargs)
        return func(*args, **kwargs)


def _fits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    return query.dim() == 4 and query.shape[:2] == key.shape[:2] and dropout_p == 0 and not is_causal


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute attention as `torch.nn.functional.scaled_dot_product_attention` does, with soft-max in float32.

    Args:
        query: ``[rows, heads, queries, width]``; the queries of a group that shares keys, or one.
        key: ``[rows, heads, length, width]``.
        value: The same shape.
        attn_mask: Boolean (True is seen) or additive, broadcast to ``[rows, heads, queries, length]``.
        dropout_p: Not used; zero.
        is_causal: Not used; false.
        scale: Multiplies the products; one over the root of the width by default.
        enable_gqa: Not used; heads are equal in number.

    Returns:
        ``[rows, heads, queries, width]``.
    """
    rows, heads, queries, width = query.shape
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # [rows * heads, length, width]
    # [rows * heads, queries, width] @ [rows * heads, width, length]
    scores = torch.bmm(query.reshape(rows * heads, queries, width), keys.mT).float()
    scores = scores.mul_(width**-0.5 if scale is None else scale).view(rows, heads, queries, -1)
    if attn_mask is not None:
        scores = scores.masked_fill_(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1).to(value.dtype)
    return torch.bmm(weights.view(rows * heads, queries, -1), values).view(rows, heads, queries, -1)
