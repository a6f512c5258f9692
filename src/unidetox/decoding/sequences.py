"""What a model can read at all: checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unidetox.core.errors import UsageError

# What configurations call the longest context: the usual name, then those of MPT and of code that models bring along.
_LIMITS = ("max_position_embeddings", "max_seq_len", "n_positions", "n_ctx")


def max_positions(source: Any) -> int | None:
    """Return the longest context of a model in tokens, or None where it sets no limit.

    Args:
        source: Its configuration; of a model with other parts (images, sound), that of its text model counts. Or the
            model itself: where it numbers positions from behind the padding's index on, as RoBERTa does, as many of
            them hold no token, which is known by its table of positions alone.
    """
    config = getattr(source, "config", source)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = (getattr(config, name, None) for name in _LIMITS)
    longest = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    tables = [_behind_padding(*named) for named in source.named_modules()] if hasattr(source, "named_modules") else []
    return min((limit for limit in [longest, *tables] if limit), default=None)


def _behind_padding(name: str, module: Any) -> int | None:
    """Return how many rows of a table of positions stand behind that of the padding; None of any other module."""
    padding, weight = getattr(module, "padding_idx", None), getattr(module, "weight", None)
    if padding is None or weight is None or "position" not in name.rpartition(".")[2]:
        return None
    return int(weight.shape[0]) - 1 - int(padding)


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
    limit = min((n for model in models if (n := max_positions(model))), default=None)
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
