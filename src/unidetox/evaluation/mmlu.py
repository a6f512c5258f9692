"""MMLU in two protocols: the paper's (which answer text is likeliest) and the standard one (which letter is)."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from unidetox.core.errors import UsageError
from unidetox.evaluation.metrics.mmlu import Answer, Protocol
from unidetox.evaluation.prompt_encoding import encode_pairs

if TYPE_CHECKING:
    from unidetox.data import Question, QuestionSet
    from unidetox.models import LM


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


def lettered_prompt(question: Question, examples: Sequence[Question]) -> str:
    r"""Return the prompt of the standard protocol, up to ``Answer:``; the answers to score are ``" A"``, ``" B"``, ...

    Args:
        question: The question to ask.
        examples: Solved questions of the same subject, in order.

    Reference:
        Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021; to the character the task
        ``mmlu`` of lm-evaluation-harness (tasks/mmlu/default).
    """
    subject = question.subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    solved = "".join(f"{_lettered(e)} {string.ascii_uppercase[e.answer]}\n\n" for e in examples)
    return f"{head}{solved}{_lettered(question)}"


def score_questions(
    lm: LM,
    questions: Sequence[Question],
    dev: Mapping[str, Sequence[Question]],
    *,
    shots: int = 1,
    protocol: Protocol = "paper",
    batch_size: int | Literal["auto"] = "auto",
) -> list[Answer]:
    """Score every choice of every question.

    Args:
        lm: The model that answers.
        questions: ``[n]`` questions; those of one subject together let the model read the examples once.
        dev: Solved examples by subject.
        shots: How many examples, 0 or more.
        protocol: ``paper`` scores the whole text of each choice, ``standard`` its letter after all choices were read.
        batch_size: How many rows go through the model at once.

    Returns:
        ``[n]`` answers.

    Raises:
        UsageError: If a subject has fewer examples than ``shots``, or a choice is longer than the model's context.
        UniDetoxError: If the model answers NaN.
    """
    from unidetox.decoding.likelihood import loglikelihood

    prompt_of = few_shot_prompt if protocol == "paper" else lettered_prompt
    prompts = [prompt_of(q, _examples(q.subject, dev, shots)) for q in questions]
    choices = [question.choices if protocol == "paper" else _letters(question) for question in questions]
    rows = [(i, c) for i, texts in enumerate(choices) for c in range(len(texts))]
    pairs = encode_pairs(lm, [prompts[i] for i, _ in rows], [f" {choices[i][c]}" for i, c in rows])
    cut = [False] * len(questions)
    for (i, _), pair in zip(rows, pairs, strict=True):
        if not pair.continuation:
            raise UsageError(f"a choice of a question on {questions[i].subject} does not fit the context of {lm.name}")
        cut[i] |= pair.cut
    scores = [[float("nan")] * len(texts) for texts in choices]
    contexts, targets = [pair.context for pair in pairs], [pair.continuation for pair in pairs]
    for k, logprobs in loglikelihood(lm.source, contexts, targets, batch_size=batch_size):
        i, c = rows[k]
        scores[i][c] = float(logprobs.double().sum())
    return [_answer(*each) for each in zip(questions, choices, scores, cut, strict=True)]


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


def _lettered(question: Question) -> str:
    options = zip(_letters(question), question.choices, strict=True)
    lines = [question.question.strip(), *(f"{letter}. {choice}" for letter, choice in options), "Answer:"]
    return "\n".join(lines)


def _letters(question: Question) -> tuple[str, ...]:
    return tuple(string.ascii_uppercase[: len(question.choices)])


def _answer(question: Question, choices: Sequence[str], scores: Sequence[float], cut: bool) -> Answer:
    lengths = tuple(max(len(choice), 1) for choice in choices)
    return Answer(question.subject, question.answer, tuple(scores), lengths, cut)
