"""Log-likelihoods of continuations: whatever contexts share is read once, and only needed positions get logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from unidetox.decoding.backbone import MAX_TOKENS
from unidetox.decoding.drawing import not_numbers
from unidetox.decoding.memory import free_bytes, in_halves
from unidetox.decoding.packing import Group, plan
from unidetox.decoding.scoring import GroupScorer, Way
from unidetox.decoding.sequences import check_sequences
from unidetox.decoding.sources import LogitSource, lm
from unidetox.decoding.ways import backbone, sampling_bytes_per_row, support, supports_cache

PACK_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens of one packed row. Each is compared with each other, mostly in vain: a longer row wastes more in attention
than it gains in matrix products."""


def encode_pair(
    tokenizer: Any, context: str, continuation: str, bos_id: int | None = None
) -> tuple[list[int], list[int]]:
    """Tokenise a context and what continues it, with the boundary where the tokens put it.

    The two are tokenised as one text, as a model meets it; a token that spans the boundary belongs to the continuation,
    which is the only side it can be predicted on. White space at the end of the context moves to the continuation.

    Args:
        tokenizer: A transformers tokenizer.
        context: What is given; may be empty if there is a BOS.
        continuation: What is scored.
        bos_id: Put before the context, if given.

    Returns:
        Token ids of context (BOS included) and continuation.
    """
    stripped = context.rstrip()
    continuation, context = context[len(stripped) :] + continuation, stripped
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    alone = tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
    shared = 0
    while shared < min(len(alone), len(whole)) and alone[shared] == whole[shared]:
        shared += 1
    start = [] if bos_id is None else [bos_id]
    return start + whole[:shared], whole[shared:]


def loglikelihood(
    source: LogitSource | Any,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Score continuations under a causal LM, or under several that a rule mixes.

    Distinct contexts are read once, and so is a long beginning that several contexts share (a few-shot prompt).

    Args:
        source: What says the next token's scores; a causal LM in eval mode stands for itself. A rule that filters
            before it samples is taken without its filter.
        contexts: Token ids before each continuation, at least one token each (BOS).
        continuations: Token ids to score; may be empty.
        batch_size: Sequences a batch, or ``auto`` by free memory; halved when memory runs out.

    Yields:
        (index, log-probabilities float32 ``[len(continuation)]``), in no particular order.

    Raises:
        UsageError: For an empty context, or a sequence too long for the model or not of its vocabulary.
        UniDetoxError: Where a single sequence does not fit into memory, or the logits are not numbers.
    """
    source = source if isinstance(source, LogitSource) else lm(source)
    check_sequences(source.models, contexts, [len(continuation) - 1 for continuation in continuations], "context")
    check_sequences(source.models, [c for c in continuations if len(c)], 0, "continuation")
    longest = max((len(c) + len(t) for c, t in zip(contexts, continuations, strict=True)), default=1)
    scorer = GroupScorer(source, _best_way(source.models, longest), [support(model) for model in source.models])
    rows = len(contexts) if batch_size == "auto" else max(1, batch_size)
    packed = scorer.way == "packed"
    todo = plan(contexts, continuations, rows, _token_budget(source.models, packed=packed), packed=packed)
    for scored in in_halves(todo, scorer.score, Group.halves):
        if any(bool(values.isnan().any()) for _, values in scored):
            raise not_numbers()
        yield from scored


def _token_budget(models: Sequence[Any], *, packed: bool) -> int:
    # Keys and values stand twice while a cache is extended, and activations take about as much again.
    token = sum(4 * sampling_bytes_per_row(model, 1) for model in models)
    device = backbone(models[0]).device
    most = (PACK_TOKENS if packed else MAX_TOKENS).get(device.type, 1024)
    return max(1, min(most, int(0.5 * free_bytes(device) / token)))


def _best_way(models: Sequence[Any], longest: int) -> Way:
    """Return the fastest way that is right for all models and sequences of so many tokens.

    Packed tokens need a mask and positions of their own, which not every architecture takes (ALiBi does not); a cache
    of padded rows leaves gaps between tokens, which do harm where a slot's number counts as a position.
    """
    known = [support(model) for model in models]
    if all(supports_cache(model, longest) for model in models):
        if all(one.packed for one in known):
            return "packed"
        if all(one.padded for one in known):
            return "cached"
    return "plain"
