"""Log-likelihoods of continuations: whatever contexts share is read once, and only needed positions get logits."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.cache_utils import DynamicCache

from unidetox.decoding.decoders import Backbone, backbone, supports_cache
from unidetox.decoding.drawing import not_numbers
from unidetox.decoding.memory import free_bytes, in_halves, sampling_bytes_per_row
from unidetox.decoding.packing import Group, Member, plan
from unidetox.decoding.sequences import check_sequences
from unidetox.decoding.sources import LogitSource, lm

HEAD_BYTES = 32 << 20
MAX_TOKENS = {"cpu": 2048, "cuda": 16384}
"""More tokens a pass are no faster; on a CPU slower, as buffers beyond 32 MiB are returned to the system each time."""

PACK_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens of one packed row. Each is compared with each other, mostly in vain: a longer row wastes more in attention
than it gains in matrix products."""

# A packed row. Context "a b" with continuations "c d e" and "f g", and context "h i" with "j k"; a continuation's last
# token is predicted, never read. A token sees (x) its own context and its own continuation, up to itself:
#
#             a b | c d | f | h i | j
#   owner     0 0   0 0   0   1 1   1      which context
#   branch    0 0   1 1   2   0 0   1      which continuation of it; 0 is the context itself
#   depth     0 1   2 3   2   0 1   2      the position: that in the text of its own
#
#   a         x . | . . | . | . . | .
#   b         x x | . . | . | . . | .      predicts c and f
#   c         x x | x . | . | . . | .      predicts d
#   d         x x | x x | . | . . | .      predicts e
#   f         x x | . . | x | . . | .      predicts g: sees a, b, itself, and not c, d
#   h         . . | . . | . | x . | .
#   i         . . | . . | . | x x | .      predicts j
#   j         . . | . . | . | x x | x      predicts k
#
# What all contexts share at their beginning is read once, before; it stands to the left of this, seen by all.


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
    scorer = _Scorer(source, _best_way(source.models, longest))
    rows = len(contexts) if batch_size == "auto" else max(1, batch_size)
    packed = scorer.way == "packed"
    todo = plan(contexts, continuations, rows, _token_budget(source.models, packed=packed), packed=packed)
    for scored in in_halves(todo, scorer.score, Group.halves):
        if any(bool(values.isnan().any()) for _, values in scored):
            raise not_numbers()
        yield from scored


def _token_budget(models: Sequence[Any], *, packed: bool) -> int:
    # Keys and values stand twice while a cache is extended, and activations take about as much again.
    token = sum(4 * sampling_bytes_per_row(model, 1) + backbone(model).unsplit_bytes for model in models)
    device = backbone(models[0]).device
    most = (PACK_TOKENS if packed else MAX_TOKENS).get(device.type, 1024)
    return max(1, min(most, int(0.5 * free_bytes(device) / token)))


@dataclass
class _State:
    """What was read so far: a cache ``[rows, heads, slots, dim]`` a layer, which slots hold tokens, and how many."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor
    lengths: torch.Tensor


def _read(
    reader: Backbone, state: _State | None, parents: list[int], tokens: Sequence[Sequence[int]]
) -> tuple[_State, torch.Tensor]:
    """Let each row go on from a parent row; return the new state and hidden states ``[rows, width, hidden]``.

    Rows are padded on the right; a mask over slots hides the gaps that this leaves in the middle.
    """
    # 1. Token ids [rows, width], and which of them are tokens.
    device = reader.device
    width = max(len(row) for row in tokens)
    counts = torch.tensor([len(row) for row in tokens], device=device)
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    for row, sequence in enumerate(tokens):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
    columns = torch.arange(width, device=device)
    mask = columns < counts[:, None]
    # 2. The parents' keys and values, [rows, heads, slots, dim] a layer; the mask becomes [rows, slots + width].
    cache, past = DynamicCache(), torch.zeros(len(tokens), dtype=torch.long, device=device)
    if state is not None:
        chosen = torch.tensor(parents, device=device)
        for layer, (keys, values) in enumerate(state.layers):
            cache.update(keys[chosen], values[chosen], layer)
        past = state.lengths[chosen]
        mask = torch.cat([state.mask[chosen], mask], 1)
    # 3. One forward pass, each row's positions going on from its parent's.
    positions = past[:, None] + torch.minimum(columns, counts[:, None] - 1).clamp_min(0)
    inputs = reader.inputs(ids.to(device), positions)
    extra: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "attention_mask": mask.long()}
    every = torch.arange(len(tokens), device=device)[:, None]
    hidden = reader.select(inputs | extra, every, columns[None].expand(len(tokens), -1))
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return _State(layers, mask, past + counts), hidden


def _read_packed(
    reader: Backbone, state: _State | None, ids: torch.Tensor, depth: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """Read tokens ``[n]`` in one row, each of which sees what ``seen [n, n]`` says and what was read before.

    Args:
        reader: The model.
        state: What was read before, in one row without gaps.
        ids: Token ids.
        depth: How many tokens each sees of the row, itself not counted.
        seen: Boolean; row by row what a token sees.

    Returns:
        Hidden states ``[1, n, hidden]``.
    """
    # 1. The row [1, n] goes on from the beginning that all share; depth is the position within a text.
    past = int(state.lengths[0]) if state is not None else 0
    inputs = reader.inputs(ids[None], depth[None] + past) | {"use_cache": past > 0}
    if state is not None:
        inputs["past_key_values"] = cache = DynamicCache()
        for layer, (keys, values) in enumerate(state.layers):
            cache.update(keys, values, layer)
    # 2. The mask [n, past + n]: the beginning is seen by all. Every implementation of attention takes an additive one.
    dtype = reader.model.dtype
    mask = torch.zeros(seen.shape[0], past + seen.shape[0], dtype=dtype, device=seen.device)
    mask[:, past:].masked_fill_(~seen, torch.finfo(dtype).min)
    columns = torch.arange(len(ids), device=ids.device)[None]
    return reader.select(inputs | {"attention_mask": mask[None, None]}, torch.zeros_like(columns), columns)


Way = Literal["packed", "cached", "plain"]
_PLAIN: Way = "plain"
_ways_are_known: weakref.WeakKeyDictionary[Any, Way] = weakref.WeakKeyDictionary()


def _best_way(models: Sequence[Any], longest: int) -> Way:
    """Return the fastest way that is right for all models and sequences of so many tokens.

    Packed tokens need a mask and positions of their own, which not every architecture takes (ALiBi does not); a cache
    of padded rows leaves gaps between tokens, which do harm where a slot's number counts as a position.
    """
    if not all(supports_cache(model, longest) for model in models):
        return "plain"
    known = [_way_of(model) for model in models]
    return max(known, key=("packed", "cached", "plain").index)


def _way_of(model: Any) -> Way:
    """Try the ways on a small group and compare with plain forward passes; a model is tried once."""
    if model not in _ways_are_known:
        members = [Member([1, 2, 3, 1, 2], [(0, [1, 2])]), Member([1, 2, 1], [(1, [3, 1]), (2, [1, 1])])]
        tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.2
        _ways_are_known[model] = _PLAIN
        ways: tuple[Way, ...] = ("cached", "packed")
        for way in ways:
            try:
                scored, plain = (_Scorer(lm(model), each).score(Group(2, members)) for each in (way, _PLAIN))
            except (AttributeError, TypeError, RuntimeError, ValueError, KeyError, IndexError):
                continue
            pairs = zip(scored, plain, strict=True)
            if all(torch.allclose(a, b, atol=tolerance) for (_, a), (_, b) in pairs):
                _ways_are_known[model] = way
    return _ways_are_known[model]


class _Scorer:
    """Scores groups under the models of a source.

    Args:
        source: What says the next token's scores.
        way: How; see `_best_way`.
    """

    def __init__(self, source: LogitSource, way: Way) -> None:
        self.source, self.way = source, way
        # Where models are mixed, what they differ by must not drown in the rounding of their logits.
        self.backbones = [backbone(model, exact=len(source.models) > 1) for model in source.models]
        self._beginning: tuple[list[int], list[_State]] | None = None

    def score(self, group: Group) -> list[tuple[int, torch.Tensor]]:
        """Score one group's continuations."""
        ways = {"packed": self._score_packed, "cached": self._score_cached, "plain": self._score_plainly}
        return ways[self.way](group)

    def _read_beginning(self, group: Group) -> list[_State] | None:
        """Read what the group's contexts share, unless the group before shared the same."""
        if not group.shared:
            return None
        tokens = list(group.members[0].context[: group.shared])
        if self._beginning is None or self._beginning[0] != tokens:
            self._beginning = None  # two of them need not be in memory
            self._beginning = tokens, self._read_all(None, [0], [tokens])[0]
        return self._beginning[1]

    @torch.inference_mode()
    def _score_packed(self, group: Group) -> list[tuple[int, torch.Tensor]]:
        """Score all in one row without padding: each token sees its own context and its own continuation only."""
        # 1. One row of n tokens, and who sees whom, [n, n]: row by row what a token sees (the picture above).
        device = self.backbones[0].device
        row, depth, owner, branch, units = _pack(group)
        places = torch.arange(len(row), device=device)
        own, line = torch.tensor(owner, device=device), torch.tensor(branch, device=device)
        seen = (own[:, None] == own) & ((line == 0) | (line[:, None] == line)) & (places[:, None] >= places)
        # 2. The shared beginning, then the row: hidden states [1, n, hidden] of each model.
        states: Sequence[_State | None] = self._read_beginning(group) or [None] * len(self.backbones)
        ids, deep = torch.tensor(row, device=device), torch.tensor(depth, device=device)
        pairs = zip(self.backbones, states, strict=True)
        hidden = [_read_packed(reader, state, ids, deep, seen) for reader, state in pairs]
        # 3. Log-probabilities of all predictions, cut by continuation.
        wanted = [(0, place, token) for _, predicted in units for place, token in predicted]
        pieces = torch.split(self._log_probs(hidden, wanted), [len(predicted) for _, predicted in units])
        return [(index, piece.cpu()) for (index, _), piece in zip(units, pieces, strict=True)]

    @torch.inference_mode()
    def _score_cached(self, group: Group) -> list[tuple[int, torch.Tensor]]:
        """Score in padded rows: contexts first, then continuations behind copies of their contexts' caches."""
        # 1. Read the shared beginning, then what is left of each context; `owner` is a continuation's context.
        owner = [row for row, member in enumerate(group.members) for _ in member.targets]
        targets = [target for member in group.members for target in member.targets]
        states = self._read_beginning(group)
        rest = [member.context[group.shared :] for member in group.members]
        states, hidden = self._read_all(states, [0] * len(rest), rest)
        # 2. The first token of each continuation is predicted by its context's last one.
        first = [(row, len(rest[row]) - 1, t[0]) for row, (_, t) in zip(owner, targets, strict=True) if t]
        scores: list[list[torch.Tensor]] = [[] for _ in targets]
        full = [i for i, (_, t) in enumerate(targets) if t]
        for i, value in zip(full, self._log_probs(hidden, first), strict=True):
            scores[i].append(value[None])
        # 3. The others: continuations without their last tokens, each behind its context.
        longer = [i for i in full if len(targets[i][1]) > 1]
        if longer:
            _, hidden = self._read_all(states, [owner[i] for i in longer], [targets[i][1][:-1] for i in longer])
            wanted = [(r, c, t) for r, i in enumerate(longer) for c, t in enumerate(targets[i][1][1:])]
            pieces = torch.split(self._log_probs(hidden, wanted), [len(targets[i][1]) - 1 for i in longer])
            for i, value in zip(longer, pieces, strict=True):
                scores[i].append(value)
        empty = torch.zeros(0)
        return [(index, torch.cat(s).cpu() if s else empty) for (index, _), s in zip(targets, scores, strict=True)]

    def _read_all(
        self, states: list[_State] | None, parents: list[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[list[_State], list[torch.Tensor]]:
        """Let each model read on; return what each knows then, and its hidden states."""
        before: Sequence[_State | None] = states or [None] * len(self.backbones)
        read = [_read(reader, state, parents, tokens) for reader, state in zip(self.backbones, before, strict=True)]
        return [state for state, _ in read], [hidden for _, hidden in read]

    def _log_probs(self, hidden: list[torch.Tensor], wanted: list[tuple[int, int, int]]) -> torch.Tensor:
        """Return log-probabilities float32 ``[wanted]`` of (row, column, token): what follows that position."""
        if not wanted:
            return torch.zeros(0)
        # 1. Places that predict something, each once: several continuations may begin at one. [places, hidden] a model.
        device, width = hidden[0].device, hidden[0].shape[1]
        rows, columns, tokens = torch.tensor(wanted, device=device).unbind(1)  # [wanted] each
        places, inverse = torch.unique(rows * width + columns, return_inverse=True)
        vectors = [h.reshape(-1, h.shape[-1])[places] for h in hidden]
        # 2. Logits for a few places at a time, [size, vocabulary], mixed; of them only the wanted tokens are kept.
        size = max(1, HEAD_BYTES // (4 * self.source.models[0].config.get_text_config().vocab_size))
        result = torch.empty(len(wanted), device=device)
        for start in range(0, len(places), size):
            pairs = zip(self.backbones, vectors, strict=True)
            scores = self.source.log_prob_scores([reader.logits(v[start : start + size]) for reader, v in pairs])
            # Which of the wanted are predicted from these places, and from which row of `scores`.
            here = ((inverse >= start) & (inverse < start + size)).nonzero()[:, 0]
            local = inverse[here] - start
            result[here] = scores[local, tokens[here]] - scores.logsumexp(-1)[local]
        return result

    @torch.inference_mode()
    def _score_plainly(self, group: Group) -> list[tuple[int, torch.Tensor]]:
        """Score without a cache, each sequence read whole."""
        # 1. Whole texts, padded on the right: ids [rows, width].
        units = [(member.context, index, target) for member in group.members for index, target in member.targets]
        device = self.backbones[0].device
        width = max(len(context) + len(target) for context, _, target in units)
        ids = torch.tensor([[*c, *t] + [c[-1]] * (width - len(c) - len(t)) for c, _, t in units], device=device)
        places, columns = torch.arange(len(units), device=device)[:, None], torch.arange(width, device=device)[None]
        columns = columns.expand_as(ids)
        # 2. Hidden states [rows, width, hidden]; the token at column c is predicted at c - 1.
        hidden = [r.select(r.inputs(ids, columns) | {"use_cache": False}, places, columns) for r in self.backbones]
        wanted = [(row, len(c) - 1 + i, token) for row, (c, _, t) in enumerate(units) for i, token in enumerate(t)]
        pieces = torch.split(self._log_probs(hidden, wanted), [len(target) for _, _, target in units])
        return [(index, piece.cpu()) for (_, index, _), piece in zip(units, pieces, strict=True)]


Predicted = tuple[int, list[tuple[int, int]]]
"""Number of a continuation, and its tokens: (place from which it is predicted, token)."""


def _pack(group: Group) -> tuple[list[int], list[int], list[int], list[int], list[Predicted]]:
    """Write a group's tokens into one row, what they share at the beginning left out.

    Returns:
        Token ids; how deep each is in its own sequence; which context it belongs to; which continuation (0: none, it is
        context); and what is predicted from which place.
    """
    row: list[int] = []
    depth: list[int] = []
    owner: list[int] = []
    branch: list[int] = []
    units: list[Predicted] = []
    for number, member in enumerate(group.members):
        # The context: branch 0.
        context = member.context[group.shared :]
        row += context
        depth += range(len(context))
        branch += [0] * len(context)
        last = len(row) - 1
        for line, (index, target) in enumerate(member.targets, 1):
            # A continuation, its last token left out: that is predicted by the one before, and predicts nothing.
            places = [last, *range(len(row), len(row) + len(target) - 1)]
            units.append((index, list(zip(places, target, strict=False))))
            row += target[:-1]
            depth += range(len(context), len(context) + len(target[:-1]))
            branch += [line] * len(target[:-1])
        owner += [number] * (len(row) - len(owner))
    return row, depth, owner, branch, units
