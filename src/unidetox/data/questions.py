"""Multiple-choice questions: MMLU in the folder layout of the benchmark, or from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import hash_of
from unidetox.core.resolve import at_revision, is_local
from unidetox.data.files import check_count, say_once
from unidetox.data.formats import csv_rows, decode, read_bytes
from unidetox.data.hub_datasets import ALIASES, known_id, load_hub_table

MMLU_ID = ALIASES["mmlu"]
_LETTERS = "ABCD"
_SPLITS = {"dev": "dev", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Attributes:
        subject: E.g. ``"abstract_algebra"``.
        question: Its text.
        choices: The answers to choose from, in order.
        answer: Which of them is right, from 0.
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class QuestionSet:
    """Questions of one split with the examples for few-shot prompts.

    Attributes:
        questions: By subject in alphabetical order, as in the files.
        dev: Subject -> its examples; empty where the source has no dev split.
        source: What the user typed.
        sha256: Hash of questions and examples.
    """

    questions: tuple[Question, ...]
    dev: dict[str, tuple[Question, ...]]
    source: str
    sha256: str


def load_questions(source: str, *, split: str = "val", limit: int | None = None) -> QuestionSet:
    """Load MMLU questions.

    Args:
        source: A folder with ``dev/``, ``val/``, ``test/`` that hold ``SUBJECT_dev.csv`` and so on,
            without header: question, four choices, letter. Or ``"mmlu"``, or a Hub id like ``cais/mmlu``.
        split: ``val`` (the paper's), ``test`` or ``dev``.
        limit: Take this many questions, evenly spread over the subjects.

    Returns:
        The questions and, for few-shot prompts, the examples of each subject.

    Raises:
        MissingError: No such folder, split or data set.
        UsageError: A file that is not as described, with its line.
    """
    check_count(limit, "limit")
    if split not in _SPLITS:
        raise UsageError(f"unknown MMLU split '{split}'", hint="choose one of val, test, dev")
    split = _SPLITS[split]
    name = at_revision(*known_id(source))
    if is_local(name):
        questions, examples = _from_folder(name, split)
    else:
        questions, examples = _from_hub(name, split), _from_hub(name, "dev")
    total = len(questions)
    if limit is not None and limit < total:
        questions = [questions[index * total // limit] for index in range(limit)]
    subjects = dict.fromkeys(example.subject for example in examples)
    dev = {subject: tuple(example for example in examples if example.subject == subject) for subject in subjects}
    left_out = f"; left out: {total - len(questions):,} over limit" if len(questions) < total else ""
    say_once(f"{source}: {len(questions):,} questions in {len({q.subject for q in questions})} subjects{left_out}")
    rows = [asdict(question) for question in (*questions, *examples)]
    return QuestionSet(tuple(questions), dev, source, hash_of([len(questions), rows]))


def _from_folder(source: str, split: str) -> tuple[list[Question], list[Question]]:
    folder = Path(source).expanduser()
    if not folder.exists():
        raise MissingError(f"{source}: no such folder", hint="give a folder with dev/, val/ and test/, or 'mmlu'")
    if not folder.is_dir():
        raise UsageError(f"{source} is a file", hint="give a folder with dev/, val/ and test/ (SUBJECT_val.csv ...)")
    questions = _read_split(folder, split)
    if not questions:
        hint = f"expected {folder / split}/SUBJECT_{split}.csv"
        raise MissingError(f"{source}: no questions of the split '{split}'", hint=hint)
    return questions, _read_split(folder, "dev")


def _read_split(folder: Path, split: str) -> list[Question]:
    ending = f"_{split}.csv"
    files = sorted((folder / split).glob(f"*{ending}"))
    return [question for path in files for question in _read_file(path, path.name.removesuffix(ending))]


def _read_file(path: Path, subject: str) -> list[Question]:
    questions = []
    for line, cells in csv_rows(path, decode(path, read_bytes(path))):
        where = f"{path}, line {line}"
        if len(cells) != 6:
            hint = "each line is question, A, B, C, D, letter of the answer"
            raise UsageError(f"{where}: {len(cells)} columns instead of 6", hint=hint)
        if (letter := cells[5].strip().upper()) not in set(_LETTERS):
            hint = "it is A, B, C or D; the file has no header"
            raise UsageError(f"{where}: answer {cells[5]!r:.40} is not a letter", hint=hint)
        questions.append(Question(subject, cells[0], tuple(cells[1:5]), _LETTERS.index(letter)))
    return questions


def _from_hub(name: str, split: str) -> list[Question]:
    rows = load_hub_table(name, ["validation" if split == "val" else split], config="all").rows
    return [_from_row(row, name, number) for number, row in enumerate(rows, start=1)]


def _from_row(row: dict[str, Any], name: str, number: int) -> Question:
    choices: Any = row.get("choices")
    answer: Any = row.get("answer")
    if isinstance(answer, str) and answer.strip().upper() in set(_LETTERS):
        answer = _LETTERS.index(answer.strip().upper())
    usable = isinstance(choices, Sequence) and not isinstance(choices, str) and isinstance(answer, int)
    if not usable or not isinstance(row.get("question"), str) or not 0 <= answer < len(choices) <= 26:
        hint = "expected question, subject, choices and answer as in cais/mmlu"
        raise UsageError(f"{name}, row {number}: not a multiple-choice question", hint=hint)
    return Question(str(row.get("subject") or "all"), row["question"], tuple(str(c) for c in choices), answer)
