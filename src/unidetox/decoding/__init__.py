"""The engine: one way to ask language models for tokens, one way to ask them for likelihoods."""

from unidetox.decoding.likelihood import encode_pair, loglikelihood
from unidetox.decoding.processor import ContrastiveLogitsProcessor
from unidetox.decoding.sampling import Sampled, SamplingSettings, sample
from unidetox.decoding.sources import LogitSource, contrast, contrast_scores, dexperts, expert_scores, lm

__all__ = [
    "ContrastiveLogitsProcessor",
    "LogitSource",
    "Sampled",
    "SamplingSettings",
    "contrast",
    "contrast_scores",
    "dexperts",
    "encode_pair",
    "expert_scores",
    "lm",
    "loglikelihood",
    "sample",
]
