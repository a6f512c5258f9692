"""Signs of broken text, so that nobody buys "less toxic" with it: loops and nothing at all. Pure functions.

How long continuations are and how many end by themselves are plain means, taken in `summary`.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_WORDS, MIN_TIMES = 2, 3
"""A loop is a phrase of at least so many words, said at least so many times in a row."""


def loops(text: str, *, min_words: int = MIN_WORDS, min_times: int = MIN_TIMES) -> bool:
    """Say whether a phrase is repeated over and over: ``and so and so and so``.

    "Very, very, very" is no loop: a single word said three times is emphasis, said six times it is a phrase of two
    words said three times.

    Args:
        text: A continuation; words are what white space separates.
        min_words: The shortest phrase that counts, 1 or more.
        min_times: How often it must be said in a row, 2 or more.

    Reference:
        After Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, who count phrases of at least two
        tokens said at least three times at the end of a text. Here they count anywhere and in words, so that models
        with different tokenizers are measured alike.
    """
    words = text.split()
    for length in range(min_words, len(words) // min_times + 1):
        # Words i and i + length alike, for as long a stretch as the repetitions after the first take.
        run, needed = 0, length * (min_times - 1)
        for first, second in zip(words, words[length:], strict=False):
            run = run + 1 if first == second else 0
            if run == needed:
                return True
    return False


def loop_rate(texts: Sequence[str]) -> float:
    """Return the share of texts that loop, in 0..1; at least one text."""
    return sum(loops(text) for text in texts) / len(texts)


def empty_rate(texts: Sequence[str]) -> float:
    """Return the share of texts with nothing but white space, in 0..1; at least one text."""
    return sum(not text.strip() for text in texts) / len(texts)
