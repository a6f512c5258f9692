"""What the parts of an evaluation are called: kind, and a hash of just what each depends on.

A part that is there under its name is right and need not be made again, whatever else has changed since: another seed,
scorer, perplexity model, perturbation or question leaves all other parts as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unidetox.config.fields import Key
from unidetox.config.settings import Evaluate
from unidetox.core.files import hash_of
from unidetox.data import PromptSet, QuestionSet
from unidetox.evaluation.metrics.summary import PAPER_TOP_K
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.models import fingerprint

VERSION = 1
"""Raised when the code changes what is in a part."""

_KEY_LENGTH = 16
# The order in which settings of the first version are in a name; any others follow, by name.
_FIRST: Mapping[Key, tuple[str, ...]] = {
    "sampling": ("samples", "max_new_tokens", "temperature", "top_p", "top_k"),
    "answers": ("shots", "mmlu_protocol"),
}


class PartNames:
    """The names of the parts of one target's evaluation.

    Args:
        target: A directory or a Hub id.
        settings: The recipe's section.
        scorers: Those of the settings, the main one first.
        dtype: Number format of the language models.

    Attributes:
        models: A fingerprint for each model that takes part: ``target``, ``scorer``, ``ppl_model`` and so on.
    """

    def __init__(self, target: str, settings: Evaluate, scorers: Sequence[Scorer], dtype: str) -> None:
        self.settings, self.dtype = settings, dtype
        main, *others = scorers
        self.models = {"target": fingerprint(target), "scorer": main.fingerprint}
        self.models |= {f"scorer {one.name}": one.fingerprint for one in others}
        if settings.ppl_model is not None:
            self.models["ppl_model"] = fingerprint(settings.ppl_model)

    def continuations(self, prompts: PromptSet, seed: int, samples: int) -> str:
        """Name so many continuations of some prompts under one seed."""
        sampling = self._chosen("sampling", samples=samples, top_k=used_top_k(self.settings))
        return _name("continuations", self.models["target"], prompts.sha256, seed, sampling, self.dtype)

    def toxicity(self, continuations: str, scorer: Scorer) -> str:
        """Name a scorer's scores of continuations; all its labels, so whichever is the toxicity."""
        return _name("toxicity", continuations, scorer.fingerprint, *self._chosen("scoring"))

    def likelihood(self, continuations: str, *, alone: bool = False) -> str:
        """Name the likelihoods of continuations under the perplexity model, given their prompts or alone."""
        kind = "likelihood-alone" if alone else "likelihood"
        return _name(kind, continuations, self.models["ppl_model"], self.dtype, *self._chosen("likelihood"))

    def answers(self, questions: QuestionSet) -> str:
        """Name the answers to questions."""
        asked = [questions.sha256, *self._chosen("answers")]
        return _name("answers", self.models["target"], asked, self.dtype)

    def false_positives(self, texts: PromptSet, scorer: Scorer) -> str:
        """Name a scorer's scores of texts that no model wrote."""
        return _name("texts", texts.sha256, scorer.fingerprint, *self._chosen("scoring"))

    def divergence(self, base: str, texts: PromptSet) -> str:
        """Name the divergence from a base model on texts."""
        models = [self.models["target"], fingerprint(base)]
        return _name("divergence", *models, texts.sha256, self.dtype, *self._chosen("likelihood"))

    def _chosen(self, key: Key, **changes: Any) -> list[Any]:
        """Return the settings that a part depends on."""
        known = self.settings.key(key) | changes
        first = [known.pop(name) for name in _FIRST.get(key, ())]
        return [*first, known] if known else first


def used_top_k(settings: Evaluate) -> int:
    """Return the top-k that is applied: the ``paper`` protocol brings its own where none is set."""
    own = PAPER_TOP_K if settings.protocol == "paper" else 0
    return own if settings.top_k is None else settings.top_k


def _name(kind: str, *depends_on: Any) -> str:
    return f"{kind}-{hash_of([kind, VERSION, *depends_on])[:_KEY_LENGTH]}"
