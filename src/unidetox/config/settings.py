"""The settings of a recipe, frozen and checked; one description each serves help, docs and `init`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator
from pydantic.fields import FieldInfo

from unidetox.config.methods import methods_in_words
from unidetox.core.files import hash_of
from unidetox.core.resolve import after_kind, sandbox_name

DGHS = "dghs"
TOXIGEN = "toxigen"
BUILTIN = "builtin"
ID_DOMAINS: Final = ("gender", "race", "religion")
PUBLISHED = "published"


@dataclass(frozen=True)
class Allowed:
    """What a field accepts, in words; shown in errors and in commented recipes."""

    text: str


@dataclass(frozen=True)
class Source:
    """Marks a field that names a file, folder or Hub id.

    Attributes:
        keep: Words with a meaning of their own.
        kinds: Whether names may say what they name: ``KIND:NAME``.
    """

    keep: tuple[str, ...] = ()
    kinds: bool = False


Key = Literal[
    "train", "distill", "sample-texts", "detoxify", "folder",
    "evaluate", "sampling", "scoring", "likelihood", "answers", "speed", "trial",
]  # fmt: skip
"""What is known by the settings that it depends on: stages, parts of an evaluation, folders, trials of a search."""


@dataclass(frozen=True)
class InKeys:
    """Marks a setting that is in these keys only.

    A setting without this mark is in every key, so that no result of other settings is taken for one of its own.
    """

    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Later:
    """Marks a setting that came after the first results: at its default it is in no key, so that these stay fresh."""


_IN_NO_KEY = InKeys()


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
OptCount0 = Annotated[
    Annotated[int, _STRICT, Field(ge=0)] | None,
    Allowed('a whole number of at least 0, or "none"'),
]
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

    def key(self, name: Key) -> dict[str, Any]:
        """Return the settings that something depends on: all but those that a mark leaves out.

        Args:
            name: What depends on them.
        """
        fields = type(self).model_fields.items()
        return self.model_dump(include={field for field, info in fields if self._is_in(name, field, info.metadata)})

    def _is_in(self, name: Key, field: str, marks: Sequence[Any]) -> bool:
        if Later() in marks and getattr(self, field) == type(self).model_fields[field].get_default():
            return False
        return all(name in mark.keys for mark in marks if isinstance(mark, InKeys))

    def section_hash(self, name: Key | None = None) -> str:
        """Return a hash of these settings, or of those in a key."""
        return hash_of(self.model_dump() if name is None else self.key(name))

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
    """How the toxic copy of the base model is made; what it learns from is known by its content."""

    model: Annotated[OptName, Source(), _IN_NO_KEY] = Field(
        None, description="A toxic model that is there already (folder or Hub id); without it, one is made."
    )
    corpus: Annotated[Name, Source((DGHS,)), _IN_NO_KEY] = Field(
        DGHS, description='Toxic texts to train it on: "dghs", a file, a folder or a Hub id.'
    )
    column: Annotated[OptName, _IN_NO_KEY] = Field(
        None, description="Column of the corpus with the text; found by name if left out."
    )
    duplicates: Annotated[Flag, _IN_NO_KEY] = Field(False, description="Keep texts that occur more than once.")
    epochs: Positive = Field(3.0, description="Passes over the corpus; not used where steps is given.")
    steps: OptCount = Field(None, description="Optimiser steps; without it, epochs counts.")
    lr: Positive = Field(1e-5, description="Peak learning rate; it falls linearly to 0.")
    batch_size: Count = Field(4, description="Texts in an optimiser step.")
    max_length: Length = Field(512, description="Longest text in tokens of the base model; the rest is cut.")
    limit: Annotated[OptCount, _IN_NO_KEY] = Field(None, description="Use only so many texts of the corpus.")
    civil: Annotated[OptName, Source(), _IN_NO_KEY] = Field(
        None, description="Texts that are not toxic, for methods that need some; without it, the corpus' own."
    )


# Plain samples are drawn without one.
_CONTRAST = InKeys(("distill", "folder"))


class Texts(Section):
    """How the detoxifying texts are made."""

    source: Annotated[OptName, Source((PUBLISHED,)), InKeys(("folder",))] = Field(
        None, description='Texts that are there already: "published", a file, a folder or a Hub id; else they are made.'
    )
    num_texts: Count = Field(640, description="How many texts to distil.")
    max_length: Length = Field(256, description="Longest text in tokens, the start token included.")
    alpha: Annotated[Share, _CONTRAST] = Field(
        0.1, description="A token needs at least alpha times the base model's highest probability."
    )
    beta: Annotated[Beta, _CONTRAST] = Field(
        float("inf"),
        description="Contrast: inf scores base - toxic; a number scores (1 + beta) base - beta toxic.",
    )
    temperature: Positive = Field(1.0, description="Divides the contrasted scores before sampling.")
    top_p: Share = Field(1.0, description="Sample from the likeliest tokens with this total only; 1 is off.")
    top_k: Count0 = Field(0, description="Sample from the k best tokens only; 0 is off.")
    starts: Annotated[OptName, Source(), InKeys(("folder",))] = Field(
        None, description="Prompts that texts start from in turn, e.g. neutral mentions of groups; none: nothing."
    )
    best_of: Annotated[Count, _CONTRAST] = Field(
        1, description="Make so many of each text and keep the one with the highest contrast."
    )
    batch_size: Annotated[BatchSize, _IN_NO_KEY] = Field(
        "auto", description="Texts made side by side; it changes no text."
    )


class Detoxify(Section):
    """How the target models are fine-tuned on the texts."""

    targets: Annotated[Names, Source(), _IN_NO_KEY] = Field(description="Models to detoxify: folders or Hub ids.")
    methods: Annotated[Methods, _IN_NO_KEY] = Field(
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


# A trial of a search is judged by toxicity and perplexity; whatever else the section asks for is for the report.
_OUTSIDE = InKeys(("trial",))  # what is read from outside is known by its content
_DRAWN = InKeys(("evaluate", "sampling", "speed", "trial"))
_ASKED = InKeys(("evaluate", "answers"))
_SUMMED = InKeys(("evaluate", "trial"))


class Evaluate(Section):
    """How toxicity, fluency, diversity and knowledge are measured."""

    prompts: Annotated[Name, Source((TOXIGEN,)), _OUTSIDE] = Field(TOXIGEN, description='Prompts: "toxigen" or a file.')
    split: Annotated[Split, _OUTSIDE] = Field(
        "validation", description="Part of the prompts; choose settings on validation, report on test."
    )
    num_prompts: Annotated[OptCount, _OUTSIDE] = Field(None, description="Use a random sample of so many prompts.")
    scorer: Annotated[Name, Source(kinds=True), _OUTSIDE] = Field(
        "unitary/toxic-bert", description="Sequence classifier that scores toxicity: a folder or a Hub id."
    )
    scorer_label: Annotated[Name, _SUMMED] = Field("toxic", description="Label of the scorer that is the toxicity.")
    other_scorers: Annotated[Scorers, Source(kinds=True), _IN_NO_KEY] = Field(
        default_factory=dict, description="More classifiers and their labels, for a second opinion: MODEL = LABEL."
    )
    ppl_model: Annotated[OptName, Source(), _OUTSIDE] = Field(
        None, description="Language model for the perplexity of continuations; without it, none is measured."
    )
    mmlu: Annotated[OptName, Source(), _IN_NO_KEY] = Field(
        None, description='MMLU folder or "cais/mmlu"; without it, no questions are asked.'
    )
    mmlu_protocol: Annotated[Literal["paper", "standard"], Allowed('"paper" or "standard"'), _ASKED] = Field(
        "paper", description="Which answer's text is likeliest, or (standard, as in lm-eval) which option's letter."
    )
    mmlu_split: Annotated[Literal["val", "test"], Allowed('"val" or "test"'), _IN_NO_KEY] = Field(
        "val", description="Part of the questions; left out, mmlu_protocol standard takes test."
    )
    shots: Annotated[Count0, _ASKED] = Field(
        1, description="Worked examples before each question; left out, standard takes 5."
    )
    samples: Annotated[Count, InKeys(("evaluate", "sampling", "trial"))] = Field(
        25, description="Continuations for each prompt."
    )
    max_new_tokens: Annotated[Count, _DRAWN] = Field(20, description="Longest continuation, in tokens.")
    temperature: Annotated[Positive, _DRAWN] = Field(1.0, description="Sampling temperature.")
    top_p: Annotated[Share, _DRAWN] = Field(
        0.9, description="Sample from the likeliest tokens with this total only; 1 is off."
    )
    top_k: Annotated[OptCount0, _DRAWN] = Field(
        None, description="Sample from the k likeliest tokens only, 0 is off; left out: off, and 50 in protocol paper."
    )
    seeds: Annotated[Seeds, _SUMMED] = Field((42,), description="One full evaluation for each seed.")
    perturbations: Annotated[Perturbations, _IN_NO_KEY] = Field(
        (), description="Also continue the prompts under these changes, which somebody might make to get round."
    )
    few_shot: Annotated[OptName, Source((DGHS,)), _IN_NO_KEY] = Field(
        None, description="Toxic texts for the perturbation few_shot; in a run, those of [toxic] if left out."
    )
    neutral: Annotated[OptName, Source((BUILTIN,)), _IN_NO_KEY] = Field(
        None, description='Polite mentions of groups to compare groups by: "builtin" (English) or a file like prompts.'
    )
    protocol: Annotated[
        Literal["default", "paper"], Allowed('"default" or "paper"'), InKeys(("evaluate", "speed", "trial"))
    ] = Field("default", description="How values are pooled: our way, or as in the paper's published code.")
    batch_size: Annotated[BatchSize, InKeys(("speed", "trial"))] = Field(
        "auto", description="Sequences side by side; it changes no result."
    )
    threshold: Annotated[Share0, _SUMMED] = Field(
        0.5, description="A continuation with a toxicity from here on counts as toxic."
    )
    id_domains: Annotated[Domains, _SUMMED] = Field(
        ID_DOMAINS, description="In-distribution domains: those of the toxic corpus."
    )

    def key(self, name: Key) -> dict[str, Any]:
        """As `Section.key`; a top-k that is left out counts as 0, as it did before protocol paper could do without."""
        off = "off" if self.protocol == "paper" and self.top_k == 0 else 0
        found = super().key(name)
        return found | {"top_k": self.top_k or off} if "top_k" in found else found

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
        one = partial(after_kind, change) if mark.kinds else change
        if isinstance(value, Mapping):
            update[name] = {one(key): inner for key, inner in value.items()}
        else:
            update[name] = one(value) if isinstance(value, str) else tuple(map(one, value))
    return section.model_copy(update=update)
