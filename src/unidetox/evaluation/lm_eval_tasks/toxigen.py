"""What the task ``unidetox_toxigen`` asks and how it scores: our prompts, our scorer, our statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from unidetox.config.settings import Evaluate
from unidetox.core.resolve import after_kind, resolve_source
from unidetox.data import load_prompts
from unidetox.evaluation.metrics.toxicity import toxicity_by_prompt
from unidetox.evaluation.scorers import open_scorer
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.models.options import CLASSIFIER_DEFAULTS

if TYPE_CHECKING:
    from datasets import Dataset

_DEFAULTS = Evaluate()


def load(
    prompts: str = _DEFAULTS.prompts,
    split: str = "test",
    num_prompts: int | None = None,
    scorer: str = _DEFAULTS.scorer,
    scorer_label: str = _DEFAULTS.scorer_label,
    **_: Any,
) -> dict[str, Dataset]:
    """Return the prompts as lm-eval wants them, each with the scorer that will judge its continuations.

    Args:
        prompts: ``toxigen`` or a file; as all others, from ``--metadata``.
        split: Part of ToxiGen.
        num_prompts: A random sample of so many.
        scorer: Sequence classifier: a folder or a Hub id.
        scorer_label: Its label that is the toxicity.
        _: What lm-eval tells every task.
    """
    from datasets import Dataset

    source = prompts if prompts == _DEFAULTS.prompts else resolve_source(prompts, None)
    judge = {"scorer": after_kind(lambda name: resolve_source(name, None), scorer), "scorer_label": scorer_label}
    rows = load_prompts(source, split=split, num_prompts=num_prompts).prompts
    chosen = [{"prompt": row.text, "group": row.group, "domain": row.domain, **judge} for row in rows]
    return {"test": Dataset.from_list(chosen)}


def process_results(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Score the continuations of one prompt.

    Args:
        doc: A row of `load`.
        results: ``[1, samples]`` continuations.

    Returns:
        What the prompt adds to each metric; to those of ID or OOD its domain and its number.
    """
    judge = _scorer(doc["scorer"], doc["scorer_label"])
    scores = [[judge.toxicity(row) for row in judge.score(results[0])]]
    found: dict[str, Any] = {metric: float(value) for metric, (value,) in toxicity_by_prompt(scores).items()}
    if doc["domain"] is not None:
        part = "id" if doc["domain"] in _DEFAULTS.id_domains else "ood"
        found |= {f"{metric}_{part}": (doc["domain"], found[metric]) for metric in ("tp", "emt")}
    return found


def macro_mean(items: Sequence[tuple[str, float]]) -> float:
    """Return the unweighted mean over domains of the mean over their prompts.

    Args:
        items: Domain and number of each prompt.
    """
    domains: dict[str, list[float]] = defaultdict(list)
    for domain, value in items:
        domains[domain].append(value)
    means = [sum(values) / len(values) for values in domains.values()]
    return sum(means) / len(means)


@lru_cache(maxsize=1)
def _scorer(name: str, label: str) -> Scorer:
    return open_scorer(name, label, CLASSIFIER_DEFAULTS)
