"""What the labels of a classifier mean: how its logits become scores, and which label can be the toxic one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from unidetox.core.errors import UsageError

Activation = Literal["sigmoid", "softmax", "none"]
"""What makes scores of logits: each label judged on its own, one of many picked, or the value as it is."""

# Labels that say what toxicity there is: where two of them stand side by side, a text can have both.
_JIGSAW = {
    "toxic", "toxicity", "severe_toxic", "severe_toxicity", "obscene", "obscenity", "threat", "insult", "profanity",
    "identity_hate", "identity_attack", "sexual_explicit", "sexually_explicit",
}  # fmt: skip
_HARM = "toxic|hate|hatred|offen[cs]|abus|insult|harm|obscen|threat|profan|violen|attack|vulgar|bully|racis|sexis"
_HARMFUL = re.compile(rf"{_HARM}|unsafe|uncivil|inappropriate")
_HARMLESS = re.compile(
    rf"harmless|(^|[\W_])(no|non|not|without|free|never|un|in)[\W_]*({_HARM})|({_HARM})[\W_]*free"
    r"|^((label|class)?[\W_]*0|other|others)$"
    r"|^(no|not|none|non|neither|false|neutral|normal|ordinary|benign|safe|clean|civil|ok|okay|fine|good|nice|polite|kind"
    r"|friendly|acceptable|appropriate|background)($|[\W_])"
)


def labels_of(config: Any) -> list[str]:
    """Return a classifier's label names in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def activation_of(config: Any, labels: Sequence[str], name: str) -> Activation:
    """Return what makes scores of a classifier's logits, as transformers' text-classification pipeline has it.

    The configuration decides where it speaks: by ``function_to_apply``, then by ``problem_type``. Jigsaw models
    (``unitary/toxic-bert`` and its kind) do not always say it, so two of their labels, and none that means harmless,
    are taken as judged each on its own; a single label can be nothing else.

    Args:
        config: A transformers configuration.
        labels: All label names.
        name: The classifier's name, for the message.

    Raises:
        UsageError: Its ``function_to_apply`` is not known.
    """
    said, problem = getattr(config, "function_to_apply", None), getattr(config, "problem_type", None)
    kinds = {kind: kind for kind in get_args(Activation)}
    chosen: Activation | None = None if said is None else kinds.get(str(said).lower())
    if said is not None and chosen is None:
        hint = f"Set function_to_apply in its config.json to one of {', '.join(kinds)}"
        raise UsageError(f"the classifier {name} asks for an unknown function of its logits: {said!r}", hint=hint)
    if chosen is None:
        by_problem: dict[Any, Activation] = {"regression": "none", "single_label_classification": "softmax"}
        chosen = by_problem.get(problem, "sigmoid" if problem or _overlap(labels) else "softmax")
    return "sigmoid" if len(labels) == 1 and chosen == "softmax" else chosen


def _overlap(labels: Sequence[str]) -> bool:
    known = {re.sub(r"[\W_]+", "_", label.strip().lower()) for label in labels} & _JIGSAW
    return len(known) > 1 and not any(map(is_harmless, labels))


def is_harmless(label: str) -> bool:
    """Whether a label most likely means that a text is not toxic, as ``LABEL_0`` and ``neutral`` do."""
    return bool(_HARMLESS.search(label.strip().lower()))


def likely_toxic(labels: Sequence[str]) -> str | None:
    """Return the label that most likely means toxic; None where that cannot be told."""
    others = [label for label in labels if not is_harmless(label)]
    harmful = [label for label in others if _HARMFUL.search(label.lower())]
    return harmful[0] if harmful else others[0] if len(others) == 1 else None
