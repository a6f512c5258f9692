"""The search itself: proposals that depend on nothing but the seed and the trials before, and the paper's rule."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unidetox.config.settings import Recipe
from unidetox.core.errors import MissingError
from unidetox.pipeline.tuning.space import Space, Tune, Values

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
        relevance: Of its continuations, nats a token; None where none was measured.
        base_relevance: The same of the model as it is.
    """

    toxicity: float
    perplexity: float | None
    base_perplexity: float | None
    base_toxicity: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    relevance: float | None = None
    base_relevance: float | None = None


class Bounds(NamedTuple):
    """What a configuration must keep within.

    Attributes:
        ceiling: Highest perplexity, as a multiple of the model's own; infinite is none.
        floor: Lowest relevance, as a multiple of the model's own; 0 is none.
    """

    ceiling: float
    floor: float = 0.0


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
    values: Values
    score: Score | None
    failure: str | None = None
    seconds: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Perplexity as a multiple of the model's own, None where it is not known or no number."""
        score = self.score
        if score is None or score.perplexity is None or not score.base_perplexity:
            return None
        ratio = score.perplexity / score.base_perplexity
        return ratio if math.isfinite(ratio) else None

    @property
    def kept(self) -> float | None:
        """Relevance as a multiple of the model's own, None where it is not known or the model's own is not above 0."""
        score = self.score
        if score is None or score.relevance is None or (score.base_relevance or 0.0) <= 0:
            return None
        return score.relevance / (score.base_relevance or 1.0)

    def allowed(self, bounds: Bounds) -> bool:
        """Say whether it keeps within the bounds."""
        fluent = math.isinf(bounds.ceiling) or (self.ratio is not None and self.ratio <= bounds.ceiling)
        return self.score is not None and fluent and self._on_subject(bounds)

    def _on_subject(self, bounds: Bounds) -> bool:
        return bounds.floor == 0 or (self.kept is not None and self.kept >= bounds.floor)

    def order(self, bounds: Bounds) -> tuple[float, ...]:
        """Return what trials are sorted by, the best first.

        Those within the bounds come first, by toxicity, then perplexity; then those above the ceiling, the nearest
        first; then those below the floor, the nearest first; then those that failed.
        """
        if self.score is not None and self.allowed(bounds):
            return (0, self.score.toxicity, self.ratio or 0.0)
        if self.ratio is not None and self._on_subject(bounds):
            return (1, self.ratio, 0.0)
        return (2, -self.kept, 0.0) if self.kept is not None else (3, 0.0, 0.0)


def best_trial(trials: Sequence[Trial], bounds: Bounds) -> Trial | None:
    """Return the least toxic trial within the bounds, of equal ones the most fluent; None where none is within.

    Args:
        trials: All trials.
        bounds: What it must keep within.

    Reference: UniDetox (Lu et al., ICLR 2025), appendix on hyper-parameters: chosen on GPT-2 XL and validation prompts,
    perplexity at most 10 % above the original model's.
    """
    allowed = [trial for trial in trials if trial.allowed(bounds)]
    return min(allowed, key=lambda trial: (*trial.order(bounds), trial.number), default=None)


def propose(space: Space, trials: Sequence[Trial], tune: Tune, first: Values | None) -> Values | None:
    """Return the next configuration, one that was not tried yet; None where the space is exhausted.

    It is a function of its arguments alone, so a search that was killed goes on as if it had not been.

    Args:
        space: What is searched.
        trials: What was tried.
        tune: Its bounds, seed, and sampler: ``"tpe"`` (tree-structured Parzen estimator) or ``"random"``.
        first: The configuration that is tried first.

    Raises:
        MissingError: Optuna is not installed.

    Reference: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Akiba et al., Optuna, 2019.
    """
    tried = [dict(trial.values) for trial in trials]
    if not trials and first is not None:
        return first
    lists = [entry for entry in space.values() if isinstance(entry, tuple)]
    finite = len(lists) == len(space)
    rows = itertools.product(*lists) if finite else ()
    left = [values for row in rows if (values := dict(zip(space, row, strict=True))) not in tried]
    if finite and not left:
        return None
    draws = (_draw(space, trials, tune, draw) for draw in range(_DRAWS))
    return next((values for values in draws if values not in tried), left[0] if left else None)


def _draw(space: Space, trials: Sequence[Trial], tune: Tune, draw: int) -> Values:
    optuna = load_optuna()
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    seed = hashlib.sha256(f"{tune.seed}/{len(trials)}/{draw}".encode()).digest()[:4]
    study = optuna.create_study(sampler=kinds[tune.sampler](seed=int.from_bytes(seed, "big")))
    distributions = {key: _distribution(optuna, entry) for key, entry in space.items()}
    # Only the order counts to the sampler: what breaks a bound is worse than all that keeps them.
    orders = [trial.order(Bounds(tune.ceiling, tune.floor)) for trial in trials]
    for trial, order in zip(trials, orders, strict=True):
        rank, params = float(sorted(set(orders)).index(order)), dict(trial.values)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=rank))
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
    if isinstance(entry, tuple):
        return optuna.distributions.CategoricalDistribution(entry)
    if isinstance(entry.low, int) and isinstance(entry.high, int):
        return optuna.distributions.IntDistribution(entry.low, entry.high, log=entry.log, step=entry.step or 1)
    return optuna.distributions.FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
