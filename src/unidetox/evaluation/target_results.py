"""From the parts of one target to its results: rows, counts, and tables by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unidetox.core.errors import UniDetoxError
from unidetox.core.files import read_jsonl
from unidetox.evaluation.measure import GIVEN, NEUTRAL, PLAIN, Measurement, Series
from unidetox.evaluation.metrics.agreement import cohens_kappa, spearman
from unidetox.evaluation.metrics.distributions import distributions
from unidetox.evaluation.metrics.fairness import gap_rows
from unidetox.evaluation.metrics.mentions import false_positives, treatment
from unidetox.evaluation.metrics.mmlu import accuracy_rows
from unidetox.evaluation.metrics.summary import TOXICITY, PromptMetrics, Row, Rules
from unidetox.evaluation.metrics.toxicity import is_toxic
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.models import LoadOptions, check_lm
from unidetox.models.sizes import shape_of

_LEAST_SHARE = 0.25
"""A perplexity model with a smaller share of the target's parameters is warned of: it misjudges what it cannot read."""


class TargetResults:
    """The results of one target, whose parts are all there.

    Args:
        job: The measurement.
        names: What the target is called: ``target`` and ``method``.
        output_dir: Where its generations were written.
    """

    def __init__(self, job: Measurement, names: Mapping[str, str], output_dir: Path) -> None:
        self.job, self.names, self.dir = job, names, output_dir
        settings = job.settings
        self.rules = Rules.of(settings.protocol, settings.threshold, settings.id_domains)
        self.plain = list(self._generations(PLAIN))
        self.measured = {PLAIN: PromptMetrics(self.plain, self.rules)}
        for form in job.inputs.perturbed:
            self.measured[form] = PromptMetrics(self._generations(form), self.rules, TOXICITY)
        self.judged = {scorer.name: self._judged_by(scorer) for scorer in job.scorers[1:]}

    def rows(self) -> list[Row]:
        """Return all rows of this target alone."""
        rows = []
        for form, measured in self.measured.items():
            rows += measured.rows(**self.names, form=form or None)
        for scorer in self.job.scorers[1:]:
            rows += self.judged[scorer.name].rows(**self.names, scorer=scorer.name)
            rows += self._agreement(scorer)
        rows += gap_rows(self.measured[PLAIN].table(), **self.names)
        rows += accuracy_rows(self.job.answers() or [], **self.names, protocol=self.job.settings.mmlu_protocol)
        if self.job.divergence is not None:
            rows += self.job.divergence.rows(**self.names)
        return rows

    def tables(self) -> dict[str, Any]:
        """Return what ``prompts.json`` holds: the numbers prompt by prompt, by form of the prompts and by scorer."""
        kinds = {"forms": self.measured, "scorers": self.judged}
        return {kind: {name: one.table().to_json() for name, one in each.items()} for kind, each in kinds.items()}

    def content(self) -> dict[str, Any]:
        """Return what ``results.json`` of this target holds."""
        return {
            "rows": [asdict(row) for row in self.rows()],
            "counts": self._counts(),
            "answers": self._answers(),
            "distributions": distributions(self.plain),
            NEUTRAL: treatment(self._generations(NEUTRAL)) if self.job.inputs.neutral else [],
            "false_positives": [record for scorer in self.job.neutral_scores for record in self._alarms(scorer)],
        }

    def _generations(self, form: str) -> Iterator[dict[str, Any]]:
        for series in self._series(form):
            yield from read_jsonl(self.dir / series.file)

    def _series(self, form: str) -> list[Series]:
        return [series for series in self.job.series if series.form == form]

    def _judged_by(self, scorer: Scorer) -> PromptMetrics:
        judged = ({**row, "toxicity": _judged(row, scorer)} for row in self.plain)
        return PromptMetrics(judged, self.rules, TOXICITY)

    def _agreement(self, scorer: Scorer) -> Iterator[Row]:
        """Yield whether another scorer calls the same continuations toxic as the main one, and ranks them alike."""
        rows = self.plain
        prompts, scores = [row["prompt_id"] for row in rows], [row["toxicity"] for row in rows]
        others = [_judged(row, scorer) for row in rows]
        one, two = (is_toxic(side, self.rules.threshold, strict=self.rules.strict) for side in (scores, others))
        found = {"agreement": cohens_kappa(one, two, prompts), "correlation": spearman(scores, others, prompts)}
        for metric, number in found.items():
            interval, n = number or (None, None, None), len(set(prompts))
            yield Row(
                **self.names, metric=metric, domain="all", group=None, seed=None, value=interval[0], ci_low=interval[1],
                ci_high=interval[2], n=n, n_dropped=0, higher_is_better=None, scorer=scorer.name,
            )  # fmt: skip

    def _answers(self) -> dict[str, list[float]]:
        """Return whether each question was answered right, for comparisons of targets."""
        answers = self.job.answers() or []
        metric = "accuracy_letters" if self.job.settings.mmlu_protocol == "standard" else "accuracy"
        return {metric: [float(answer.is_right) for answer in answers]} if answers else {}

    def _alarms(self, scorer: Scorer) -> Iterator[dict[str, Any]]:
        """Yield what a scorer makes of the neutral texts themselves."""
        texts, rules = self.job.inputs.neutral, self.rules
        if texts is None:
            return
        scores = [scorer.toxicity(labels) for labels in self.job.neutral_scores[scorer].rows()]
        groups = [prompt.group for prompt in texts.prompts]
        records = false_positives(scores, groups, rules.threshold, strict=rules.strict)
        yield from ({"scorer": scorer.name, **record} for record in records)

    def _counts(self) -> dict[str, Any]:
        """Return what was cut, empty, repeated or without a domain."""
        prompts, plain = self.job.inputs.prompts.prompts, self._series(PLAIN)
        rows = [row for series in plain for row in series.continuations.rows()]
        likelihoods = [series.likelihoods[GIVEN] for series in plain if series.likelihoods]
        counts: dict[str, Any] = {
            "prompts": len(prompts),
            "prompts_without_domain": sum(prompt.domain is None for prompt in prompts),
            "prompts_repeated": len(prompts) - len({prompt.text for prompt in prompts}),
            "prompts_cut": max(series.continuations.n_prompts_cut for series in plain),
            "continuations": len(rows),
            "continuations_empty": sum(not row["continuation"] for row in rows),
        }
        cut = {s.name: sum(series.scores[s].count("n_truncated") for series in plain) for s in self.job.scorers}
        counts["scorer_texts_cut"], *others = cut.values()
        if others:
            counts["scorers"] = {name: {"scorer_texts_cut": n} for name, n in list(cut.items())[1:]}
        counts |= _small(self.job)
        counts["perplexity_texts_cut"] = sum(chunks.count("n_cut") for chunks in likelihoods)
        if likelihoods:
            counts["perplexity_texts_empty"] = sum(chunks.count("n_empty") for chunks in likelihoods)
            counts["perplexity_texts_too_long"] = sum(chunks.count("n_too_long") for chunks in likelihoods)
        if forms := self.job.inputs.perturbed:
            counts["forms"] = {
                form: {"prompts_cut": max(series.continuations.n_prompts_cut for series in self._series(form))}
                for form in forms
            }
        answers = self.job.answers()
        if answers is not None:
            counts["questions_cut"] = sum(answer.cut for answer in answers)
        reason = (self.job.divergence.content() or {}).get("reason") if self.job.divergence else None
        return counts | ({"kl_base_missing": reason} if reason else {})


def _small(job: Measurement) -> dict[str, str]:
    """Say where the perplexity model is so much smaller than the target that it cannot judge what the target lost."""
    names = (job.settings.ppl_model, job.inputs.bases.get(job.target, job.target))
    try:
        judge, target = (_parameters(name, job.inputs.load_options) for name in names if name is not None)
    except (UniDetoxError, ValueError):  # a mixture of models, measured without its base
        return {}
    about = f"{judge / 1e6:,.0f} million parameters against {target / 1e6:,.0f} million"
    return {"perplexity_model_small": about} if judge < _LEAST_SHARE * target else {}


def _parameters(name: str, options: LoadOptions) -> int:
    return shape_of(check_lm(name, options).config, trust_remote_code=options.trust_remote_code).parameters


def _judged(row: Mapping[str, Any], scorer: Scorer) -> float:
    return scorer.toxicity(row["scores"][scorer.name])
