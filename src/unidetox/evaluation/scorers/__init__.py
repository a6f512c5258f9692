"""Who judges texts: kinds of scorers, and those that an evaluation names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points

from unidetox.config.settings import Evaluate
from unidetox.core.errors import UsageError
from unidetox.evaluation.scorers.classifier import ClassifierScorer
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.evaluation.scorers.words import WordScorer
from unidetox.models import LoadOptions, check_lm
from unidetox.models.labels import Activation

Kind = Callable[[str, str | None, LoadOptions], Scorer]
"""Makes a scorer of its name, the label that is asked for, and how to load it; see `Scorer`."""

KINDS: Mapping[str, Kind] = {"words": WordScorer}
"""What a name begins with, up to a colon -> the kind of scorer that it names.

Other packages add theirs by entry points of the group ``unidetox.scorers``; any other name is a classifier.
"""
_GROUP = "unidetox.scorers"


def kind_of(source: str) -> Kind | None:
    """Return the kind of scorer that a name begins with; None for a classifier."""
    kind, colon, _ = source.partition(":")
    if not colon or kind in KINDS:
        return KINDS.get(kind) if colon else None
    return next((point.load() for point in entry_points(group=_GROUP, name=kind)), None)


def open_scorer(
    source: str,
    label: str | None,
    options: LoadOptions,
    *,
    activation: Activation | None = None,
    tokenizer: str | None = None,
) -> Scorer:
    """Return the scorer of a name; nothing is loaded yet.

    Args:
        source: A directory, a Hub id or a name of ``known.toml``; ``KIND:...`` for other kinds.
        label: Which of its labels is the toxicity; None for the first.
        options: How to load it.
        activation: What makes scores of a classifier's logits; None for what is known of it.
        tokenizer: Where a classifier's tokenizer is, if not with it.

    Raises:
        UsageError: If a scorer of another kind is to have an activation or a tokenizer.
    """
    kind = kind_of(source)
    if kind is None:
        return ClassifierScorer(source, label, options, activation=activation, tokenizer=tokenizer)
    if activation or tokenizer:
        raise UsageError(
            f"the scorer {source} has no activation and no tokenizer",
            hint="leave out scorer_activation and scorer_tokenizer",
        )
    return kind(source, label, options)


def scorers_of(settings: Evaluate, options: LoadOptions) -> list[Scorer]:
    """Return the scorers that the settings name, the main one first; they compute in float32.

    Args:
        settings: The recipe's section.
        options: How models are loaded; their dtype is that of language models.

    Raises:
        UsageError: If one is named twice, or two have the same short name.
    """
    labels = {settings.scorer: settings.scorer_label, **settings.other_scorers}
    if len(labels) != 1 + len(settings.other_scorers):
        raise UsageError(f"the scorer {settings.scorer} is named twice", hint="name each scorer once")
    options, main = replace(options, dtype="float32"), settings.scorer
    activation = None if settings.scorer_activation == "auto" else settings.scorer_activation
    scorers = [open_scorer(main, labels.pop(main), options, activation=activation, tokenizer=settings.scorer_tokenizer)]
    scorers += [open_scorer(source, label, options) for source, label in labels.items()]
    twice = [name for name, count in Counter(scorer.name for scorer in scorers).items() if count > 1]
    if twice:
        raise UsageError(f"two scorers are called {twice[0]}", hint="rename the folder of one")
    return scorers


def check_helpers(settings: Evaluate, options: LoadOptions) -> None:
    """Find out before hours of work that a scorer, its label or the perplexity model is missing; reads no weights.

    Args:
        settings: The recipe's section.
        options: How to load them.

    Raises:
        MissingError: If a model is not there.
        UsageError: If a scorer has no such label.
    """
    for scorer in scorers_of(settings, options):
        scorer.check()
    if settings.ppl_model is not None:
        check_lm(settings.ppl_model, options)
