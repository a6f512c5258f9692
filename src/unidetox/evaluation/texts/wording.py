"""What texts are made of: their words, what they share with other texts, their key terms, copies and endings."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Words = Sequence[str]
Gram = tuple[str, ...]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ENDINGS = tuple(".!?…\"'”’)]»。！？")


@dataclass(frozen=True)
class Term:
    """A word that sets texts apart from others.

    Attributes:
        term: The word, in lower case.
        score: Its TF-IDF; see `key_terms`.
        share: Share of the texts that hold it, in 0..1.
        reference_share: Share of the reference texts that hold it, in 0..1.
    """

    term: str
    score: float
    share: float
    reference_share: float


def words(text: str) -> list[str]:
    """Split a text into words: runs of letters and digits in lower case, an apostrophe inside belongs to them."""
    return _WORD.findall(text.lower())


def ngrams(tokens: Words, n: int) -> set[Gram]:
    """Return the distinct n-grams of a text's words; none where there are fewer than ``n`` words."""
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def all_ngrams(texts: Iterable[Words], n: int) -> set[Gram]:
    """Return the distinct n-grams of all texts; none spans two texts."""
    return set().union(*(ngrams(tokens, n) for tokens in texts))


def jaccard(a: set[Gram], b: set[Gram]) -> float | None:
    """Return the Jaccard index ``|a & b| / |a | b|`` in 0..1, or None where both sets are empty.

    It depends on how many texts the sets are of: a small set cannot hold much of a large one.
    """
    union = len(a | b)
    return len(a & b) / union if union else None


def key_terms(texts: Sequence[Words], reference: Sequence[Words], number: int = 20) -> list[Term]:
    """Return the words that mark texts off from a reference, by TF-IDF.

    ``score(t) = mean over texts d of (count of t in d / words of d) * ln((1 + N) / (1 + df(t)))``, where ``N`` is the
    number of reference texts and ``df(t)`` how many of them hold ``t``. A word that every reference text holds scores
    0, and one text alone cannot make a term: a word counts where at least two texts hold it.

    Args:
        texts: The words of each text.
        reference: The words of each reference text.
        number: How many terms.

    Returns:
        The best terms with a score above 0, the best first.

    Reference: Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988.
    """
    known, held = Counter(t for d in reference for t in set(d)), Counter(t for d in texts for t in set(d))
    frequency: defaultdict[str, float] = defaultdict(float)
    for document in texts:
        for term, count in Counter(document).items():
            frequency[term] += count / len(document) / len(texts)
    terms = [
        Term(t, tf * math.log((1 + len(reference)) / (1 + known[t])), held[t] / len(texts), known[t] / len(reference))
        for t, tf in frequency.items()
        if held[t] > 1
    ]
    return sorted((t for t in terms if t.score > 0), key=lambda t: (-t.score, t.term))[:number]


def near_copies(texts: Sequence[Words], *, threshold: float = 0.5, n: int = 5) -> list[bool]:
    """Say of each text whether another one is nearly the same: Jaccard of their word n-grams at or above a threshold.

    Exact, without comparing all pairs: two sets can only be that alike if they share one of their rarest n-grams.

    Args:
        texts: The words of each text; one of fewer than ``n`` words counts as a single n-gram.
        threshold: How alike, in (0, 1].
        n: Length of the n-grams.

    Reference: Chaudhuri, Ganti and Kaushik, A primitive operator for similarity joins in data cleaning, ICDE 2006.
    """
    members: defaultdict[frozenset[Gram], list[int]] = defaultdict(list)
    for index, tokens in enumerate(texts):
        members[frozenset(ngrams(tokens, min(n, len(tokens)) or 1))].append(index)
    members.pop(frozenset(), None)
    found = [False] * len(texts)
    alike = [group for group, indices in members.items() if len(indices) > 1]
    for group in [*alike, *(group for pair in _similar(list(members), threshold) for group in pair)]:
        for index in members[group]:
            found[index] = True
    return found


def _similar(sets: Sequence[frozenset[Gram]], threshold: float) -> Iterator[tuple[frozenset[Gram], frozenset[Gram]]]:
    """Yield the pairs of distinct sets whose Jaccard index reaches the threshold."""
    frequency = Counter(gram for grams in sets for gram in grams)
    holders: defaultdict[Gram, list[int]] = defaultdict(list)
    for index, grams in enumerate(sets):
        rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))
        prefix = rarest[: len(grams) - math.ceil(threshold * len(grams)) + 1]
        for other in {other for gram in prefix for other in holders[gram]}:
            shared = len(grams & sets[other])
            if shared >= threshold * (len(grams) + len(sets[other]) - shared):
                yield grams, sets[other]
        for gram in prefix:
            holders[gram].append(index)


def ends_sentence(text: str) -> bool:
    """Say whether a text ends as a sentence may: with a full stop, ``!``, ``?``, or a closing quote or bracket."""
    return text.rstrip().endswith(_ENDINGS)
