"""What a scorer is: something that gives each text a number for every label, of which one is its toxicity."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Protocol

from unidetox.config.settings import Evaluate
from unidetox.core.errors import UsageError
from unidetox.core.names import short_name
from unidetox.evaluation.scorers.known import known_scorer
from unidetox.models.labels import is_harmless, likely_toxic

DETOXIFY_NAMES = {"toxicity": "toxic", "severe_toxicity": "severe_toxic", "identity_attack": "identity_hate"}
"""What the Detoxify package calls labels of ``unitary/toxic-bert``: its name -> the label of the checkpoint."""
_DEFAULT_LABEL = Evaluate().scorer_label


class Scorer(Protocol):
    """Scores texts. Making one costs nothing: what it needs is loaded when it first scores.

    A kind of scorer is a subclass in a file of its own and a line in `unidetox.evaluation.scorers.KINDS`, or an entry
    point of the group ``unidetox.scorers`` of another package; it must say its `fingerprint`, `check` and `score`.

    Attributes:
        source: What names it: a directory or a Hub id, for other kinds ``KIND:...``.
        label: Which of its labels is the toxicity, as it was asked for; None for the first.
        n_truncated: How many texts were longer than it can read, and were cut, so far.
        multi_label: Whether each label is judged on its own; False where the scores of a text add up to 1.
    """

    source: str
    label: str | None
    n_truncated: int = 0

    @property
    def name(self) -> str:
        """What results call it; without the ``@`` that has a meaning in names of metrics."""
        return short_name(self.source).replace("@", "-")

    @property
    def multi_label(self) -> bool:
        """See above."""
        return True

    @property
    def fingerprint(self) -> str:
        """A hash of all that its scores depend on, without loading it."""
        raise NotImplementedError

    def check(self) -> None:
        """See, before anything long begins, that all it needs is there and that it has the label; loads no weights.

        Raises:
            MissingError: If something is not there.
            UsageError: If it cannot be used, or has no such label.
        """
        raise NotImplementedError

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Score texts; equal texts get equal scores, whatever stands beside them.

        Args:
            texts: ``[n]`` texts of any length, also empty ones.

        Returns:
            ``[n]`` times label -> score, every label in the same order; in 0..1, or a regression's value as it is.

        Raises:
            UniDetoxError: If a score is no number.
        """
        raise NotImplementedError

    def toxicity(self, scores: Mapping[str, float]) -> float:
        """Return the toxicity among a text's scores; also of scores that were stored earlier.

        Raises:
            UsageError: If there is no such label.
        """
        labels = list(scores)
        return scores[labels[0] if self.label is None else find_label(labels, self.label, self.source)]

    def close(self) -> None:
        """Give back its memory; it may score again later."""


def find_label(labels: Sequence[str], label: str, name: str) -> str:
    """Return a label as the scorer spells it.

    Args:
        labels: The scorer's labels.
        label: The one that is asked for; upper and lower case are the same, and `DETOXIFY_NAMES` are understood where
            there is no such label; so is the default, of a scorer of ``known.toml``. Other spellings are not.
        name: The scorer's name, for the message.

    Raises:
        UsageError: If there is no such label, or more than one.
    """
    wanted = label.lower()
    if wanted not in (known.lower() for known in labels):
        wanted = DETOXIFY_NAMES.get(wanted, wanted)
    found = [known for known in labels if known.lower() == wanted]
    if not found and label == _DEFAULT_LABEL and (entry := known_scorer(name)) is not None:
        found = [known for known in entry.labels if known in labels][:1]
    if len(found) == 1:
        return found[0]
    by_lower = {known.lower(): known for known in labels if not is_harmless(known)}
    near = difflib.get_close_matches(label.lower(), by_lower, n=1, cutoff=0.5)
    suggestion = by_lower[near[0]] if near else likely_toxic(labels)
    problem = "has no label" if not found else "has more than one label"
    raise UsageError(
        f"the classifier {name} {problem} '{label}'; its labels: {', '.join(labels)}",
        hint=f"name the one that means toxic, e.g. --scorer-label {suggestion or 'LABEL'}",
    )
