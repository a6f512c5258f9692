"""Which continuations are scored together: those of one context, contexts with one beginning, and like lengths."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

MIN_SHARED = 16


@dataclass
class Member:
    """One distinct context and continuations that follow it, each with its number."""

    context: Sequence[int]
    targets: list[tuple[int, Sequence[int]]]

    @property
    def longest(self) -> int:
        """Length of the longest continuation."""
        return max(len(target) for _, target in self.targets)


@dataclass
class Group:
    """Contexts that are scored together; all begin with the same ``shared`` tokens (perhaps none)."""

    shared: int
    members: list[Member]

    def halves(self) -> list[Group]:
        """Split the work in two; one continuation alone cannot be split."""
        units = [(member.context, target) for member in self.members for target in member.targets]
        middle = len(units) // 2
        parts = (part for part in (units[:middle], units[middle:]) if part)
        return [Group(self.shared, _by_context((c, [target]) for c, target in part)) for part in parts]


Size = Callable[[list[Member], int], int]
"""Members of a batch and the length of their common beginning -> tokens that the batch takes."""


def plan(
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    rows: int,
    tokens: int,
    *,
    packed: bool = False,
) -> list[Group]:
    """Gather continuations by context, contexts by common beginning, and cut both into batches.

    Args:
        contexts: Token ids before each continuation.
        continuations: Token ids to score.
        rows: At most this many continuations a batch.
        tokens: At most this many tokens, padding included, a batch (one continuation is always taken).
        packed: Nothing will be padded or copied, so that only the tokens themselves count.
    """
    size = _packed if packed else _padded
    triples = zip(contexts, enumerate(continuations), strict=True)
    members = _by_context((context, [target]) for context, target in triples)
    clusters: list[list[Member]] = []
    shared: list[int] = []
    for member in sorted(members, key=lambda member: tuple(member.context)):
        common = _common(clusters[-1][0].context, member.context) if clusters else 0
        common = min(common, shared[-1]) if clusters and len(clusters[-1]) > 1 else common
        if common >= max(MIN_SHARED, len(member.context) // 2):
            clusters[-1].append(member)
            shared[-1] = common
        else:
            clusters.append([member])
            shared.append(0)
    lonely = [cluster[0] for cluster in clusters if len(cluster) == 1]
    crowds = [(s, cluster) for s, cluster in zip(shared, clusters, strict=True) if len(cluster) > 1]
    return [Group(s, part) for s, crowd in [*crowds, (0, lonely)] for part in _cut(crowd, s, rows, tokens, size)]


def _by_context(pairs: Iterable[tuple[Sequence[int], list[tuple[int, Sequence[int]]]]]) -> list[Member]:
    members: dict[tuple[int, ...], Member] = {}
    for context, targets in pairs:
        members.setdefault(tuple(context), Member(context, [])).targets.extend(targets)
    return list(members.values())


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning, at least one token of each left over."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)


def _cut(members: list[Member], shared: int, rows: int, tokens: int, size: Size) -> Iterator[list[Member]]:
    """Cut contexts into batches, those of like length together."""
    part: list[Member] = []
    pieces = [piece for member in members for piece in _pieces(member, shared, rows, tokens, size)]
    for piece in sorted(pieces, key=lambda piece: (len(piece.context), piece.longest)):
        more = [*part, piece]
        if part and (sum(len(m.targets) for m in more) > rows or size(more, shared) > tokens):
            yield part
            more = [piece]
        part = more
    if part:
        yield part


def _pieces(member: Member, shared: int, rows: int, tokens: int, size: Size) -> Iterator[Member]:
    """Cut the continuations of one context where they are too many for a batch."""
    targets = sorted(member.targets, key=lambda target: -len(target[1]))
    while targets:
        counts = range(1, min(rows, len(targets)) + 1)
        fit = bisect_right(counts, tokens, key=lambda n: size([Member(member.context, targets[:n])], shared))
        count = max(1, fit)
        yield Member(member.context, targets[:count])
        targets = targets[count:]


def _padded(members: list[Member], shared: int) -> int:
    """Tokens that a batch keeps at its largest: contexts, and continuations behind copies of their contexts."""
    context = max(len(member.context) for member in members)
    long = [len(target) for member in members for _, target in member.targets if len(target) > 1]
    return len(members) * (context - shared) + len(long) * (context + max(long, default=0))


def _packed(members: list[Member], shared: int) -> int:
    """Tokens of a packed row: what follows the common beginning, and continuations without their last tokens."""
    targets = sum(max(0, len(target) - 1) for member in members for _, target in member.targets)
    return targets + sum(len(member.context) - shared for member in members)
