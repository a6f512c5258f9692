"""A random stream for each sequence, so that what it draws depends on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_MASK = (1 << 64) - 1


def stream_keys(seed: int, sequences: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint64]:
    """Give each sequence a 64-bit key of its own.

    Args:
        seed: Any integer.
        sequences: (prompt key, sample number) pairs.

    Returns:
        uint64 ``[sequences]``.
    """
    prompts = np.array([prompt & _MASK for prompt, _ in sequences], dtype=np.uint64)
    samples = np.array([sample & _MASK for _, sample in sequences], dtype=np.uint64)
    with np.errstate(over="ignore"):
        return _mix(_mix(_mix(np.full(len(sequences), seed & _MASK, dtype=np.uint64)) ^ prompts) ^ samples)


def uniforms(keys: npt.NDArray[np.uint64], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Draw the number in [0, 1) that each stream holds at a step (counter-based: no state to keep).

    Args:
        keys: uint64 ``[rows]`` from `stream_keys`.
        steps: int64 ``[rows]``, the number of tokens drawn before.
    """
    with np.errstate(over="ignore"):
        bits = _mix(keys + (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def again(uniform: torch.Tensor) -> torch.Tensor:
    """Make another number in [0, 1) of each, where one was not enough; float64 ``[rows]``."""
    bits = (uniform.cpu().numpy() * 2.0**53).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(bits + np.uint64(0xD1B54A32D192ED03)))
    return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53).to(uniform.device)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits. Reference: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
