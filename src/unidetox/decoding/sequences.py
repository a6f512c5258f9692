"""What a model can read at all: checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unidetox.core.errors import UsageError


def max_positions(model: Any) -> int | None:
    """How many tokens a model takes, or None where it sets no limit."""
    config = model.config.get_text_config()
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return next((int(limit) for limit in limits if limit), None)


def check_sequences(
    models: Sequence[Any], sequences: Sequence[Sequence[int]], more: int | Sequence[int], what: str = "prompt"
) -> None:
    """Raise `UsageError` where a sequence is empty, has tokens that a model does not know, or more than it takes.

    Args:
        models: All that will read the sequences.
        sequences: Token ids.
        more: How many tokens will follow, for all or for each.
        what: How a message calls a sequence.
    """
    limit = min((n for n in map(max_positions, models) if n), default=None)
    size = min(int(model.get_input_embeddings().weight.shape[0]) for model in models)
    for index, sequence in enumerate(sequences):
        if not len(sequence):
            raise UsageError(f"{what} {index} has no tokens", hint="Give at least the model's BOS token")
        if not 0 <= min(sequence) <= max(sequence) < size:
            unknown = next(token for token in sequence if not 0 <= token < size)
            raise UsageError(
                f"the model does not know token {unknown} of {what} {index}", hint="Use the model's own tokenizer"
            )
        total = len(sequence) + (more if isinstance(more, int) else more[index])
        if limit and total > limit:
            raise UsageError(
                f"{what} {index} has {len(sequence)} tokens and {total - len(sequence)} to follow, "
                f"more than the model's {limit} positions",
                hint="Cut it from the left, or ask for fewer tokens",
            )
