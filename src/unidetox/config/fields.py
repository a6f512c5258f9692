"""What settings are made of: sections, kinds of values, what is allowed in words, and marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from unidetox.config.methods import methods_in_words
from unidetox.core.files import hash_of
from unidetox.core.resolve import after_kind


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
OptNames = Annotated[
    tuple[Name, ...],
    AfterValidator(_distinct),
    Allowed("a list of distinct texts"),
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


OptimizerName = Annotated[
    Literal["adamw_torch_fused", "adamw_torch", "adafactor", "adamw_8bit", "paged_adamw_8bit"],
    Allowed('"adamw_torch_fused", "adamw_torch", "adafactor", "adamw_8bit" or "paged_adamw_8bit"'),
]


Headings = dict[str, tuple[str, ...]]
"""Heading in the help -> settings under it."""


class Section(BaseModel):
    """A group of settings: frozen, no unknown key; ``"none"`` means None, a lone value a list of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    HEADINGS: ClassVar[Headings] = {}

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
        return hash_of(self.known(by_alias=True) if name is None else self.key(name))

    def known(self, **more: Any) -> dict[str, Any]:
        """Return all settings but those that came later and have their default.

        Args:
            more: How to write them, as for ``model_dump``.
        """
        return self.model_dump(exclude=self._later(), **more)

    def _later(self) -> dict[str, Any]:
        later: dict[str, Any] = {}
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            if isinstance(value, Section):
                later[field] = value._later()
            elif Later() in info.metadata and value == info.get_default():
                later[field] = True
        return {field: inner for field, inner in later.items() if inner}

    @classmethod
    def heading(cls, name: str) -> str:
        """Return what a setting stands under in the help."""
        return next((heading for heading, names in cls.HEADINGS.items() if name in names), "Settings")

    @classmethod
    def by_heading(cls) -> list[str]:
        """Return all settings in the order of the help."""
        headings = [*cls.HEADINGS, "Settings"]
        return sorted(cls.model_fields, key=lambda name: headings.index(cls.heading(name)))

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
