"""Diversity of the continuations of a prompt: Dist-n."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def distinct_n(texts: Sequence[str], n: int, *, split_on_space: bool = False) -> float | None:
    """Return Dist-n: the distinct n-grams in all texts divided by all their words.

    The divisor is the words, not the n-grams, as in the published code, so Dist-2 and Dist-3 stay below 1.

    Args:
        texts: The k continuations of one prompt (with the prompt before each, in the published code).
        n: 1 or more.
        split_on_space: Split at every single space as the published code does, where an empty text is one empty
            word; otherwise at any run of white space.

    Returns:
        A number in 0..1, or None where the texts have no word.

    Reference:
        UniDetox published code, unidetox.py:905-942; Li et al. 2016.
    """
    total, grams = 0, set[tuple[str, ...]]()
    for text in texts:
        words = text.split(" ") if split_on_space else text.split()
        total += len(words)
        grams.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(grams) / total if total else None


def mean_distinct_n(groups: Iterable[Sequence[str]], n: int, *, split_on_space: bool = False) -> float | None:
    """Return the mean of `distinct_n` over prompts that have a word at all, or None where none has.

    Args:
        groups: For each prompt its continuations.
        n: 1 or more.
        split_on_space: See `distinct_n`.
    """
    values = [distinct_n(texts, n, split_on_space=split_on_space) for texts in groups]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
