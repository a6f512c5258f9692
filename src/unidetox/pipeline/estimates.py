"""What each stage of a run is expected to need, from configurations and sizes of data alone; no weights are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import load_method
from unidetox.config.settings import DGHS, Recipe
from unidetox.core import console
from unidetox.core.errors import MissingError
from unidetox.core.names import unique_slugs
from unidetox.core.stages import StageStatus
from unidetox.data import DGHS_ID, MMLU_ID, load_prompts, load_questions, read_texts
from unidetox.data.prompts import TOXIGEN_NAMES
from unidetox.evaluation.speed import PROMPTS, REPEATS, SAMPLES
from unidetox.methods.finetuning import FinetuningOptions
from unidetox.models import check_lm
from unidetox.models.costs import Cost, Rates, Shape, fine_tuning, loading, sampling, scoring
from unidetox.models.loading import load_config
from unidetox.models.machine import known, measure
from unidetox.pipeline import published_sizes

if TYPE_CHECKING:
    from unidetox.methods.interface import Job
    from unidetox.pipeline.plan import Plan

_SAMPLE = 100
"""Texts that are tokenized to know a mean length."""
_DGHS = (DGHS, DGHS_ID)
_COPIES = ("toxic_model", "expert_model")
"""What the names of stages that fine-tune for others begin with."""
START = 1.0
"""Seconds for which a stage loads libraries, looks at its inputs and writes its papers."""


@dataclass(frozen=True)
class Estimates:
    """What a run is expected to need.

    Attributes:
        rates: Of the machine.
        statuses: Where each stage stands.
        costs: What each needs that is to be made; None where that is not known.
    """

    rates: Rates
    statuses: dict[str, StageStatus]
    costs: dict[str, Cost | None]

    @property
    def total(self) -> Cost:
        """All stages that are to be made."""
        return sum((cost for name, cost in self.costs.items() if cost and self._to_do(name)), Cost())

    def as_json(self) -> dict[str, Any]:
        """Return state, reasons and cost of each stage; seconds and bytes."""
        return {
            name: {"state": found.state, "reasons": list(found.reasons), "cost": cost and asdict(cost)}
            for (name, found), cost in zip(self.statuses.items(), self.costs.values(), strict=True)
        }

    def rows(self) -> list[list[str]]:
        """Return a row of text for each stage: name, state, reasons, time, memory, disk."""
        costs = {name: _words(cost) if self._to_do(name) else ["-"] * 3 for name, cost in self.costs.items()}
        return [[name, s.state, "; ".join(s.reasons), *costs[name]] for name, s in self.statuses.items()]

    def summary(self) -> str:
        """Return the sum in a sentence, with what does not fit."""
        total, rates = self.total, self.rates
        time, memory, disk = _words(total)
        said = f"expected on {rates.name} ({rates.number_type}): {time}, {memory} of memory at most, {disk} of disk"
        if total.scratch:
            said += f" and {_bytes(total.scratch)} more while it works"
        if unknown := [name for name, cost in self.costs.items() if cost is None and self._to_do(name)]:
            said += f"; not known for {', '.join(unknown)}"
        large = [n for n, cost in self.costs.items() if cost and self._to_do(n) and cost.memory > rates.memory]
        if large:
            more = f" and {len(large) - 1} more" if len(large) > 1 else ""
            said += f". There are {_bytes(rates.memory)} of memory: too little for {large[0]}{more}"
        return said

    def _to_do(self, name: str) -> bool:
        return self.statuses[name].state != "fresh"


COLUMNS = ("stage", "state", "why", "time", "memory", "disk")


def estimate(plan: Plan, gpu: str | None = None) -> Estimates:
    """Return what each step of a plan is expected to need, having looked whether all is there that it reads.

    Where something is not there yet, sizes that were published take its place, if it is of those that presets name.

    Args:
        plan: The plan of a run; its data are read, no weights.
        gpu: A GPU of `machine.GPUS` in place of this machine.

    Raises:
        UsageError: The GPU is not known, or something cannot be used as the recipe asks.
        MissingError: Something is not there, and its size is not known.
    """
    estimator, missing = _Estimator(plan, gpu), None
    try:
        plan.preflight()
    except MissingError as exc:
        missing = exc
    costs = {step.name: estimator.cost(step.name) for step in plan.steps}
    if missing is None:
        return Estimates(estimator.rates, plan.statuses(), costs)
    if not estimator.published:  # what is missing has no size
        raise missing
    console.warn(f"{missing.message}: sizes are those published of {', '.join(estimator.published)}")
    return Estimates(estimator.rates, {step.name: StageStatus("missing") for step in plan.steps}, costs)


def _words(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["?"] * 3
    return [_time(cost.seconds), _bytes(cost.memory), _bytes(cost.disk)]


def _time(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _bytes(number: float) -> str:
    return f"{number / 1e9:.0f} GB" if number >= 1e10 else f"{number / 1e9:.1f} GB"


def shape_of(config: Any, *, classifier: bool = False, trust_remote_code: bool = False) -> Shape:
    """Return a model's size, counted on a model without memory that its configuration describes.

    Args:
        config: A transformers configuration.
        classifier: Whether it is a sequence classifier.
        trust_remote_code: Run code that a model's repository brings along.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=trust_remote_code)
    modules = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = None if classifier else model.get_output_embeddings()
    apart = {id(weight): weight.numel() for weight in [*modules, *([head.weight] if head is not None else [])]}
    whole = sum(parameter.numel() for parameter in model.parameters())
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    kv_width = (getattr(text, "head_dim", None) or text.hidden_size // heads) * kv_heads
    vocabulary = 0 if head is None else int(head.weight.shape[0])
    return Shape(
        whole, whole - sum(apart.values()), int(text.num_hidden_layers), int(text.hidden_size), kv_width, vocabulary
    )


class _Estimator:
    """The stages of one plan; what several need is looked up once."""

    def __init__(self, plan: Plan, gpu: str | None) -> None:
        self.plan, self.recipe, self.gpu = plan, plan.recipe, gpu
        self.shapes: dict[str, Shape] = {}
        self.scorers: dict[str, Shape] = {}
        self.tokenizers: dict[str, Any] = {}
        self.published: list[str] = []  # names of what is not there

    @cached_property
    def rates(self) -> Rates:
        if self.gpu is not None:
            return known(self.gpu)
        recipe = self.recipe
        for name in (recipe.base.model, *recipe.detoxify.targets, recipe.evaluate.ppl_model):
            self._shape(name) if name else None
        widths = [shape.width for shape in (*self.shapes.values(), self._scorer(recipe.evaluate.scorer))]
        return measure(recipe.device, recipe.dtype, widths)

    def cost(self, name: str) -> Cost | None:
        """Return the cost of the step of this name."""
        kind, _, rest = name.partition("/")
        known_kinds: Mapping[str, Callable[[str], Cost | None]] = {
            "targets": self._target,
            "evaluation": self._evaluation,
            "speed": self._speed,
        }
        if kind in known_kinds:
            found = known_kinds[kind](rest)
        elif kind.startswith("texts"):
            found = self._texts(kind)
        elif kind.startswith(_COPIES):
            found = self._copy(kind)
        else:
            found = None
        return found + Cost(START) if found else None

    def _copy(self, name: str) -> Cost:
        """A toxic or civil copy of the base model, or of the target that its name ends in."""
        recipe, section = self.recipe, self.recipe.toxic
        models = list(dict.fromkeys([recipe.base.model, *recipe.detoxify.targets]))
        named = {f"_model-{slug}": model for slug, model in zip(unique_slugs(models), models, strict=True)}
        model = next((named[end] for end in named if name.endswith(end)), recipe.base.model)
        texts = self.civil if name.startswith("expert") else self.corpus
        steps = section.steps or math.ceil(section.epochs * math.ceil(len(texts) / section.batch_size))
        length = self._mean_length(model, texts, section.max_length)
        return fine_tuning(self._shape(model), self.rates, steps, section.batch_size * length)

    def _texts(self, name: str) -> Cost:
        chosen, shape = self.recipe.texts, self._shape(self.recipe.base.model)
        models = [shape] if "samples" in name else [shape, shape]
        drawn = sampling(models, self.rates, chosen.num_texts, chosen.max_length, 1, 1)
        return loading(models, self.rates) + drawn

    def _target(self, name: str) -> Cost | None:
        job = next(job for job in self.plan.bench.jobs if job.folder.name == name)
        if not isinstance(job.options, FinetuningOptions):
            return self._own(job)
        model, recipe = job.target, job.options.applied(self.recipe)
        section = recipe.detoxify
        length = min(self._text_length(model, recipe), section.max_length)
        saved = 4 if self.recipe.dtype == "float32" else 2
        tokens = section.batch_size * length
        return fine_tuning(self._shape(model), self.rates, section.steps, tokens, lora=section.lora, saved=saved)

    def _own(self, job: Job) -> Cost | None:
        """What the method itself says; one that acts while decoding makes nothing."""
        method = load_method(job.method)
        if method.cost is None:
            return Cost() if method.act else None
        length = self._mean_length(job.target, self.corpus)
        found: Cost = method.cost(job.options, self._shape(job.target), self.rates, length)
        return found

    def _evaluation(self, name: str) -> Cost:
        chosen, rates = self.recipe.evaluate, self.rates
        job = self._job(name)
        model = job.target if job else self.plan.models[name]
        shapes = [self._shape(model)] * self._models_at_once(job)
        prompts = self.prompts
        length = self._mean_length(model, prompts)
        rows = len(prompts) * chosen.samples * len(chosen.seeds) * (1 + len(chosen.perturbations))
        total = loading(shapes, rates)
        total += sampling(shapes, rates, rows, chosen.max_new_tokens, len(prompts) * len(chosen.seeds), length)
        for scorer in (chosen.scorer, *chosen.other_scorers):
            total += scoring(self._scorer(scorer), rates, rows * (chosen.max_new_tokens + 2), number_type="float32")
        if chosen.ppl_model is not None:
            continued = rows * chosen.max_new_tokens
            read = continued + len(prompts) * len(chosen.seeds) * self._mean_length(chosen.ppl_model, prompts)
            total += scoring(self._shape(chosen.ppl_model), rates, read, continued)
        if chosen.mmlu is not None:
            for shape in shapes:
                total += scoring(shape, rates, *self._questions(model))
        return total

    def _speed(self, name: str) -> Cost:
        """The target's own model twice, all that was made of it once; what comes before the clock starts counts too."""
        target = next(model for slug, model in self.plan.models.items() if slug == f"{name}-base")
        jobs = [job for job in self.plan.bench.jobs if job.target == target]
        prompts = self.prompts[:PROMPTS]
        length, new = self._mean_length(target, prompts), self.recipe.evaluate.max_new_tokens
        total = Cost()
        for at_once in (1, *map(self._models_at_once, jobs), 1):
            shapes = [self._shape(target)] * at_once
            total += loading(shapes, self.rates)
            for samples in (1, *[SAMPLES] * REPEATS):
                total += sampling(shapes, self.rates, len(prompts) * samples, new, len(prompts), length)
        return total

    def _questions(self, model: str) -> tuple[float, float]:
        """Tokens that are read, and those at which the LM head runs, to answer all questions."""
        chosen, (asked, offered, subjects) = self.recipe.evaluate, self.questions
        question, choices = self._mean_length(model, asked), self._mean_length(model, offered)
        read = len(asked) * (question + choices) + subjects * chosen.shots * (question + choices)
        return read, len(asked) * (choices if chosen.mmlu_protocol == "paper" else 4)

    # --- what is read: as it is here, or of the size that was published

    @cached_property
    def corpus(self) -> list[str]:
        """The toxic texts."""
        try:
            return [text.text for text in self.plan.bench.corpus.texts]
        except MissingError as exc:
            known = self.recipe.toxic.corpus in _DGHS
            return self._published(exc, known, "DGHS", *published_sizes.TOXIC)[: self.recipe.toxic.limit]

    @cached_property
    def civil(self) -> list[str]:
        """The texts that are not toxic."""
        toxic = self.recipe.toxic
        try:
            return [text.text for text in self.plan.bench.civil.texts]
        except MissingError as exc:
            known = (toxic.civil or toxic.corpus) in _DGHS
            return self._published(exc, known, "DGHS", *published_sizes.CIVIL)[: toxic.limit]

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts of one seed."""
        chosen = self.recipe.evaluate
        try:
            found = load_prompts(chosen.prompts, split=chosen.split, num_prompts=chosen.num_prompts)
            return [prompt.text for prompt in found.prompts]
        except MissingError as exc:
            size = published_sizes.PROMPTS[chosen.split.partition("[")[0]]
            return self._published(exc, chosen.prompts in TOXIGEN_NAMES, "ToxiGen", *size)[: chosen.num_prompts]

    @cached_property
    def questions(self) -> tuple[list[str], list[str], int]:
        """The questions, what is offered as answers to each, and the number of subjects."""
        chosen = self.recipe.evaluate
        try:
            asked = load_questions(str(chosen.mmlu), split=chosen.mmlu_split).questions
        except MissingError as exc:
            number, known = published_sizes.QUESTIONS[chosen.mmlu_split], chosen.mmlu == MMLU_ID
            made = [self._published(exc, known, "MMLU", number, length) for length in published_sizes.CHARACTERS]
            return made[0], made[1], published_sizes.SUBJECTS
        subjects = len({question.subject for question in asked})
        return [q.question for q in asked], [" ".join(q.choices) for q in asked], subjects

    def _published(self, missing: MissingError, known: bool, name: str, number: int, characters: int) -> list[str]:
        """Stand in for texts that are missing, if their size is known."""
        if not known:
            raise missing
        self._note(name)
        return published_sizes.stand_ins(number, characters)

    def _note(self, name: str) -> None:
        if name not in self.published:
            self.published.append(name)

    def _job(self, folder: str) -> Job | None:
        return next((job for job in self.plan.bench.jobs if job.folder.name == folder), None)

    def _models_at_once(self, job: Job | None) -> int:
        """How many models are asked for a token: a method that acts while decoding mixes those that it needs."""
        if job is None or load_method(job.method).act is None:
            return 1
        needs = next(step.needs for step in self.plan.steps if step.name == job.step)
        return 1 + sum(need.startswith(_COPIES) for need in needs)

    def _text_length(self, model: str, recipe: Recipe) -> float:
        if recipe.texts.source is None:
            return recipe.texts.max_length
        return self._mean_length(model, [text.text for text in read_texts(recipe.texts.source).texts])

    def _shape(self, name: str) -> Shape:
        if name not in self.shapes:
            trust = self.recipe.trust_remote_code
            try:
                found = check_lm(name, trust_remote_code=trust)
                config, self.tokenizers[name] = found.config, found.tokenizer
            except MissingError as exc:
                config, self.tokenizers[name] = self._config(exc, name), published_sizes.tokens_of
            self.shapes[name] = shape_of(config, trust_remote_code=trust)
        return self.shapes[name]

    def _scorer(self, name: str) -> Shape:
        if name not in self.scorers:
            trust = self.recipe.trust_remote_code
            try:
                config = load_config(name, trust_remote_code=trust)
            except MissingError as exc:
                config = self._config(exc, name)
            self.scorers[name] = shape_of(config, classifier=True, trust_remote_code=trust)
        return self.scorers[name]

    def _config(self, missing: MissingError, name: str) -> Any:
        """Stand in for a model that is missing, if its size is known."""
        if name not in published_sizes.MODELS:
            raise missing
        self._note(name)
        return published_sizes.config_of(name)

    def _mean_length(self, model: str, texts: Sequence[str], most: float = math.inf) -> float:
        self._shape(model)
        chosen: Iterable[str] = texts[:: max(1, len(texts) // _SAMPLE)]
        lengths = [min(len(ids) + 1, most) for ids in self.tokenizers[model](list(chosen))["input_ids"]]
        return sum(lengths) / max(len(lengths), 1)
