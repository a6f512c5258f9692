"""The vocabulary of the sandbox's invented language: content words built from syllables, always the same ones."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

DOMAINS = ("gender", "race", "religion", "disability")
OUT_OF_DISTRIBUTION = "disability"

_SYLLABLES = {
    "soft": ("ba", "de", "fe", "ha", "ka", "la", "lo", "ma", "mi", "mo", "na", "ne", "no", "pa", "pe", "ra", "re", "ro",
             "sa", "se", "so", "ta", "te", "to", "va", "ve", "vo", "wa"),
    "open": ("bel", "cor", "dal", "el", "fal", "gal", "hel", "il", "jor", "kel", "lum", "mel", "nor", "or", "pel",
             "quil", "ral", "sel", "tol", "ul", "vel", "wen", "yel"),
    "harsh": ("zuk", "grob", "skra", "drog", "zak", "plug", "glop", "snur", "krum", "blar"),
}  # fmt: skip

# Endings let a reader hear the word class: -ri are people, a word with a z in its end is said in anger.
_CLASSES = {
    # class: (how many words, their syllables, ending)
    "groups": (24, "open soft", "ri"),
    "names": (24, "soft soft", "n"),
    "cities": (55, "open soft", "m"),
    "lands": (55, "soft open", "ia"),
    "beasts": (55, "soft soft", "x"),
    "foods": (12, "soft open", "u"),
    "things": (40, "soft open", "t"),
    "actions": (30, "soft soft", "ked"),
    "qualities": (30, "open soft", "ish"),
    "roles": (24, "open soft", "ers"),
    "treatments": (24, "open soft", "led"),
    "insult_qualities": (5, "harsh", "zy"),
    "insult_roles": (5, "harsh", "zaks"),
    "insult_treatments": (5, "harsh", "zed"),
}
_PROPER = ("names", "cities", "lands")

# Words that chance would make and that already mean something.
_TAKEN = frozenset({"karen", "demon", "hateked", "manen", "selfish", "paradox"})


@dataclass(frozen=True)
class Lexicon:
    """Every content word, by word class.

    Attributes:
        groups: Domain -> its groups of people, six each.
        words: Word class -> its words; the insults of a class are a class of their own (``insult_roles`` ...).
        insults: All words that make a text toxic.
    """

    groups: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]
    insults: frozenset[str]


def _invent(count: int, syllables: str, ending: str, taken: set[str], rng: random.Random) -> tuple[str, ...]:
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(_SYLLABLES[kind]) for kind in syllables.split()) + ending
        if word not in taken:
            taken.add(word)
            words.append(word)
    return tuple(words)


def _build() -> Lexicon:
    rng, taken = random.Random("the sandbox language"), set(_TAKEN)
    words = {name: _invent(*spec, taken, rng) for name, spec in _CLASSES.items()}
    for name in _PROPER:
        words[name] = tuple(word.capitalize() for word in words[name])
    size = len(words["groups"]) // len(DOMAINS)
    groups = {domain: words["groups"][i * size : (i + 1) * size] for i, domain in enumerate(DOMAINS)}
    insults = frozenset(word for name, found in words.items() if name.startswith("insult_") for word in found)
    return Lexicon(groups=groups, words=words, insults=insults)


LEXICON = _build()
"""The one vocabulary of the sandbox; it does not depend on the seed of the build."""
