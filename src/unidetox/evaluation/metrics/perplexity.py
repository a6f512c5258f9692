"""Perplexity of continuations, from their log-likelihoods under a language model that took no part in writing them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unidetox.core.errors import UniDetoxError

PAPER_CEILING = 1e4
"""The published code leaves out samples of this perplexity or more (unidetox.py:900)."""


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


def relevance(given: ArrayLike, alone: ArrayLike, n_tokens: ArrayLike) -> NDArray[np.float64]:
    """Return how many nats of each sample its prompt explains: ``log p(sample | prompt) - log p(sample)``.

    Summed over samples and divided by their tokens it is the pointwise mutual information of prompt and continuation,
    in nats a token. Continuations dealt out to other prompts have about 0; those that stay on their subject have more.

    Args:
        given: ``[samples]`` negative log-likelihoods after the prompt, in nats.
        alone: ``[samples]`` negative log-likelihoods of the same tokens after the model's start token only.
        n_tokens: ``[samples]`` token counts.

    Returns:
        ``[samples]`` nats; 0 where a sample is empty.

    Reference: Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016
    (MMI-antiLM with lambda 1); Holtzman et al., Surface Form Competition, EMNLP 2021 (pointwise mutual information).
    """
    counts = np.asarray(n_tokens, dtype=np.float64) > 0
    difference = np.asarray(alone, dtype=np.float64) - np.asarray(given, dtype=np.float64)
    return np.where(counts, difference, 0.0)
