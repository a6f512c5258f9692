"""Perturbed prompts: what each perturbation does, and that it is seeded."""

from __future__ import annotations

import random

import pytest

from unidetox.core.errors import UsageError
from unidetox.evaluation.metrics.perturbations import ABOUT, FRAMES, NAMES, perturb

TEXT = "Whatever the weather, women and men like to ride along the river"
EXAMPLES = [f"zorps are {word}." for word in ("snurzy", "blarzed", "krumzaks", "zukzy")]
# What could clash: look-alikes, digits, letters that grow when their case changes, joined marks, no letters at all.
ALPHABET = [
    *"aAbeEiIoOsStTlLzZ 0134578 \t\n.,!?\"'{}",
    "ß",
    "İ",
    "ŉ",
    "ﬁ",
    "é",
    "e\u0301",
    "а",
    "Ж",
    "中",
    "👩‍👧",
    "\u200b",
    "x" * 5,
]


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return ["", " ", "a", "\n", *("".join(rng.choices(ALPHABET, k=rng.randrange(60))) for _ in range(count))]


@pytest.mark.parametrize("name", NAMES)
def test_a_perturbation_takes_any_text(name):
    texts = random_texts(2000)
    changed = sum(perturb(name, text, str(i), seed=i % 3, examples=EXAMPLES) != text for i, text in enumerate(texts))
    assert changed > 500


@pytest.mark.parametrize("name", NAMES)
def test_id_seed_and_name_decide(name):
    def texts(**options):
        return [perturb(name, TEXT, str(i), examples=EXAMPLES, **options) for i in range(30)]

    assert texts() == texts(seed=0) != texts(seed=1)
    assert len(set(texts())) > 3
    assert TEXT not in texts() or name in ("swaps", "spacing")


def test_swaps_keep_the_first_and_last_letter_of_a_word():
    texts = [perturb("swaps", TEXT, str(i)) for i in range(50)]
    words = [pair for text in texts for pair in zip(TEXT.split(), text.split(), strict=True)]
    assert all(sorted(a) == sorted(b) and a[0] == b[0] and a.rstrip(",")[-1] == b.rstrip(",")[-1] for a, b in words)
    assert all(a == b for a, b in words if len(a.rstrip(",")) < 4)
    assert 0.35 < sum(a != b for a, b in words) / sum(len(a) > 3 for a, _ in words) < 0.65


def test_letters_become_digits_or_their_doubles():
    leet = "".join(perturb("leetspeak", "aeiostbglz AEIOSTBGLZ kn7", str(i)) for i in range(50))
    assert set(leet) == set("aeiostbglzAEIOSTBGLZ43105786 12kn")
    doubles = perturb("homoglyphs", "peace" * 20, "1")
    assert {"а", "с", "е", "р"} < set(doubles) and not set(doubles) & set("0123456789")
    assert perturb("homoglyphs", "kn 42 zzz", "1") == "kn 42 zzz"


def test_spacing_and_casing_leave_the_letters():
    for number in range(30):
        spaced = perturb("spacing", TEXT, str(number))
        assert spaced.replace(" ", "") == TEXT.replace(" ", "")
        assert perturb("casing", TEXT, str(number)).lower() == TEXT.lower()
    assert perturb("casing", "ß", "0") in ("ß", "SS")


def test_toxic_texts_stand_before_the_prompt_one_a_line_and_never_the_prompt_itself():
    for number in range(30):
        *shots, prompt = perturb("few_shot", EXAMPLES[0], str(number), examples=EXAMPLES).split("\n")
        assert prompt == EXAMPLES[0]
        assert sorted(shots) == sorted(EXAMPLES[1:])
    assert perturb("few_shot", "so", "0", examples=["a\n\tb", "  "]) == "a b\nso"


def test_a_paraphrase_only_puts_a_frame_before():
    texts = {perturb("paraphrase", TEXT, str(i)) for i in range(200)}
    assert texts == {frame + TEXT for frame in FRAMES}


def test_mistakes_of_a_user():
    with pytest.raises(UsageError, match="unknown perturbation 'leet'"):
        perturb("leet", TEXT, "0")
    for examples in ((), ("", " "), (TEXT,)):
        with pytest.raises(UsageError, match="needs toxic texts"):
            perturb("few_shot", TEXT, "0", examples=examples)
    assert set(ABOUT) == set(NAMES)
