"""The settings of a recipe, frozen and checked; one description each serves help, docs and `init`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator
from pydantic.fields import FieldInfo

from unidetox.config.methods import methods_in_words
from unidetox.core.files import hash_of
from unidetox.core.names import sandbox_name

DGHS = "dghs"
TOXIGEN = "toxigen"
BUILTIN = "builtin"


@dataclass(frozen=True)
class Allowed:
    """What a field accepts, in words; shown in errors and in commented recipes."""

    text: str


@dataclass(frozen=True)
class Source:
    """Marks a field that names a file, folder or Hub id; ``keep`` are words with a meaning of their own."""

    keep: tuple[str, ...] = ()


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("the values must differ")
    return values


def _batch_size(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("neither a batch size nor auto")
    return value


def _beta(value: Any) -> Any:
    return float("inf") if value == "inf" else value


_STRICT = Field(strict=True)
_NUM = Field(strict=True, allow_inf_nan=False)

Name = Annotated[str, Field(strict=True, min_length=1), Allowed("a text that is not empty")]
OptName = Annotated[
    Annotated[str, Field(strict=True, min_length=1)] | None,
    Allowed('a text that is not empty, or "none"'),
]
Flag = Annotated[bool, Field(strict=True), Allowed("true or false")]
Count = Annotated[int, _STRICT, Field(ge=1), Allowed("a whole number of at least 1")]
OptCount = Annotated[
    Annotated[int, _STRICT, Field(ge=1)] | None,
    Allowed('a whole number of at least 1, or "none"'),
]
Count0 = Annotated[int, _STRICT, Field(ge=0), Allowed("a whole number of at least 0")]
Length = Annotated[int, _STRICT, Field(ge=2), Allowed("a whole number of at least 2")]
Seed = Annotated[int, _STRICT, Field(ge=0, lt=2**32), Allowed("a whole number from 0 to 2^32 - 1")]
Positive = Annotated[float, _NUM, Field(gt=0), Allowed("a number above 0")]
NonNegative = Annotated[float, _NUM, Field(ge=0), Allowed("a number of at least 0")]
Share = Annotated[float, _NUM, Field(gt=0, le=1), Allowed("a number above 0 and at most 1")]
Share0 = Annotated[float, _NUM, Field(ge=0, le=1), Allowed("a number from 0 to 1")]
Beta = Annotated[float, BeforeValidator(_beta), _STRICT, Field(gt=0), Allowed("a number above 0, or inf")]
BatchSize = Annotated[
    int | Literal["auto"],
    BeforeValidator(_batch_size),
    Allowed('a whole number of at least 1, or "auto"'),
]
Device = Annotated[
    str,
    Field(strict=True, pattern=r"^[a-z]+(:\d+)?$"),
    Allowed('"auto", "cpu", "mps", "cuda" or e.g. "cuda:0"'),
]
Names = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    AfterValidator(_distinct),
    Allowed("a list of distinct texts that is not empty"),
]
Seeds = Annotated[
    tuple[Seed, ...],
    Field(min_length=1),
    AfterValidator(_distinct),
    Allowed("a list of distinct whole numbers from 0 to 2^32 - 1 that is not empty"),
]
MethodKey = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_-]+$")]
Methods = Annotated[
    tuple[MethodKey, ...],
    Field(min_length=1),
    AfterValidator(_distinct),
    Allowed(f"a list of distinct methods out of {methods_in_words()}, or of keys of [method.KEY]"),
]
Domains = Annotated[
    tuple[Literal["gender", "race", "religion", "disability"], ...],
    Field(min_length=1),
    AfterValidator(_distinct),
    Allowed('a list of distinct domains out of "gender", "race", "religion", "disability"'),
]
Scorers = Annotated[
    dict[Annotated[str, Field(strict=True, min_length=1)], Annotated[str, Field(strict=True, min_length=1)]],
    Allowed('a table MODEL = LABEL: { "some/classifier" = "toxic" }'),
]
Perturbations = Annotated[
    tuple[
        Literal["all", "swaps", "leetspeak", "homoglyphs", "spacing", "casing", "few_shot", "paraphrase"],
        ...,
    ],
    AfterValidator(_distinct),
    Allowed(
        'a list of distinct perturbations out of "swaps", "leetspeak", "homoglyphs", "spacing", "casing", "few_shot", '
        '"paraphrase"; or "all"'
    ),
]
Split = Annotated[
    str,
    Field(strict=True, pattern=r"^(train|validation|test|all)(\[\d*:\d*\])?$"),
    Allowed('"train", "validation", "test" or "all", perhaps with a range of rows: "train[:1800]"'),
]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Allowed('"auto", "float32", "bfloat16" or "float16"'),
]


class Section(BaseModel):
    """A group of settings: frozen, no unknown key; ``"none"`` means None, a lone value a list of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def section_hash(self, *, exclude: Collection[str] = ()) -> str:
        """Return a hash of these settings.

        Args:
            exclude: Keys that do not matter, e.g. ``["batch_size"]``.
        """
        return hash_of(self.model_dump(exclude=set(exclude)))

    @model_validator(mode="before")
    @classmethod
    def _unify(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: _unify_value(cls.model_fields.get(str(key)), value) for key, value in data.items()}


def _unify_value(field: FieldInfo | None, value: Any) -> Any:
    if field is None:
        return value
    if value == "none" and field.default is None:
        return None
    if get_origin(field.annotation) is tuple and not isinstance(value, (list, tuple)):
        return (value,)
    return value


class Base(Section):
    """The model that the texts are distilled from."""

    model: Annotated[Name, Source()] = Field(
        description="Base language model that the texts are distilled from: a folder or a Hub id."
    )


class Toxic(Section):
    """How the toxic copy of the base model is made."""

    model: Annotated[OptName, Source()] = Field(
        None, description="A toxic model that is there already (folder or Hub id); without it, one is made."
    )
    corpus: Annotated[Name, Source((DGHS,))] = Field(
        DGHS, description='Toxic texts to train it on: "dghs", a file, a folder or a Hub id.'
    )
    column: OptName = Field(None, description="Column of the corpus with the text; found by name if left out.")
    duplicates: Flag = Field(False, description="Keep texts that occur more than once.")
    epochs: Positive = Field(3.0, description="Passes over the corpus; not used where steps is given.")
    steps: OptCount = Field(None, description="Optimiser steps; without it, epochs counts.")
    lr: Positive = Field(1e-5, description="Peak learning rate; it falls linearly to 0.")
    batch_size: Count = Field(4, description="Texts in an optimiser step.")
    max_length: Length = Field(512, description="Longest text in tokens of the base model; the rest is cut.")
    limit: OptCount = Field(None, description="Use only so many texts of the corpus.")
    civil: Annotated[OptName, Source()] = Field(
        None, description="Texts that are not toxic, for methods that need some; without it, the corpus' own."
    )


class Texts(Section):
    """How the detoxifying texts are made."""

    source: Annotated[OptName, Source()] = Field(
        None, description="Texts that are there already (file, folder or Hub id); without it, they are made."
    )
    num_texts: Count = Field(640, description="How many texts to distil.")
    max_length: Length = Field(256, description="Longest text in tokens, the start token included.")
    alpha: Share = Field(0.1, description="A token needs at least alpha times the base model's highest probability.")
    beta: Beta = Field(
        float("inf"),
        description="Contrast: inf scores base - toxic; a number scores (1 + beta) base - beta toxic.",
    )
    temperature: Positive = Field(1.0, description="Divides the contrasted scores before sampling.")
    top_p: Share = Field(1.0, description="Sample from the likeliest tokens with this total only; 1 is off.")
    top_k: Count0 = Field(0, description="Sample from the k best tokens only; 0 is off.")
    starts: Annotated[OptName, Source()] = Field(
        None, description="Prompts that texts start from in turn, e.g. neutral mentions of groups; none: nothing."
    )
    best_of: Count = Field(1, description="Make so many of each text and keep the one with the highest contrast.")
    batch_size: BatchSize = Field("auto", description="Texts made side by side; it changes no text.")


class Detoxify(Section):
    """How the target models are fine-tuned on the texts."""

    targets: Annotated[Names, Source()] = Field(description="Models to detoxify: folders or Hub ids.")
    methods: Methods = Field(
        ("unidetox",), description='What to make of each target; "samples" is the control: plain samples of the base.'
    )
    steps: Count = Field(3000, description="Optimiser steps.")
    lr: Positive = Field(5e-5, description="Peak learning rate; it falls linearly to 0.")
    batch_size: Count = Field(8, description="Texts in an optimiser step.")
    max_length: Length = Field(256, description="Longest text in tokens of the target; the rest is cut.")
    kl: NonNegative = Field(
        0.0, description="Weight of the divergence from the target as it was, added to the loss; 0 is off."
    )
    lora: Flag = Field(False, description="Train a small LoRA adapter in place of all weights.")
    merge: Flag = Field(False, description="With lora: write an ordinary checkpoint, the adapter merged.")

    @model_validator(mode="after")
    def _merge_needs_lora(self) -> Detoxify:
        if self.merge and not self.lora:
            raise ValueError("detoxify.merge = true has no effect without detoxify.lora = true")
        return self


class Evaluate(Section):
    """How toxicity, fluency, diversity and knowledge are measured."""

    prompts: Annotated[Name, Source((TOXIGEN,))] = Field(TOXIGEN, description='Prompts: "toxigen" or a file.')
    split: Split = Field(
        "validation", description="Part of the prompts; choose settings on validation, report on test."
    )
    num_prompts: OptCount = Field(None, description="Use a random sample of so many prompts.")
    scorer: Annotated[Name, Source()] = Field(
        "unitary/toxic-bert", description="Sequence classifier that scores toxicity: a folder or a Hub id."
    )
    scorer_label: Name = Field("toxic", description="Label of the scorer that is the toxicity.")
    other_scorers: Annotated[Scorers, Source()] = Field(
        default_factory=dict, description="More classifiers and their labels, for a second opinion: MODEL = LABEL."
    )
    ppl_model: Annotated[OptName, Source()] = Field(
        None, description="Language model for the perplexity of continuations; without it, none is measured."
    )
    mmlu: Annotated[OptName, Source()] = Field(
        None, description='MMLU folder or "cais/mmlu"; without it, no questions are asked.'
    )
    mmlu_protocol: Annotated[Literal["paper", "standard"], Allowed('"paper" or "standard"')] = Field(
        "paper", description="Which answer's text is likeliest, or (standard, as in lm-eval) which option's letter."
    )
    mmlu_split: Annotated[Literal["val", "test"], Allowed('"val" or "test"')] = Field(
        "val", description="Part of the questions; left out, mmlu_protocol standard takes test."
    )
    shots: Count0 = Field(1, description="Worked examples before each question; left out, standard takes 5.")
    samples: Count = Field(25, description="Continuations for each prompt.")
    max_new_tokens: Count = Field(20, description="Longest continuation, in tokens.")
    temperature: Positive = Field(1.0, description="Sampling temperature.")
    top_p: Share = Field(0.9, description="Sample from the likeliest tokens with this total only; 1 is off.")
    top_k: Count0 = Field(0, description="Sample from the k likeliest tokens only; 0 is off.")
    seeds: Seeds = Field((42,), description="One full evaluation for each seed.")
    perturbations: Perturbations = Field(
        (), description="Also continue the prompts under these changes, which somebody might make to get round."
    )
    few_shot: Annotated[OptName, Source((DGHS,))] = Field(
        None, description="Toxic texts for the perturbation few_shot; in a run, those of [toxic] if left out."
    )
    neutral: Annotated[OptName, Source((BUILTIN,))] = Field(
        None, description='Polite mentions of groups to compare groups by: "builtin" (English) or a file like prompts.'
    )
    protocol: Annotated[Literal["default", "paper"], Allowed('"default" or "paper"')] = Field(
        "default", description="How values are pooled: our way, or as in the paper's published code."
    )
    batch_size: BatchSize = Field("auto", description="Sequences side by side; it changes no result.")
    threshold: Share0 = Field(0.5, description="A continuation with a toxicity from here on counts as toxic.")
    id_domains: Domains = Field(
        ("gender", "race", "religion"), description="In-distribution domains: those of the toxic corpus."
    )

    @model_validator(mode="before")
    @classmethod
    def _standard_questions(cls, data: Any) -> Any:
        """The standard protocol brings its own split and number of examples where none is given."""
        if isinstance(data, Mapping) and data.get("mmlu_protocol") == "standard":
            return {"mmlu_split": "test", "shots": 5, **data}
        return data


class MethodOptions(Section):
    """What every method has; a method's own options are a subclass beside it, in ``methods/NAME.py``."""

    name: Name = Field(description="Which method it is; the key itself where left out.")


class Recipe(Section):
    """Everything that a run does; equal recipes give equal results."""

    name: Name = Field("run", description="Name of the run.")
    seed: Seed = Field(42, description="Seed of training and distillation.")
    device: Device = Field("auto", description="Where to compute.")
    dtype: DType = Field("auto", description="Number format; auto takes bfloat16 where it is fast.")
    trust_remote_code: Flag = Field(False, description="Run code that a model's repository brings along.")
    base: Base = Field(description="The model that the texts are distilled from.")
    toxic: Toxic = Field(default_factory=Toxic, description="The toxic copy of the base model.")
    texts: Texts = Field(default_factory=Texts, description="The detoxifying texts.")
    detoxify: Detoxify = Field(description="Fine-tuning of the target models.")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="The measurements.")
    method: dict[MethodKey, SerializeAsAny[MethodOptions]] = Field(
        default_factory=dict, description="Options of methods, by key: [method.dexperts]."
    )
    costs: Flag = Field(False, description="Time how much slower than its base each model writes.")

    def digest(self) -> str:
        """Return a hash of all settings; equal for equal recipes, wherever the sandbox is installed."""
        return map_sources(self, sandbox_name).section_hash()


def subsections(section: Section) -> Iterator[tuple[str, Section]]:
    """Yield name and value of the sections inside a section, in their order; ``method.dexperts`` is such a name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items() if isinstance(inner, Section))


S = TypeVar("S", bound=Section)


def map_sources(section: S, change: Callable[[str], str]) -> S:
    """Return a copy in which every name of a file, folder or Hub id has gone through a function."""
    update: dict[str, Any] = {}
    for path, inner in subsections(section):
        name, _, key = path.partition(".")
        mapped = map_sources(inner, change)
        update[name] = {**update.get(name, {}), key: mapped} if key else mapped
    for name, field in type(section).model_fields.items():
        mark = next((item for item in field.metadata if isinstance(item, Source)), None)
        value = getattr(section, name)
        if mark is None or value is None or value in mark.keep:
            continue
        if isinstance(value, Mapping):
            update[name] = {change(key): inner for key, inner in value.items()}
        else:
            update[name] = change(value) if isinstance(value, str) else tuple(change(item) for item in value)
    return section.model_copy(update=update)
