"""Which classifiers judge: their names in the results, whether they are there, and whether they may judge at all."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from unidetox.config.settings import DGHS, Evaluate
from unidetox.core.errors import UsageError
from unidetox.core.hub import cached_snapshot, is_local
from unidetox.core.names import short_name
from unidetox.data import DGHS_ID
from unidetox.evaluation.metrics.toxicity import ToxicityScorer, find_label
from unidetox.models import check_classifier, check_lm, load_classifier

# What the corpus is called in model cards, in the names of its classifiers and of its files.
_DGHS_WORDS = re.compile(r"dghs|dynabench|dynamically[\W_]*generated[\W_]*hate", re.IGNORECASE)
_NOTES = ("README.md", "config.json", "unidetox.json")


class Scorer(NamedTuple):
    """One classifier that judges.

    Attributes:
        name: What it is called in the results.
        model: A directory or a Hub id.
        label: Which of its labels is the toxicity.
    """

    name: str
    model: str
    label: str


def scorers_of(settings: Evaluate) -> list[Scorer]:
    """Return the classifiers that the settings name, the main one first.

    Raises:
        UsageError: If one is named twice, or two have the same short name.
    """
    labels = {settings.scorer: settings.scorer_label, **settings.other_scorers}
    if len(labels) != 1 + len(settings.other_scorers):
        raise UsageError(f"the scorer {settings.scorer} is named twice", hint="name each scorer once")
    names = Counter(short_name(model) for model in labels)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(f"two scorers are called {twice[0]}", hint="rename the folder of one")
    return [Scorer(short_name(model), model, label) for model, label in labels.items()]


def load_scorer(scorer: Scorer, device: str, *, trust_remote_code: bool) -> ToxicityScorer:
    """Load a scorer, always in float32.

    Args:
        scorer: Which.
        device: Where to compute.
        trust_remote_code: Run code that a model's repository brings along.

    Raises:
        MissingError: If it is not there.
        UsageError: If it has no such label.
    """
    classifier = load_classifier(
        scorer.model, device=device, dtype="float32", trust_remote_code=trust_remote_code
    )  # fmt: skip
    return ToxicityScorer(classifier, scorer.label)


def check_helpers(settings: Evaluate, *, trust_remote_code: bool) -> None:
    """Find out before hours of work that a scorer, its label or the perplexity model is missing; reads no weights.

    Args:
        settings: The recipe's section.
        trust_remote_code: Run code that a model's repository brings along.

    Raises:
        MissingError: If a model is not there.
        UsageError: If a scorer has no such label.
    """
    for scorer in scorers_of(settings):
        find_label(check_classifier(scorer.model, trust_remote_code=trust_remote_code), scorer.label, scorer.model)
    if settings.ppl_model is not None:
        check_lm(settings.ppl_model, trust_remote_code=trust_remote_code)


def contamination(settings: Evaluate, corpus: str = DGHS) -> list[str]:
    """Return a warning for each scorer that was trained on the corpus of the toxic model.

    Such a scorer calls toxic what the corpus calls toxic, which is the very thing that was unlearnt. Known by their
    names, or by what the model card says, are classifiers made with DGHS (Dynabench's hate speech).

    Args:
        settings: The recipe's section.
        corpus: What the toxic model is trained on; DGHS where it is not known, as in the paper.
    """
    if corpus not in (DGHS, DGHS_ID) and not _DGHS_WORDS.search(Path(corpus).name):
        return []
    return [
        f"the scorer {scorer.name} was trained on DGHS, the corpus that toxic models are made of: "
        "it must not be the judge of what was unlearnt from it"
        for scorer in scorers_of(settings)
        if _knows_dghs(scorer.model)
    ]


def _knows_dghs(model: str) -> bool:
    """Look at the name of a classifier and, where it is on this machine, at what it says of itself."""
    if _DGHS_WORDS.search(Path(model).name):
        return True
    folder = Path(model).expanduser() if is_local(model) or Path(model).is_dir() else cached_snapshot(model, "model")
    notes = [folder / name for name in _NOTES] if folder is not None else []
    return any(note.is_file() and _DGHS_WORDS.search(note.read_text("utf-8", errors="replace")) for note in notes)
