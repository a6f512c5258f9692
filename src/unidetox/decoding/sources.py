"""What can say the next-token scores: one model, or several under a mixture rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unidetox.errors import UsageError

Mixture = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""Logits of each model ``[rows, vocabulary]`` -> scores ``[rows, vocabulary]`` whose soft-max is sampled."""


@dataclass(frozen=True)
class LogitSource:
    """Models that share a vocabulary, and the rule that mixes their logits. Each model has a cache of its own.

    Attributes:
        models: The causal LMs, asked in this order.
        mix: The rule.
    """

    models: tuple[Any, ...]
    mix: Mixture


def lm(model: Any) -> LogitSource:
    """A plain language model."""
    return LogitSource((model,), lambda logits: logits[0].float())


def contrast(base: Any, toxic: Any, *, alpha: float = 0.1, beta: float = math.inf) -> LogitSource:
    """A base model contrasted with its toxic copy; see `contrast_scores`.

    Args:
        base: The base LM.
        toxic: The toxic LM, with the same vocabulary.
        alpha: Plausibility threshold in (0, 1].
        beta: Strength of the contrast, > 0; infinity is the paper's rule.
    """
    check_contrast(alpha, beta)
    return LogitSource((base, toxic), lambda logits: contrast_scores(logits[0], logits[1], alpha=alpha, beta=beta))


def check_contrast(alpha: float, beta: float) -> None:
    """Raise `UsageError` unless ``0 < alpha <= 1`` and ``beta > 0``."""
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha is {alpha}", hint="Give a plausibility threshold above 0 and at most 1, e.g. 0.1")
    if not beta > 0:
        raise UsageError(f"beta is {beta}", hint="Give a contrast strength above 0, or inf for the paper's rule")


def contrast_scores(base: torch.Tensor, toxic: torch.Tensor, *, alpha: float, beta: float = math.inf) -> torch.Tensor:
    """Score next tokens by what the base model likes and the toxic model does not.

    A token is kept where ``base >= log(alpha) + max(base)``, which is ``p_base >= alpha * max p_base``; kept tokens
    score ``base - toxic``, or ``(1 + beta) base - beta toxic`` for finite beta; all others ``-inf``.

    Args:
        base: Logits ``[..., vocabulary]``, any dtype; computed in float32, as bfloat16 steps are 0.25 at logits of 32.
        toxic: Logits of the same shape.
        alpha: Plausibility threshold in (0, 1]; 1 keeps the arg-max only.
        beta: Strength of the contrast, > 0.

    Returns:
        float32 ``[..., vocabulary]``.

    Reference: UniDetox (Lu et al., ICLR 2025), Eq. 1 and section 2; the mask is that of Li et al., Contrastive
    Decoding (ACL 2023). The published code computes it in toxic_gpt2_finetune_and_distill.py:292-300.
    """
    base, toxic = base.float(), toxic.float()
    floor = base.amax(-1, keepdim=True) + math.log(alpha)
    scores = base - toxic if math.isinf(beta) else (1 + beta) * base - beta * toxic
    return scores.masked_fill(base < floor, -torch.inf)
