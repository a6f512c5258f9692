"""What can say the next-token scores: one model, or several under a mixture rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unidetox.core.errors import UsageError

Mixture = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""Logits of each model ``[rows, vocabulary]`` -> scores ``[rows, vocabulary]`` whose soft-max is sampled."""


@dataclass(frozen=True)
class LogitSource:
    """Models that share a vocabulary, and the rule that mixes their logits. Each model has a cache of its own.

    Attributes:
        models: The causal LMs, asked in this order.
        mix: The rule.
        unfiltered: The rule for likelihoods, where `mix` strikes out tokens before it samples: a filter is a way to
            sample, as top-p is for a plain model, and a likelihood of nothing helps nobody. None where they are one.
    """

    models: tuple[Any, ...]
    mix: Mixture
    unfiltered: Mixture | None = None

    @property
    def filters(self) -> bool:
        """Whether the rule brings a filter of its own, so that top-p must not be applied a second time."""
        return self.unfiltered is not None

    @property
    def log_prob_scores(self) -> Mixture:
        """The rule whose soft-max is a likelihood."""
        return self.unfiltered or self.mix


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


def dexperts(base: Any, anti: Any, expert: Any = None, *, alpha: float = 2.0, top_p: float = 0.9) -> LogitSource:
    """A base model steered by an expert and an anti-expert; see `expert_scores`.

    Args:
        base: The base LM.
        anti: The anti-expert: an LM of the same vocabulary that was made toxic.
        expert: An LM of the same vocabulary that was made less toxic; without it, the base stands in for it.
        alpha: Strength, any number; 0 is the base model.
        top_p: Nucleus of the base model outside of which nothing is sampled, in (0, 1]; 1 is off.
    """
    if not math.isfinite(alpha):
        raise UsageError(f"alpha is {alpha}", hint="Give a finite strength, e.g. 2.0")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}", hint="Give a share above 0 and at most 1, e.g. 0.9")

    def mix(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        return expert_scores(logits[0], logits[1], logits[2] if len(logits) > 2 else None, alpha=alpha)

    def filtered(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        return mix(logits).masked_fill(outside_nucleus(logits[0].float(), top_p), -torch.inf)

    models = (base, anti) if expert is None else (base, anti, expert)
    return LogitSource(models, filtered, mix) if top_p < 1 else LogitSource(models, mix)


def expert_scores(
    base: torch.Tensor, anti: torch.Tensor, expert: torch.Tensor | None = None, *, alpha: float
) -> torch.Tensor:
    """Score next tokens ``base + alpha (expert - anti)``; without an expert ``(1 + alpha) base - alpha anti``.

    Args:
        base: Logits ``[..., vocabulary]``, any dtype; computed in float32.
        anti: Logits of the anti-expert, of the same shape.
        expert: Logits of the expert, of the same shape, or None: then the base is its own expert.
        alpha: Strength.

    Returns:
        float32 ``[..., vocabulary]``.

    Reference: Liu et al., DExperts (ACL 2021), Eq. 1 and, without an expert, its "anti-only" ablation.
    """
    base, anti = base.float(), anti.float()  # [..., vocabulary]
    return base + alpha * ((base if expert is None else expert.float()) - anti)


TOP = 512
"""Best tokens that are sorted at first; the nucleus of most contexts is among them."""


def outside_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Say which tokens are outside the smallest set of best ones that holds ``top_p`` of the probability.

    Args:
        logits: float32 ``[rows, vocabulary]``.
        top_p: In (0, 1].

    Returns:
        bool ``[rows, vocabulary]``: those that transformers' ``TopPLogitsWarper`` would strike out.
    """
    total = logits.logsumexp(-1, keepdim=True)  # [rows, 1]
    outside = torch.ones_like(logits, dtype=torch.bool)
    rows = torch.arange(logits.shape[0], device=logits.device)  # those that are not settled yet
    for size in sorted({min(TOP, logits.shape[-1]), logits.shape[-1]}):
        best, tokens = logits[rows].topk(size)  # both [rows, size], the best first
        mass = (best - total[rows]).exp().double()  # probabilities
        # A token is outside where the mass of the better ones alone is enough; cumsum - mass is that mass.
        outside[rows[:, None], tokens] = mass.cumsum(-1) - mass >= top_p
        rows = rows[mass.sum(-1) < top_p]  # the nucleus reaches beyond these: the whole vocabulary is sorted
        if not len(rows):
            break
    return outside


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
    floor = base.amax(-1, keepdim=True) + math.log(alpha)  # [..., 1]
    scores = base - toxic if math.isinf(beta) else (1 + beta) * base - beta * toxic
    return scores.masked_fill(base < floor, -torch.inf)
