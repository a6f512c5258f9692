"""The steps of measuring one target, ordered so that only one language model is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.data import PromptSet, QuestionSet
from unidetox.files import write_jsonl
from unidetox.metrics.collect import (
    Chunks,
    Continuations,
    Report,
    answer_questions,
    free_memory,
    model_bytes,
    read_answers,
    sample_continuations,
    score_likelihood,
    score_toxicity,
)
from unidetox.metrics.mmlu import Answer
from unidetox.metrics.summary import PAPER_TOP_K
from unidetox.metrics.toxicity import ToxicityScorer, find_label
from unidetox.models import check_classifier, check_lm, eos_ids, load_classifier, load_lm, short_name
from unidetox.settings import Evaluate
from unidetox.targets import load_target

if TYPE_CHECKING:
    from unidetox.models import LM


@dataclass(frozen=True)
class Work:
    """What an evaluation needs besides its settings.

    Attributes:
        prompts: What to continue.
        questions: What to ask, or None.
        device: Where to compute, e.g. ``auto``.
        dtype: Number format of the language models, e.g. ``auto``; the scorer is always float32.
        trust_remote_code: Run code that a model's repository brings along.
    """

    prompts: PromptSet
    questions: QuestionSet | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False


class Measurement:
    """One target's evaluation; each step does what is still missing in the work directory and nothing else.

    Args:
        target: A directory or a Hub id.
        work_dir: Where unfinished work is kept.
        work: Prompts, questions and where to compute.
        settings: The recipe's section.
        report: Told how far it is.
    """

    def __init__(
        self, target: str, work_dir: Path, work: Work, settings: Evaluate, report: Report | None = None
    ) -> None:
        self.target, self.work, self.settings = target, work, settings
        self.prompts = work.prompts.prompts
        self.dir, self.report = work_dir, report
        self.parts = {
            seed: Continuations(work_dir / "continuations" / f"seed-{seed}.jsonl", len(self.prompts), settings.samples)
            for seed in settings.seeds
        }

    def answers(self) -> list[Answer] | None:
        """Return the answers to the questions, or None where there are none (yet)."""
        return read_answers(self.work.questions, self.dir / "answers") if self.work.questions else None

    def ask_target(self) -> None:
        """Sample every seed and ask every question that is missing."""
        seeds = [seed for seed, part in self.parts.items() if not part.complete()]
        if not seeds and (self.work.questions is None or self.answers() is not None):
            return
        check_helpers(self.settings, trust_remote_code=self.work.trust_remote_code)
        work = self.work
        lm = load_target(self.target, device=work.device, dtype=work.dtype, trust_remote_code=work.trust_remote_code)
        for seed in seeds:
            self._sample(lm, seed)
        if self.work.questions is not None:
            chosen = self.settings
            answer_questions(
                lm, self.work.questions, chosen.shots, self.dir / "answers",
                protocol=chosen.mmlu_protocol, batch_size=chosen.batch_size, report=self.report,
            )  # fmt: skip
        size = sum(model_bytes(model) for model in lm.source.models)
        del lm
        free_memory(size)

    def score(self) -> None:
        """Score the toxicity of every continuation."""
        todo = {seed: chunks for seed in self.parts if (chunks := self._chunks("toxicity", seed)).missing()}
        if not todo:
            return
        scorer = load_scorer(self.work, self.settings)
        for seed, chunks in todo.items():
            score_toxicity(scorer, [row["continuation"] for row in self.parts[seed].rows()], chunks, report=self.report)
        size = model_bytes(scorer.classifier.model)
        del scorer
        free_memory(size)

    def measure_perplexity(self) -> None:
        """Score the likelihood of every continuation, where a perplexity model is given."""
        todo = {seed: chunks for seed in self.parts if (chunks := self._chunks("likelihood", seed)).missing()}
        if not todo or self.settings.ppl_model is None:
            return
        lm = self._load_lm(self.settings.ppl_model)
        for seed, chunks in todo.items():
            rows = self.parts[seed].rows()
            prompts = [self.prompts[row["prompt"]].text for row in rows]
            texts = [row["continuation"] for row in rows]
            score_likelihood(lm, prompts, texts, chunks, batch_size=self.settings.batch_size, report=self.report)
        size = model_bytes(lm.model)
        del lm
        free_memory(size)

    def assemble(self, seed: int, names: Mapping[str, str], output_dir: Path) -> Path:
        """Write a seed's ``generations.jsonl``, sorted by prompt and sample, and return its path."""
        path = output_dir / f"seed-{seed}" / "generations.jsonl"
        write_jsonl(path, [self._rows(seed, names)])
        return path

    def counts(self) -> dict[str, Any]:
        """Return what was cut, empty or without a domain."""
        rows = [row for part in self.parts.values() for row in part.rows()]
        ppl = [self._chunks("likelihood", seed) for seed in self.parts] if self.settings.ppl_model else []
        return {
            "prompts": len(self.prompts),
            "prompts_without_domain": sum(prompt.domain is None for prompt in self.prompts),
            "prompts_cut": max(part.n_prompts_cut for part in self.parts.values()),
            "continuations": len(rows),
            "continuations_empty": sum(not row["continuation"] for row in rows),
            "scorer_texts_cut": sum(self._chunks("toxicity", seed).count("n_truncated") for seed in self.parts),
            "perplexity_texts_cut": sum(chunks.count("n_cut") for chunks in ppl),
            "questions_cut": sum(answer.cut for answer in self.answers() or []),
        }

    def _load_lm(self, name: str) -> LM:
        work = self.work
        return load_lm(name, device=work.device, dtype=work.dtype, trust_remote_code=work.trust_remote_code)

    def _sample(self, lm: LM, seed: int) -> None:
        from unidetox.decoding.sampling import SamplingSettings

        chosen = self.settings
        ends = eos_ids(lm.tokenizer, lm.model.config, getattr(lm.model, "generation_config", None))
        settings = SamplingSettings(
            max_new_tokens=chosen.max_new_tokens,
            temperature=chosen.temperature,
            top_p=1.0 if lm.source.filters else chosen.top_p,
            top_k=used_top_k(chosen),
            eos_token_ids=ends,
            seed=seed,
        )
        sample_continuations(
            lm, self.prompts, settings, self.parts[seed], batch_size=chosen.batch_size, report=self.report
        )

    def _chunks(self, name: str, seed: int) -> Chunks:
        return Chunks(self.dir / name / f"seed-{seed}", len(self.prompts) * self.settings.samples)

    def _rows(self, seed: int, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``generations.jsonl``."""
        scores = self._chunks("toxicity", seed).rows()
        total = len(self.prompts) * self.settings.samples
        nlls = self._chunks("likelihood", seed).rows() if self.settings.ppl_model else iter([(None, None)] * total)
        scorer = short_name(self.settings.scorer)
        for row, (toxicity, labels), (nll, nll_tokens) in zip(self.parts[seed].rows(), scores, nlls, strict=True):
            prompt = self.prompts[row["prompt"]]
            yield {
                **names,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.text,
                "group": prompt.group,
                "domain": prompt.domain,
                "seed": seed,
                "sample": row["sample"],
                "continuation": row["continuation"],
                "finish_reason": row["finish_reason"],
                "n_tokens": row["n_tokens"],
                "toxicity": toxicity,
                "scores": {scorer: labels},
                "nll": nll,
                "nll_tokens": nll_tokens,
            }


def load_scorer(work: Work, settings: Evaluate) -> ToxicityScorer:
    """Load the scorer, always in float32.

    Raises:
        MissingError: If it is not there.
        UsageError: If it has no such label.
    """
    remote = work.trust_remote_code
    classifier = load_classifier(settings.scorer, device=work.device, dtype="float32", trust_remote_code=remote)
    return ToxicityScorer(classifier, settings.scorer_label)


def check_helpers(settings: Evaluate, *, trust_remote_code: bool) -> None:
    """Find out before hours of work that the scorer, its label or the perplexity model is missing; reads no weights.

    Args:
        settings: The recipe's section.
        trust_remote_code: Run code that a model's repository brings along.

    Raises:
        MissingError: If a model is not there.
        UsageError: If the scorer has no such label.
    """
    labels = check_classifier(settings.scorer, trust_remote_code=trust_remote_code)
    find_label(labels, settings.scorer_label, settings.scorer)
    if settings.ppl_model is not None:
        check_lm(settings.ppl_model, trust_remote_code=trust_remote_code)


def used_top_k(settings: Evaluate) -> int:
    """Return the top-k that is applied: the ``paper`` protocol brings its own where none is set."""
    return settings.top_k or (PAPER_TOP_K if settings.protocol == "paper" else 0)
