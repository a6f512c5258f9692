"""What makes scores of a classifier's logits, and which label is suggested as the toxic one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unidetox.core.errors import UsageError
from unidetox.models.labels import activation_of, is_harmless, likely_toxic

JIGSAW = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
CIVIL = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit"]
IDENTITIES = ["male", "female", "homosexual_gay_or_lesbian", "christian", "jewish", "muslim", "black", "white"]


@pytest.mark.parametrize(
    ("problem", "function", "labels", "expected"),
    [
        ("multi_label_classification", None, ["a", "b"], "sigmoid"),
        ("single_label_classification", None, ["toxic", "insult"], "softmax"),
        ("regression", None, ["toxicity"], "none"),
        ("regression", None, ["toxicity", "insult"], "none"),
        (None, None, JIGSAW, "sigmoid"),
        (None, None, CIVIL + IDENTITIES, "sigmoid"),
        (None, None, ["Toxicity", "Severe Toxicity", "Identity-Attack"], "sigmoid"),
        (None, None, ["neutral", "toxic"], "softmax"),
        (None, None, ["neutral", "toxic", "insult"], "softmax"),
        (None, None, ["LABEL_0", "LABEL_1"], "softmax"),
        (None, None, ["toxic"], "sigmoid"),
        (None, "sigmoid", ["LABEL_0", "LABEL_1"], "sigmoid"),
        (None, "SoftMax", JIGSAW, "softmax"),
        (None, "none", ["toxic"], "none"),
        (None, "softmax", ["toxic"], "sigmoid"),
    ],
)
def test_activation(problem: str | None, function: str | None, labels: list[str], expected: str) -> None:
    config = SimpleNamespace(problem_type=problem, function_to_apply=function)
    assert activation_of(config, labels, "m") == expected


def test_an_unknown_function_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="the classifier m asks for an unknown function of its logits: 'tanh'"):
        activation_of(SimpleNamespace(function_to_apply="tanh"), ["toxic"], "m")


@pytest.mark.parametrize(
    "label",
    ["LABEL_0", "label 0", "0", "neutral", "non-toxic", "nontoxic", "Non_Toxic", "not toxic", "NOT", "nothate",
     "no_hate", "non-hate speech", "inoffensive", "harmless", "safe", "clean_text", "Normal", "other", "toxic-free",
     "not_offensive"],
)  # fmt: skip
def test_harmless_labels(label: str) -> None:
    assert is_harmless(label)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["LABEL_0", "LABEL_1"], "LABEL_1"),
        (["non-toxic", "toxic"], "toxic"),
        (["nothate", "hate"], "hate"),
        (["safe", "unsafe"], "unsafe"),
        (["neutral", "slur"], "slur"),
        (["NOT", "OFF"], "OFF"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], None),
        (["negative", "positive"], None),
        (["non-toxic"], None),
    ],
)
def test_the_toxic_label_is_told_where_it_can_be(labels: list[str], expected: str | None) -> None:
    assert likely_toxic(labels) == expected
