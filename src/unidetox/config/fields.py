"""What settings are made of: sections, kinds of values, what is allowed in words, and marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

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


_NUM = Field(strict=True, allow_inf_nan=False)
_INF = BeforeValidator(lambda value: float("inf") if value == "inf" else value)
_DISTINCT, _SOME = AfterValidator(_distinct), Field(min_length=1)

Name = Annotated[str, Field(strict=True, min_length=1), Allowed("a text that is not empty")]
OptName = Annotated[Name | None, Allowed('a text that is not empty, or "none"')]
Flag = Annotated[bool, Field(strict=True), Allowed("true or false")]
Count = Annotated[int, Field(strict=True, ge=1), Allowed("a whole number of at least 1")]
OptCount = Annotated[Count | None, Allowed('a whole number of at least 1, or "none"')]
Count0 = Annotated[int, Field(strict=True, ge=0), Allowed("a whole number of at least 0")]
OptCount0 = Annotated[Count0 | None, Allowed('a whole number of at least 0, or "none"')]
Length = Annotated[int, Field(strict=True, ge=2), Allowed("a whole number of at least 2")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32), Allowed("a whole number from 0 to 2^32 - 1")]
Positive = Annotated[float, _NUM, Field(gt=0), Allowed("a number above 0")]
NonNegative = Annotated[float, _NUM, Field(ge=0), Allowed("a number of at least 0")]
Share = Annotated[float, _NUM, Field(gt=0, le=1), Allowed("a number above 0 and at most 1")]
Share0 = Annotated[float, _NUM, Field(ge=0, le=1), Allowed("a number from 0 to 1")]
Beta = Annotated[float, _INF, Field(strict=True, gt=0), Allowed("a number above 0, or inf")]
BatchSize = Annotated[Count | Literal["auto"], Allowed('a whole number of at least 1, or "auto"')]
Device = Annotated[
    str, Field(strict=True, pattern=r"^[a-z]+(:\d+)?$"), Allowed('"auto", "cpu", "mps", "cuda" or e.g. "cuda:0"')
]
Names = Annotated[tuple[Name, ...], _SOME, _DISTINCT, Allowed("a list of distinct texts that is not empty")]
OptNames = Annotated[tuple[Name, ...], _DISTINCT, Allowed("a list of distinct texts")]
Seeds = Annotated[
    tuple[Seed, ...], _SOME, _DISTINCT, Allowed("a list of distinct whole numbers from 0 to 2^32 - 1 that is not empty")
]
MethodKey = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_-]+$")]
Methods = Annotated[
    tuple[MethodKey, ...],
    _SOME,
    _DISTINCT,
    Allowed(f"a list of distinct methods out of {methods_in_words()}, or of keys of [method.KEY]"),
]
Domains = Annotated[
    tuple[Literal["gender", "race", "religion", "disability"], ...],
    _SOME,
    _DISTINCT,
    Allowed('a list of distinct domains out of "gender", "race", "religion", "disability"'),
]
Scorers = Annotated[dict[Name, Name], Allowed('a table MODEL = LABEL: { "some/classifier" = "toxic" }')]
Perturbations = Annotated[
    tuple[Literal["all", "swaps", "leetspeak", "homoglyphs", "spacing", "casing", "few_shot", "paraphrase"], ...],
    _DISTINCT,
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
# What these take stands in the type.
DType = Literal["auto", "float32", "bfloat16", "float16"]
OptimizerName = Literal["adamw_torch_fused", "adamw_torch", "adafactor", "adamw_8bit", "paged_adamw_8bit"]


Headings = dict[str, tuple[str, ...]]
"""Heading in the help -> settings under it, in the order of the help."""


S = TypeVar("S", bound="Section")
M = TypeVar("M", Source, InKeys, Later)


class Section(BaseModel):
    """A group of settings: frozen, no unknown key; ``"none"`` means None, a lone value a list of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    HEADINGS: ClassVar[Headings] = {}

    def key(self, name: Key) -> dict[str, Any]:
        """Return the settings that something depends on: all but those that a mark leaves out.

        Args:
            name: What depends on them.
        """
        others = {field for field, mark in self._marked(InKeys) if name not in mark.keys}
        return self.model_dump(exclude=others | self._later().keys())

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
        later: dict[str, Any] = {name: inner._later() for name, inner in self if isinstance(inner, Section)}
        for name, _ in self._marked(Later):
            later[name] = getattr(self, name) == type(self).model_fields[name].get_default()
        return {name: inner for name, inner in later.items() if inner}

    @classmethod
    def _marked(cls, kind: type[M]) -> Iterator[tuple[str, M]]:
        """Yield the settings that have a mark of a kind, and the mark."""
        for name, field in cls.model_fields.items():
            yield from ((name, mark) for mark in field.metadata if isinstance(mark, kind))

    @field_validator("*", mode="before")
    @classmethod
    def _unify(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if value == "none" and field.default is None:
            return None
        is_lone = get_origin(field.annotation) is tuple and not isinstance(value, (list, tuple))
        return (value,) if is_lone else value


def subsections(section: Section) -> Iterator[tuple[str, Section]]:
    """Yield name and value of the sections inside a section, in their order; ``method.dexperts`` is such a name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items() if isinstance(inner, Section))


def map_sources(section: S, change: Callable[[str], str]) -> S:
    """Return a copy in which every name of a file, folder or Hub id has gone through a function."""
    update: dict[str, Any] = {}
    for path, inner in subsections(section):
        name, _, key = path.partition(".")
        mapped = map_sources(inner, change)
        update[name] = {**update.get(name, {}), key: mapped} if key else mapped
    for name, mark in section._marked(Source):
        value, one = getattr(section, name), partial(after_kind, change) if mark.kinds else change
        if isinstance(value, str):
            update[name] = value if value in mark.keep else one(value)
        elif isinstance(value, Mapping):
            update[name] = {one(key): inner for key, inner in value.items()}
        elif value is not None:
            update[name] = tuple(map(one, value))
    return section.model_copy(update=update)
