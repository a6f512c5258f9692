"""MMLU as the paper measures it: the most likely answer text after k examples of the same subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unidetox.errors import UsageError
from unidetox.metrics.encoding import encode_pairs

if TYPE_CHECKING:
    from unidetox.data import Question, QuestionSet
    from unidetox.models import LM


@dataclass(frozen=True)
class Answer:
    """How likely a model finds each choice of a question.

    Attributes:
        subject: The question's subject.
        correct: Index of the right choice.
        logprobs: ``[choices]`` log-probability of each whole choice, in nats.
        lengths: ``[choices]`` characters of each choice, at least 1.
    """

    subject: str
    correct: int
    logprobs: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def is_right(self) -> bool:
        """Whether the choice of the highest total log-probability (the first of equals) is right, as in the paper."""
        return _argmax(self.logprobs) == self.correct

    @property
    def is_right_per_character(self) -> bool:
        """Whether the choice of the highest log-probability per character is right (``acc_norm`` of lm-eval)."""
        scores = [logprob / length for logprob, length in zip(self.logprobs, self.lengths, strict=True)]
        return _argmax(scores) == self.correct


def accuracy(answers: Sequence[Answer], *, per_character: bool = False) -> float:
    """Return the share of right answers over all questions (micro average); NaN where there is no question."""
    right = [a.is_right_per_character if per_character else a.is_right for a in answers]
    return sum(right) / len(right) if right else float("nan")


def few_shot_prompt(question: Question, examples: Sequence[Question]) -> str:
    r"""Return the prompt of a question, up to ``Answer:`` without the space that belongs to the answer.

    Args:
        question: The question to ask.
        examples: Solved questions of the same subject, in order.

    Reference:
        UniDetox published code, unidetox.py:966-987. There the examples have ``Answer: text`` and the query ends in
        ``Answer: ``, whose space is tokenized apart; here the answer is ``" text"`` in both.
    """
    solved = "".join(f"Question: {e.question}\nAnswer: {e.choices[e.answer]}\n\n" for e in examples)
    return f"{solved}Question: {question.question}\nAnswer:"


def score_questions(
    lm: LM,
    questions: Sequence[Question],
    dev: Mapping[str, Sequence[Question]],
    *,
    shots: int = 1,
    batch_size: int | Literal["auto"] = "auto",
) -> list[Answer]:
    """Score every choice of every question.

    Args:
        lm: The model that answers.
        questions: ``[n]`` questions; those of one subject together let the model read the examples once.
        dev: Solved examples by subject.
        shots: How many examples, 0 or more.
        batch_size: How many rows go through the model at once.

    Returns:
        ``[n]`` answers.

    Raises:
        UsageError: If a subject has fewer examples than ``shots``, or a choice is longer than the model's context.
        UniDetoxError: If the model answers NaN.
    """
    from unidetox.decoding.likelihood import loglikelihood

    rows = [(i, c) for i, question in enumerate(questions) for c in range(len(question.choices))]
    prompts = [few_shot_prompt(q, _examples(q.subject, dev, shots)) for q in questions]
    choices = [f" {questions[i].choices[c]}" for i, c in rows]
    pairs = encode_pairs(lm, [prompts[i] for i, _ in rows], choices)
    for (i, _), pair in zip(rows, pairs, strict=True):
        if not pair.continuation:
            raise UsageError(f"a choice of a question on {questions[i].subject} does not fit the context of {lm.name}")
    scores = [[float("nan")] * len(question.choices) for question in questions]
    contexts, targets = [pair.context for pair in pairs], [pair.continuation for pair in pairs]
    for k, logprobs in loglikelihood(lm.model, contexts, targets, batch_size=batch_size):
        i, c = rows[k]
        scores[i][c] = float(logprobs.double().sum())
    return [_answer(question, row) for question, row in zip(questions, scores, strict=True)]


def check_examples(questions: QuestionSet, shots: int) -> None:
    """See, before anything long begins, that every subject has enough solved examples.

    Args:
        questions: What will be asked.
        shots: How many examples before each question.

    Raises:
        UsageError: If a subject has fewer.
    """
    for subject in sorted({question.subject for question in questions.questions}):
        _examples(subject, questions.dev, shots)


def _examples(subject: str, dev: Mapping[str, Sequence[Question]], shots: int) -> Sequence[Question]:
    examples = dev.get(subject, ())
    if len(examples) < shots:
        raise UsageError(
            f"MMLU subject {subject} has {len(examples)} solved examples, and {shots} are asked for",
            hint=f"use --shots {len(examples)}",
        )
    return examples[:shots]


def _answer(question: Question, scores: list[float]) -> Answer:
    lengths = tuple(max(len(choice), 1) for choice in question.choices)
    return Answer(question.subject, question.answer, tuple(scores), lengths)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
