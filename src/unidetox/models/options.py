"""How models are loaded: one object that is made once and handed through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unidetox.models.devices import choose_device, choose_dtype

if TYPE_CHECKING:
    import torch

    from unidetox.config.settings import Recipe


@dataclass(frozen=True)
class LoadOptions:
    """Where and as what to load a model, and what it may do.

    Attributes:
        device: Device name, see `choose_device`.
        dtype: Dtype or its name, see `choose_dtype`. To fine-tune all weights, load float32.
        trust_remote_code: Let the model run Python code that it brings along.
    """

    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    trust_remote_code: bool = False

    @classmethod
    def of(cls, recipe: Recipe, **changes: Any) -> LoadOptions:
        """What a recipe says, with some fields changed."""
        return replace(cls(recipe.device, recipe.dtype, recipe.trust_remote_code), **changes)

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """Return a device that exists here, and the dtype to compute in on it.

        Raises:
            UsageError: One of the two is none.
            MissingError: The device is not in this machine.
        """
        device = choose_device(self.device)
        return device, choose_dtype(self.dtype, device)[0] if isinstance(self.dtype, str) else self.dtype


DEFAULTS = LoadOptions()
CLASSIFIER_DEFAULTS = LoadOptions(dtype="float32")
"""Scores near a threshold depend on rounding, so classifiers compute in float32."""
