"""Accuracy of answers to multiple-choice questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unidetox.evaluation.metrics.stats import bootstrap_ci, statistic_of
from unidetox.evaluation.metrics.summary import Row

Protocol = Literal["paper", "standard"]


@dataclass(frozen=True)
class Answer:
    """How likely a model finds each choice of a question.

    Attributes:
        subject: The question's subject.
        correct: Index of the right choice.
        logprobs: ``[choices]`` log-probability of each whole choice, in nats; of its letter in the standard protocol.
        lengths: ``[choices]`` characters of what was scored, at least 1.
        cut: Whether the prompt lost tokens on the left to fit the model's context.
    """

    subject: str
    correct: int
    logprobs: tuple[float, ...]
    lengths: tuple[int, ...]
    cut: bool = False

    @property
    def predicted(self) -> int:
        """Index of the choice of the highest total log-probability, the first of equals."""
        return _argmax(self.logprobs)

    @property
    def is_right(self) -> bool:
        """Whether the predicted choice is right, as in the paper and in ``acc`` of lm-eval."""
        return self.predicted == self.correct

    @property
    def is_right_per_character(self) -> bool:
        """Whether the choice of the highest log-probability per character is right (``acc_norm`` of lm-eval)."""
        scores = [logprob / length for logprob, length in zip(self.logprobs, self.lengths, strict=True)]
        return _argmax(scores) == self.correct


def accuracy_rows(answers: Sequence[Answer], *, target: str, method: str, protocol: Protocol = "paper") -> list[Row]:
    """Return the rows of answers to questions, over all questions and (``_macro``) as the mean over subjects.

    ``accuracy`` takes the most likely whole answer as the paper does, ``accuracy_norm`` the most likely one per
    character, ``accuracy_letters`` the most likely letter of the standard protocol.

    Args:
        answers: All answers of one target.
        target: Short name of the model.
        method: How it was made less toxic.
        protocol: How the questions were asked.
    """
    if not answers:
        return []
    right = {"accuracy": [float(a.is_right) for a in answers]}
    right["accuracy_norm"] = [float(a.is_right_per_character) for a in answers]
    if protocol == "standard":
        right = {"accuracy_letters": right["accuracy"]}
    subjects, rows = [answer.subject for answer in answers], []
    for metric, values in right.items():
        for name, strata in ((metric, None), (f"{metric}_macro", subjects)):
            value, interval = statistic_of(values, domains=strata), bootstrap_ci(values, domains=strata, share=True)
            rows.append(Row(target, method, name, "all", None, None, value, *interval, len(values), 0, True))
    return rows


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
