"""The search itself: proposals that depend on nothing but the seed and the trials before, and the paper's rule."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unidetox.config.settings import Recipe
from unidetox.core.errors import MissingError
from unidetox.pipeline.tuning.space import Choices, Space, Value

# Draws in search of a configuration that was not tried yet; after so many, the space counts as exhausted.
_DRAWS = 200


@dataclass(frozen=True)
class Score:
    """How one configuration did.

    Attributes:
        toxicity: What is to become least.
        perplexity: Of its continuations; None where none was measured.
        base_toxicity: The same of the model as it is, None where unknown.
        base_perplexity: The same of the model as it is.
        ci_low: Lower end of the interval of ``toxicity``.
        ci_high: Upper end of the interval of ``toxicity``.
        n: Number of prompts.
    """

    toxicity: float
    perplexity: float | None
    base_perplexity: float | None
    base_toxicity: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None

    @property
    def ratio(self) -> float | None:
        """Perplexity as a multiple of the model's own, None where it is not known or no number."""
        if self.perplexity is None or not self.base_perplexity:
            return None
        ratio = self.perplexity / self.base_perplexity
        return ratio if math.isfinite(ratio) else None


Objective = Callable[[Recipe], Score]
"""Measures one configuration; the recipe has it put in, and validation prompts."""


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        number: From 0.
        values: Dotted setting -> value.
        score: How it did; None where it failed.
        failure: Why it failed.
        seconds: How long it took.
    """

    number: int
    values: Mapping[str, Value]
    score: Score | None
    failure: str | None = None
    seconds: float = 0.0

    def allowed(self, ceiling: float) -> bool:
        """Say whether it keeps within the ceiling of perplexity."""
        if self.score is None or not math.isfinite(self.score.toxicity):
            return False
        return math.isinf(ceiling) or (self.score.ratio is not None and self.score.ratio <= ceiling)

    def order(self, ceiling: float) -> tuple[float, ...]:
        """Return what trials are sorted by, the best first.

        Those within the ceiling come first, by toxicity, then perplexity; then those above it, the nearest first; then
        those that failed.
        """
        ratio = self.score.ratio if self.score is not None else None
        if self.score is not None and self.allowed(ceiling):
            return (0, self.score.toxicity, ratio if ratio is not None else 0.0)
        return (1, ratio, 0.0) if ratio is not None else (2, 0.0, 0.0)


def best_trial(trials: Sequence[Trial], ceiling: float) -> Trial | None:
    """Return the least toxic trial within the ceiling, of equal ones the most fluent; None where none is within.

    Args:
        trials: All trials.
        ceiling: Highest perplexity as a multiple of the model's own.

    Reference: UniDetox (Lu et al., ICLR 2025), appendix on hyper-parameters: chosen on GPT-2 XL and validation prompts,
    perplexity at most 10 % above the original model's.
    """
    allowed = [trial for trial in trials if trial.allowed(ceiling)]
    return min(allowed, key=lambda trial: (*trial.order(ceiling), trial.number), default=None)


def propose(
    space: Space, trials: Sequence[Trial], *, ceiling: float, sampler: str, seed: int, first: Mapping[str, Value] | None
) -> dict[str, Value] | None:
    """Return the next configuration, one that was not tried yet; None where the space is exhausted.

    It is a function of its arguments alone, so a search that was killed goes on as if it had not been.

    Args:
        space: What is searched.
        trials: What was tried.
        ceiling: Highest perplexity as a multiple of the model's own.
        sampler: ``"tpe"`` (tree-structured Parzen estimator) or ``"random"``.
        seed: Seed of the search.
        first: The configuration that is tried first.

    Raises:
        MissingError: Optuna is not installed.

    Reference: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Akiba et al., Optuna, 2019.
    """
    tried = [dict(trial.values) for trial in trials]
    if not trials and first is not None:
        return dict(first)
    if _exhausted(space, tried):
        return None
    for draw in range(_DRAWS):
        values = _draw(space, trials, ceiling, sampler, _seed(seed, len(trials), draw))
        if values not in tried:
            return values
    return next(iter(_rest(space, tried)), None)


def _draw(space: Space, trials: Sequence[Trial], ceiling: float, sampler: str, seed: int) -> dict[str, Value]:
    optuna = load_optuna()
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(sampler=kinds[sampler](seed=seed))
    distributions = {key: _distribution(optuna, entry) for key, entry in space.items()}
    # Only the order counts to the sampler: what breaks the ceiling is worse than all that keeps it.
    ranks = sorted({trial.order(ceiling) for trial in trials})
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(trial.values), distributions=distributions, value=float(ranks.index(trial.order(ceiling)))
            )
            for trial in trials
        ]
    )
    return dict(study.ask(distributions).params)


def load_optuna() -> Any:
    """Import Optuna, the library that proposes configurations.

    Raises:
        MissingError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingError("tune needs the package optuna", hint="pip install 'unidetox[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, entry: Any) -> Any:
    if isinstance(entry, Choices):
        return optuna.distributions.CategoricalDistribution(entry.values)
    if isinstance(entry.low, int) and isinstance(entry.high, int):
        return optuna.distributions.IntDistribution(entry.low, entry.high, log=entry.log, step=entry.step or 1)
    return optuna.distributions.FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)


def _seed(seed: int, number: int, draw: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{draw}".encode()).digest()[:4], "big")


def _exhausted(space: Space, tried: Sequence[Mapping[str, Value]]) -> bool:
    return all(isinstance(entry, Choices) for entry in space.values()) and not _rest(space, tried)


def _rest(space: Space, tried: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    """Return the configurations of a space of lists that were not tried; none of a space that has a range."""
    if not all(isinstance(entry, Choices) for entry in space.values()):
        return []
    rows = itertools.product(*(entry.ends() for entry in space.values()))
    return [found for row in rows if (found := dict(zip(space, row, strict=True))) not in tried]
