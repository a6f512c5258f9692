"""How far two trainings that ought to be one have come apart.

Rounding differs from processor to processor, and Adam divides a gradient by its own size: where it is nearly zero, what
was rounding noise becomes a step. So no single weight of two equal trainings need be near the other's, but almost all
are. What is held is the distance between both results over the length of the way from where they began.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Equal trainings of the tests came to 1.2e-4 at most (AVX512, AVX2 and neither of them); the smallest mistake that was
# planted, a learning rate that is 1% too high, to 9.8e-3; one token in a batch that is not learnt, to 6.5e-2.
SAME = 1e-3


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy the weights as they are now."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def length(change: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean norm of all tensors together."""
    return sum(float(value.double().square().sum()) for value in change.values()) ** 0.5


def apart(one: torch.nn.Module, other: torch.nn.Module, start: Mapping[str, torch.Tensor]) -> float:
    """||one - other|| / ||other - start||, over the weights that `start` names."""
    ours, theirs = weights(one), weights(other)
    moved = length({name: theirs[name] - value for name, value in start.items()})
    assert moved > 0, "nothing was learnt"
    return length({name: ours[name] - theirs[name] for name in start}) / moved
