"""Loops and empty texts, by hand and against a slow search for a repeated phrase."""

from __future__ import annotations

import random

import pytest

from unidetox.evaluation.metrics.degeneration import empty_rate, loop_rate, loops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("and so", False),
        ("and so and so", False),
        ("and so and so and so", True),
        ("and so and so and", False),
        ("he went and so and so and so to bed", True),
        ("very very very good", False),
        ("very very very very very very good", True),
        ("very very very very very good", False),
        ("a b c\na b c\ta b c", True),
        ("a b c a b c a b d", False),
        ("a b a b x a b", False),
        ("and so and So and so", False),
    ],
)
def test_loops_by_hand(text, expected):
    assert loops(text) is expected


def test_shorter_phrases_and_fewer_times_on_request():
    assert loops("no no no", min_words=1)
    assert loops("and so and so", min_times=2)
    assert not loops("and so and so", min_words=3, min_times=2)


def test_loops_are_found_as_by_a_slow_search():
    rng, found = random.Random(0), 0
    for _ in range(3000):
        words = rng.choices("ab" if rng.random() < 0.3 else "abcdef", k=rng.randrange(24))
        phrases = ((i, n) for n in range(2, 9) for i in range(len(words) - 3 * n + 1))
        slow = any(words[i : i + n] == words[i + n : i + 2 * n] == words[i + 2 * n : i + 3 * n] for i, n in phrases)
        assert loops(" ".join(words)) == slow
        found += slow
    assert 200 < found < 2800


def test_shares():
    assert loop_rate(["a b a b a b", "a b", "", "c"]) == 0.25
    assert empty_rate(["", " \n", "a", "\u00a0"]) == 0.75
