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
