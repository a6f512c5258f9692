"""PEFT adapters: load them into their base model, without the warnings that nobody can act on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT still asks transformers by the old name whether gradient checkpointing is on, and is told off for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        yield


def load_adapter(directory: str, model: Any) -> Any:
    """Add the adapter in a directory to the weights of its base model.

    Args:
        directory: What `PeftModel.save_pretrained` wrote.
        model: The base model; it is changed.

    Returns:
        The base model, so that the engine meets an ordinary model of a class that it knows. The sum of weights is
        rounded once, as it would be in any other order.
    """
    from peft import PeftModel

    with quiet_peft():
        return PeftModel.from_pretrained(model, directory).merge_and_unload()
