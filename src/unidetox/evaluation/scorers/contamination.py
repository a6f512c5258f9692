"""Scorers that must not judge: those trained on the very corpus that is unlearnt."""

from __future__ import annotations

import re
from pathlib import Path

from unidetox.config.settings import DGHS, Evaluate
from unidetox.core.hub import cached_snapshot
from unidetox.core.names import short_name
from unidetox.core.resolve import is_local
from unidetox.data import DGHS_ID

# What the corpus is called in model cards, in the names of its classifiers and of its files.
_DGHS_WORDS = re.compile(r"dghs|dynabench|dynamically[\W_]*generated[\W_]*hate", re.IGNORECASE)
_NOTES = ("README.md", "config.json", "unidetox.json")


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
        f"the scorer {short_name(source)} was trained on DGHS, the corpus that toxic models are made of: "
        "it must not be the judge of what was unlearnt from it"
        for source in (settings.scorer, *settings.other_scorers)
        if _knows_dghs(source)
    ]


def _knows_dghs(source: str) -> bool:
    """Look at the name of a scorer and, where it is on this machine, at what it says of itself."""
    if _DGHS_WORDS.search(Path(source).name):
        return True
    folder = (
        Path(source).expanduser() if is_local(source) or Path(source).is_dir() else cached_snapshot(source, "model")
    )
    notes = [folder / name for name in _NOTES] if folder is not None else []
    return any(note.is_file() and _DGHS_WORDS.search(note.read_text("utf-8", errors="replace")) for note in notes)
