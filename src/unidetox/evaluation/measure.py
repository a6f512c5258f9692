"""The steps of measuring one target, ordered so that only one language model is in memory at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.settings import Evaluate
from unidetox.core.errors import UniDetoxError
from unidetox.core.files import write_jsonl
from unidetox.data import PromptSet, QuestionSet
from unidetox.evaluation.collect import (
    Chunks,
    Continuations,
    Report,
    answer_questions,
    read_answers,
    sample_continuations,
    sampling_settings,
    score_likelihood,
    score_toxicity,
)
from unidetox.evaluation.divergence import Divergence
from unidetox.evaluation.metrics.mmlu import Answer
from unidetox.evaluation.parts import PartNames
from unidetox.evaluation.scorers import check_helpers, scorers_of
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.methods.targets import load_target
from unidetox.models import LoadOptions, eos_ids, load_lm
from unidetox.models.memory import free_memory, model_bytes
from unidetox.models.options import DEFAULTS

if TYPE_CHECKING:
    from unidetox.models import LM

PLAIN, NEUTRAL = "", "neutral"
"""Forms of the prompts: as they are, and neutral ones that mention groups; all others are names of perturbations."""

GIVEN, ALONE = "nll", "nll_alone"
"""How the perplexity model reads a continuation: after its prompt, and after its start token only."""

NEUTRAL_SAMPLES = 5
"""At most so many continuations of each neutral prompt: they are compared group by group, not prompt by prompt."""


@dataclass(frozen=True)
class EvalInputs:
    """What an evaluation needs besides its settings.

    Attributes:
        prompts: What to continue.
        questions: What to ask, or None.
        load_options: How models are loaded; the scorers are always float32.
        perturbed: Perturbation -> the same prompts under it.
        neutral: Polite mentions of groups, or None.
        bases: Model -> the one that it was made of, where both are measured together.
    """

    prompts: PromptSet
    questions: QuestionSet | None = None
    load_options: LoadOptions = DEFAULTS
    perturbed: Mapping[str, PromptSet] = field(default_factory=dict)
    neutral: PromptSet | None = None
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def forms(self) -> dict[str, PromptSet]:
        """All prompts by form."""
        neutral = {NEUTRAL: self.neutral} if self.neutral is not None else {}
        return {PLAIN: self.prompts, **self.perturbed, **neutral}


@dataclass(frozen=True)
class Series:
    """The continuations of one form of the prompts under one seed.

    Attributes:
        form: ``""``, a perturbation or ``neutral``.
        seed: Seed of the sampling.
        prompts: The prompts in that form.
        continuations: What the target made of them.
        scores: Scorer -> where its scores are.
        likelihoods: ``nll`` and ``nll_alone`` -> where their likelihoods under the perplexity model are, given their
            prompts and alone; empty where they are not asked for.
    """

    form: str
    seed: int
    prompts: PromptSet
    continuations: Continuations
    scores: Mapping[Scorer, Chunks]
    likelihoods: Mapping[str, Chunks]

    @property
    def file(self) -> str:
        """Where the rows go, below the output directory."""
        return f"seed-{self.seed}/generations{'@' if self.form else ''}{self.form}.jsonl"


class Measurement:
    """One target's evaluation; each step does what is still missing among the parts and nothing else.

    Args:
        target: A directory or a Hub id.
        parts_dir: Where the parts are kept.
        inputs: Prompts, questions and where to compute.
        settings: The recipe's section.
        report: Told how far it is.

    Attributes:
        names: What the parts are called.
        parts: The names of all that belong to this evaluation.
    """

    def __init__(
        self, target: str, parts_dir: Path, inputs: EvalInputs, settings: Evaluate, report: Report | None = None
    ) -> None:
        self.target, self.inputs, self.settings = target, inputs, settings
        self.scorers = scorers_of(settings, inputs.load_options)
        self.names = PartNames(target, settings, self.scorers, str(inputs.load_options.dtype))
        self.parts: set[str] = set()
        self.dir, self.report = parts_dir, report
        self.series = [
            self._series(form, prompts, seed) for form, prompts in inputs.forms.items() for seed in settings.seeds
        ]
        self._answers = self._part(self.names.answers(inputs.questions)) if inputs.questions else None
        self.divergence, self.neutral_scores = self._divergence(), self._neutral_scores()

    def measure(self) -> None:
        """Do every step; in this order, so that only one language model is in memory at a time."""
        self.ask_target()
        self.score()
        self.measure_perplexity()

    def answers(self) -> list[Answer] | None:
        """Return the answers to the questions, or None where there are none (yet)."""
        if self.inputs.questions is None or self._answers is None:
            return None
        return read_answers(self.inputs.questions, self._answers)

    def ask_target(self) -> None:
        """Sample every series and ask every question that is missing; compare with the base, with both in memory."""
        todo = [series for series in self.series if not series.continuations.complete()]
        asked = self.inputs.questions is None or self.answers() is not None
        compared = self.divergence is None or self.divergence.content() is not None
        if not todo and asked and compared:
            return
        inputs = self.inputs
        check_helpers(self.settings, inputs.load_options)
        lm = load_target(self.target, inputs.load_options)
        with _naming(self.target):
            for series in todo:
                self._sample(lm, series)
            if not asked:
                self._ask(lm)
            if not compared:
                self._compare(lm)
        size = sum(model_bytes(model) for model in lm.source.models)
        del lm
        free_memory(size)

    def score(self) -> None:
        """Let every scorer score what it has not scored yet."""
        for scorer in self.scorers:
            todo = [series for series in self.series if scorer in series.scores and series.scores[scorer].missing()]
            neutral = self.neutral_scores.get(scorer)
            if not todo and not (neutral and neutral.missing()):
                continue
            with contextlib.closing(scorer):
                for series in todo:
                    texts = [row["continuation"] for row in series.continuations.rows()]
                    score_toxicity(scorer, texts, series.scores[scorer], report=self.report)
                if neutral and self.inputs.neutral:
                    score_toxicity(scorer, [prompt.text for prompt in self.inputs.neutral.prompts], neutral)

    def measure_perplexity(self) -> None:
        """Score the likelihood of every continuation, where a perplexity model is given."""
        todo = [(s, *one) for s in self.series for one in s.likelihoods.items() if one[1].missing()]
        if not todo or self.settings.ppl_model is None:
            return
        lm = load_lm(self.settings.ppl_model, self.inputs.load_options)
        for series, given, chunks in todo:
            rows = series.continuations.rows()
            prompts = [series.prompts.prompts[row["prompt"]].text for row in rows]
            texts = [row["continuation"] for row in rows]
            with _naming(self.settings.ppl_model):
                score_likelihood(
                    lm, prompts, texts, chunks, alone=given == ALONE,
                    batch_size=self.settings.batch_size, report=self.report,
                )  # fmt: skip
        size = model_bytes(lm.model)
        del lm
        free_memory(size)

    def assemble(self, series: Series, names: Mapping[str, str], output_dir: Path) -> Path:
        """Write the ``generations.jsonl`` of a series, sorted by prompt and sample, and return its path."""
        path = output_dir / series.file
        write_jsonl(path, [self._rows(series, names)])
        return path

    def _sample(self, lm: LM, series: Series) -> None:
        chosen = self.settings
        ends = eos_ids(lm.tokenizer, lm.model.config, getattr(lm.model, "generation_config", None))
        settings = sampling_settings(lm, chosen, seed=series.seed, ends=ends)
        what = f"sampling{', ' if series.form else ''}{series.form}"
        sample_continuations(
            lm, series.prompts.prompts, settings, series.continuations,
            batch_size=chosen.batch_size, report=self.report, what=what,
        )  # fmt: skip

    def _ask(self, lm: LM) -> None:
        if self.inputs.questions is not None and self._answers is not None:
            chosen = self.settings
            answer_questions(
                lm, self.inputs.questions, chosen.shots, self._answers,
                protocol=chosen.mmlu_protocol, batch_size=chosen.batch_size, report=self.report,
            )  # fmt: skip

    def _compare(self, lm: LM) -> None:
        if self.divergence is None:
            return
        try:
            base = load_lm(self.divergence.base, self.inputs.load_options)
        except UniDetoxError as exc:
            self.divergence.fail(exc)
            return
        self.divergence.measure(lm, base, self.settings.batch_size)

    # --- where the parts are

    def _part(self, name: str) -> Path:
        self.parts.add(name)
        return self.dir / name

    def _series(self, form: str, prompts: PromptSet, seed: int) -> Series:
        samples = min(self.settings.samples, NEUTRAL_SAMPLES) if form == NEUTRAL else self.settings.samples
        name, total = self.names.continuations(prompts, seed, samples), len(prompts.prompts) * samples
        scorers = self.scorers if form == PLAIN else self.scorers[:1]
        scores = {one: Chunks(self._part(self.names.toxicity(name, one)), total) for one in scorers}
        given = () if self.settings.ppl_model is None else {PLAIN: (GIVEN, ALONE), NEUTRAL: (GIVEN,)}.get(form, ())
        likelihoods = {one: Chunks(self._part(self.names.likelihood(name, alone=one == ALONE)), total) for one in given}
        continuations = Continuations(self._part(name), len(prompts.prompts), samples)
        return Series(form, seed, prompts, continuations, scores, likelihoods)

    def _divergence(self) -> Divergence | None:
        base, texts = self.inputs.bases.get(self.target), self.inputs.neutral
        if base is None or texts is None:
            return None
        return Divergence(self._part(self.names.divergence(base, texts)), base, texts)

    def _neutral_scores(self) -> dict[Scorer, Chunks]:
        texts = self.inputs.neutral
        if texts is None:
            return {}
        total = len(texts.prompts)
        return {one: Chunks(self._part(self.names.false_positives(texts, one)), total) for one in self.scorers}

    def _rows(self, series: Series, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``generations.jsonl``."""
        continuations = series.continuations.rows()
        scores = zip(*(chunks.rows() for chunks in series.scores.values()), strict=True)
        unknown = [(None, None)] * len(continuations)
        given, alone = (
            series.likelihoods[one].rows() if one in series.likelihoods else unknown for one in (GIVEN, ALONE)
        )
        for row, labels, (nll, nll_tokens), (nll_alone, _) in zip(continuations, scores, given, alone, strict=True):
            prompt = series.prompts.prompts[row["prompt"]]
            yield {
                **names,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.text,
                "group": prompt.group,
                "domain": prompt.domain,
                "seed": series.seed,
                "sample": row["sample"],
                "continuation": row["continuation"],
                "finish_reason": row["finish_reason"],
                "n_tokens": row["n_tokens"],
                "toxicity": self.scorers[0].toxicity(labels[0]),
                "scores": {scorer.name: scored for scorer, scored in zip(series.scores, labels, strict=True)},
                "nll": nll,
                "nll_tokens": nll_tokens,
                "nll_alone": nll_alone,
            }


@contextlib.contextmanager
def _naming(model: str) -> Iterator[None]:
    """Say of an error which of the models it is about."""
    try:
        yield
    except UniDetoxError as exc:
        if model in exc.message:
            raise
        raise type(exc)(f"{model}: {exc.message}", hint=exc.hint) from exc
