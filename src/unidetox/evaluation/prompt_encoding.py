"""How a prompt and what follows it become tokens: special tokens, boundaries and the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unidetox.core.errors import UsageError

if TYPE_CHECKING:
    from unidetox.models import LM


@dataclass(frozen=True)
class Pair:
    """A context and its continuation as tokens that fit the model.

    Attributes:
        context: One token or more, where there is a continuation.
        continuation: Empty where there is none, or where it alone is longer than the model's context.
        cut: Whether tokens were lost to fit.
    """

    context: list[int]
    continuation: list[int]
    cut: bool = False


def default_bos(lm: LM) -> int | None:
    """Return the begin-of-sequence token if the tokenizer puts it before a text by itself, else None.

    LLaMA's and OPT's do, GPT-2's and Falcon's do not; the published evaluation relies on it
    (a ``text-generation`` pipeline and ``tokenizer.encode``).
    """
    bos = lm.tokenizer.bos_token_id
    return bos if bos is not None and lm.tokenizer("a", verbose=False)["input_ids"][:1] == [bos] else None


def beginning(lm: LM) -> list[int]:
    """Return the tokens that a model reads before every prompt: BOS where it is usual, and its prefix if it has one."""
    bos = default_bos(lm)
    ids = [] if bos is None else [bos]
    if lm.prefix:
        ids += lm.tokenizer(lm.prefix, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def shared_tokens(lm: LM) -> int:
    """Return how many tokens all prompts of a model begin with alike, where that is worth reading once."""
    return len(beginning(lm)) if lm.prefix else 0


def encode_prompt(lm: LM, prompt: str, room: int) -> tuple[list[int], bool]:
    """Encode a prompt as the tokenizer does by default, but never with an end-of-sequence token after it.

    Args:
        lm: The model that will continue the prompt.
        prompt: Any text; where it has no token, the model's BOS stands for it.
        room: How many tokens the continuation may need; a prompt that leaves less is cut on the left, keeping BOS and
            the model's prefix.

    Returns:
        One token or more, and whether the prompt was cut.

    Raises:
        UsageError: If the model's context has no room at all, or the prompt has no token and the model no BOS.
    """
    head = beginning(lm)
    ids = [*head, *lm.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]]
    return _fit(lm, _not_empty(lm, ids), room, head)


def encode_pairs(lm: LM, contexts: Sequence[str], continuations: Sequence[str]) -> list[Pair]:
    """Encode contexts and continuations together, so that a token at their boundary is as the model would see it.

    Args:
        lm: The model that will score the continuations.
        contexts: ``[n]`` texts.
        continuations: ``[n]`` texts.

    Returns:
        ``[n]`` pairs that fit the model's context; contexts are cut on the left.
    """
    from unidetox.decoding.likelihood import encode_pair
    from unidetox.decoding.sequences import max_positions

    head, limit = beginning(lm), max_positions(lm.model.config)
    pairs = []
    for context, continuation in zip(contexts, continuations, strict=True):
        if not continuation:
            pairs.append(Pair([], []))
            continue
        before, after = encode_pair(lm.tokenizer, context, continuation)
        if limit is not None and len(after) > limit:
            pairs.append(Pair([], [], cut=True))
            continue
        # The last token is never read, only predicted, so it needs no position.
        kept, cut = _fit(lm, _not_empty(lm, [*head, *before]), max(len(after) - 1, 0), head)
        pairs.append(Pair(kept, after, cut))
    return pairs


def start_of(lm: LM) -> list[int]:
    """Return what a model reads where there is no prompt.

    That is what stands before every prompt, else the token that a text begins with or, where there is none, the one
    between two texts.
    """
    from unidetox.models import bos_id, pad_id

    start = bos_id(lm.tokenizer, lm.model.config)
    return beginning(lm) or [pad_id(lm.tokenizer, lm.model.config) if start is None else start]


def check_room(name: str, limit: int | None, room: int) -> None:
    """See that a model can read one token of a prompt and ``room`` new ones.

    Args:
        name: What to call the model.
        limit: How many tokens it reads, None for any number.
        room: How many new tokens it must read.

    Raises:
        UsageError: If it cannot.
    """
    if limit is not None and limit <= room:
        raise UsageError(
            f"{name} reads {limit} tokens, which leaves no room for a prompt and {room} new ones",
            hint=f"use --max-new-tokens {max(limit // 2, 1)} or less",
        )


def _not_empty(lm: LM, ids: list[int]) -> list[int]:
    from unidetox.models import bos_id

    if ids:
        return ids
    start = bos_id(lm.tokenizer, lm.model.config)
    if start is None:
        raise UsageError(f"a prompt has no token for {lm.name}, which has no BOS", hint="leave empty prompts out")
    return [start]


def _fit(lm: LM, ids: list[int], room: int, head: list[int]) -> tuple[list[int], bool]:
    """Cut tokens on the left until there is room; what the model reads before every prompt stays, where it can."""
    from unidetox.decoding.sequences import max_positions

    limit = max_positions(lm.model.config)
    if limit is None or len(ids) + room <= limit:
        return ids, False
    check_room(lm.name, limit, room + (len(head) if lm.prefix else 0))
    keep = limit - room
    if head and keep > len(head):
        return [*head, *ids[len(ids) - keep + len(head) :]], True
    return ids[-keep:], True
