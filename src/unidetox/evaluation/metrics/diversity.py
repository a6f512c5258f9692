"""Diversity of the continuations of a prompt: Dist-n."""

from __future__ import annotations

from collections.abc import Sequence


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
