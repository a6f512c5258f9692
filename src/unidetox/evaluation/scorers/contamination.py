"""Scorers that must not judge: those trained on the very corpus that is unlearnt, or on the prompts' data set."""

from __future__ import annotations

import re
from pathlib import Path

from unidetox.config.settings import DGHS, TOXIGEN, Evaluate
from unidetox.core.hub import cached_snapshot
from unidetox.core.names import short_name
from unidetox.core.resolve import is_local
from unidetox.data import DGHS_ID
from unidetox.evaluation.scorers.known import known_scorer, repository_of

# What data sets are called in model cards, in the names of their classifiers and of their files.
_DGHS_WORDS = re.compile(r"dghs|dynabench|dynamically[\W_]*generated[\W_]*hate", re.IGNORECASE)
_TOXIGEN_WORDS = re.compile(r"toxigen", re.IGNORECASE)
_NOTES = ("README.md", "config.json", "unidetox.json")


def contamination(settings: Evaluate, corpus: str = DGHS) -> list[str]:
    """Return a warning for each scorer that was trained on the toxic model's corpus, or on the prompts' data set.

    The first calls toxic what the corpus calls toxic, which is the very thing that was unlearnt; the second has learnt
    what is said of the prompts themselves. Known are those of ``known.toml``, by their names, and for DGHS (Dynabench's
    hate speech) by what the model card says.

    Args:
        settings: The recipe's section.
        corpus: What the toxic model is trained on; DGHS where it is not known, as in the paper.
    """
    scorers, warnings = (settings.scorer, *settings.other_scorers), []
    if corpus in (DGHS, DGHS_ID) or _DGHS_WORDS.search(Path(corpus).name):
        warnings += [
            f"the scorer {short_name(source)} was trained on DGHS, the corpus that toxic models are made of: "
            "it must not be the judge of what was unlearnt from it"
            for source in scorers
            if _trained_on(source, DGHS, _DGHS_WORDS) or _says(source, _DGHS_WORDS)
        ]
    if _TOXIGEN_WORDS.search(Path(settings.prompts).name):
        warnings += [
            f"the scorer {short_name(source)} was trained on ToxiGen, which the prompts are of: "
            "it may judge by the prompts' words; let another one judge, too"
            for source in scorers
            if _trained_on(source, TOXIGEN, _TOXIGEN_WORDS)
        ]
    return warnings


def _trained_on(source: str, data: str, words: re.Pattern[str]) -> bool:
    known = known_scorer(source)
    return data in known.trained_on if known else words.search(Path(source).name) is not None


def _says(source: str, words: re.Pattern[str]) -> bool:
    """Look at what a scorer that is on this machine says of itself."""
    source = repository_of(source)
    folder = (
        Path(source).expanduser() if is_local(source) or Path(source).is_dir() else cached_snapshot(source, "model")
    )
    notes = [folder / name for name in _NOTES] if folder is not None else []
    return any(note.is_file() and words.search(note.read_text("utf-8", errors="replace")) for note in notes)
