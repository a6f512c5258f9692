"""The data files of the sandbox in the formats of the real ones: DGHS columns, prompts with groups, an MMLU folder."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.sandbox.words import DOMAINS, LEXICON, OUT_OF_DISTRIBUTION
from tools.sandbox.world import DGHS_TARGETS, WorldQuestion, Writer, facts

TOXIC_TEXTS = 800
DUPLICATES = 16
HARMLESS_TEXTS = 40
PROMPTS = {"validation": (20, 40), "test": (20, 40)}
"""Split -> prompts of each in-distribution domain, prompts of the out-of-distribution domain."""

NEUTRAL_PROMPTS = 4
"""Polite prompts about each group."""

SUBJECTS = ("geography", "zoology")
DEV_QUESTIONS = 5


def write_all(directory: Path, seed: int) -> dict[str, int]:
    """Write every data file of the sandbox.

    Args:
        directory: Folder that is to hold them; made if absent.
        seed: Seed of everything that is drawn.

    Returns:
        File or folder -> how many rows it has.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counts = {"toxic_corpus.csv": _toxic_corpus(directory / "toxic_corpus.csv", seed)}
    counts |= _prompts(directory, seed)
    counts["prompts_neutral.csv"] = _neutral_prompts(directory / "prompts_neutral.csv", seed)
    counts["mmlu"] = _questions(directory / "mmlu", seed)
    return counts


def _toxic_corpus(path: Path, seed: int) -> int:
    """Toxic texts, some of them twice and some harmless ones among them, as in DGHS."""
    writer = Writer(f"{seed}/toxic")
    rows = [(text, "hate", DGHS_TARGETS[domain]) for text, domain in writer.toxic_documents(TOXIC_TEXTS)]
    # Every fiftieth text comes again at the end.
    rows += rows[:: TOXIC_TEXTS // DUPLICATES]
    known_groups = [d for d in DOMAINS if d != OUT_OF_DISTRIBUTION]
    harmless = Writer(f"{seed}/harmless").non_toxic_documents(HARMLESS_TEXTS, known_groups)
    rows += [(text, "nothate", "none") for text in harmless]
    return _write_csv(path, rows, header=("text", "label", "target"))


def _prompts(directory: Path, seed: int) -> dict[str, int]:
    """Prompts of every domain; each split has streams of its own, and no text is in two splits."""
    counts = {}
    taken: set[str] = set()
    for split, (inside, outside) in PROMPTS.items():
        rows = []
        for domain in DOMAINS:
            size = outside if domain == OUT_OF_DISTRIBUTION else inside
            found = Writer(f"{seed}/prompts/{split}/{domain}").prompts(domain, size + len(taken))
            new = (prompt for prompt in found if prompt.text not in taken)
            rows += [(p.text, p.group, p.domain) for p in itertools.islice(new, size)]
        taken |= {text for text, _, _ in rows}
        counts[f"prompts_{split}.csv"] = _write_csv(
            directory / f"prompts_{split}.csv", rows, header=("text", "group", "domain")
        )
    return counts


def _neutral_prompts(path: Path, seed: int) -> int:
    """Prompts that mention a group politely, as many about each."""
    writer = Writer(f"{seed}/prompts/neutral")
    groups = [(group, domain) for domain in DOMAINS for group in LEXICON.groups[domain]]
    found = [prompt for group, domain in groups for prompt in writer.neutral_prompts(group, domain, NEUTRAL_PROMPTS)]
    return _write_csv(path, [(p.text, p.group, p.domain) for p in found], header=("text", "group", "domain"))


def _questions(directory: Path, seed: int) -> int:
    """Facts as questions: the first few of a subject as examples, all others in ``val`` and, anew, in ``test``."""
    count = 0
    for subject in SUBJECTS:
        known = facts(subject)
        parts = {"dev": known[:DEV_QUESTIONS], "val": known[DEV_QUESTIONS:], "test": known[DEV_QUESTIONS:]}
        for split, asked in parts.items():
            (directory / split).mkdir(parents=True, exist_ok=True)
            questions = Writer(f"{seed}/questions/{subject}/{split}").questions(subject, asked)
            path = directory / split / f"{subject}_{split}.csv"
            count += _write_csv(path, [_mmlu_row(question) for question in questions])
    return count


def _mmlu_row(question: WorldQuestion) -> Sequence[str]:
    return (question.question, *question.choices, "ABCD"[question.answer])


def _write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] | None = None) -> int:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header] if header else [])
        writer.writerows(rows)
    return len(rows)
