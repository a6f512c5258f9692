"""Conditional perplexity of continuations under a language model that took no part in writing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unidetox.core.errors import UniDetoxError
from unidetox.evaluation.prompt_encoding import encode_pairs

if TYPE_CHECKING:
    from unidetox.models import LM

PAPER_CEILING = 1e4
"""The published code leaves out samples of this perplexity or more (unidetox.py:900)."""


@dataclass(frozen=True)
class Perplexity:
    """A perplexity and what it rests on.

    Attributes:
        value: 1 or more; NaN where no sample counts.
        n: How many samples count.
        n_dropped: How many do not: empty ones, and those at or above the ceiling.
    """

    value: float
    n: int
    n_dropped: int


@dataclass(frozen=True)
class Nll:
    """The negative log-likelihood of one continuation given its prompt.

    Attributes:
        index: Which continuation.
        nll: Summed over its tokens, in nats.
        n_tokens: How many tokens of the scoring model it is; 0 for an empty one, and for one that alone is longer than
            the model's context (then ``cut`` is true).
        cut: Whether tokens were lost to fit the model's context.
    """

    index: int
    nll: float
    n_tokens: int
    cut: bool = False


def sample_perplexities(
    nll: ArrayLike, n_tokens: ArrayLike, *, ceiling: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each sample's perplexity, and which samples count.

    Args:
        nll: ``[samples]`` summed negative log-likelihoods in nats.
        n_tokens: ``[samples]`` token counts; a sample of 0 tokens has no perplexity.
        ceiling: Samples of this perplexity or more do not count; the published code's is 1e4. Without it only
            those beyond the range of a double do not.

    Returns:
        ``[samples]`` perplexities (NaN where a sample is empty) and ``[samples]`` booleans.

    Raises:
        UniDetoxError: If a log-likelihood is NaN.
    """
    total, count = np.asarray(nll, dtype=np.float64), np.asarray(n_tokens, dtype=np.float64)
    if np.isnan(total[count > 0]).any():
        raise UniDetoxError("a log-likelihood is NaN", hint="check the perplexity model, e.g. with --dtype float32")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.where(count > 0, np.exp(total / count), np.nan)
    return values, values < (np.inf if ceiling is None else ceiling)


def perplexity(nll: ArrayLike, n_tokens: ArrayLike, *, ceiling: float | None = None) -> Perplexity:
    """Return the mean over samples of ``exp(nll / n_tokens)``, as the paper reports it.

    Args:
        nll: ``[samples]`` summed negative log-likelihoods in nats.
        n_tokens: ``[samples]`` token counts.
        ceiling: See `sample_perplexities`.

    Reference:
        UniDetox published code, unidetox.py:877-903, without its stale prompt lengths.
    """
    values, counts = sample_perplexities(nll, n_tokens, ceiling=ceiling)
    n = int(counts.sum())
    return Perplexity(float(values[counts].mean()) if n else float("nan"), n, len(values) - n)


def token_perplexity(nll: ArrayLike, n_tokens: ArrayLike) -> Perplexity:
    """Return ``exp(sum(nll) / sum(n_tokens))``: every token weighs the same, so no short sample dominates."""
    total, count = np.asarray(nll, dtype=np.float64), np.asarray(n_tokens, dtype=np.float64)
    counts = sample_perplexities(total, count)[1]
    n = int(counts.sum())
    value = float(np.exp(total[counts].sum() / count[counts].sum())) if n else float("nan")
    return Perplexity(value, n, len(total) - n)


def continuation_nll(
    lm: LM,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[Nll]:
    """Yield the negative log-likelihood of each continuation given its prompt, in no particular order.

    Prompt and continuation are encoded together, so that a token at their boundary is the one that the model would
    see. A prompt that does not fit the context is cut on the left, and the result says so.

    Args:
        lm: The scoring model.
        prompts: ``[n]`` prompts; equal ones go through the model once.
        continuations: ``[n]`` continuations.
        batch_size: How many rows go through the model at once.

    Raises:
        UniDetoxError: If the model answers NaN.
    """
    from unidetox.decoding.likelihood import loglikelihood

    pairs = encode_pairs(lm, prompts, continuations)
    filled = [i for i, pair in enumerate(pairs) if pair.continuation]
    yield from (Nll(i, 0.0, 0, pair.cut) for i, pair in enumerate(pairs) if not pair.continuation)
    contexts, targets = [pairs[i].context for i in filled], [pairs[i].continuation for i in filled]
    for k, logprobs in loglikelihood(lm.model, contexts, targets, batch_size=batch_size):
        nll = -float(logprobs.double().sum())
        yield Nll(filled[k], nll, len(targets[k]), pairs[filled[k]].cut)
