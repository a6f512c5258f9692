"""Prompts with the group that they mention and its domain: ToxiGen's annotated part, or any file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from unidetox.core.errors import UsageError
from unidetox.core.files import hash_of
from unidetox.core.resolve import at_revision
from unidetox.data.files import check_count, count, load_table, pick_column, sample_indices, say_once, summary, text_of
from unidetox.data.formats import Table
from unidetox.data.hub_datasets import ALIASES, known_id, load_hub_table

TOXIGEN_ID = ALIASES["toxigen"]
TOXIGEN_IDS = (TOXIGEN_ID, "skg/toxigen-data")
_TOXIGEN_COLUMNS = {"text", "target_group", "toxicity_ai", "toxicity_human"}
_SPLITS = ("validation", "train", "test", "all")
PROMPT_COLUMNS = ("text", "prompt")
DOMAINS = ("gender", "race", "religion", "disability")
_AGGREGATES = ("id", "ood", "all")
VALIDATION_SHARE = 0.1
_SPLIT = re.compile(r"(\w+)(?:\[(\d*):(\d*)\])?")

# ToxiGen spells its 13 groups in one way in the train split and in up to two others in the test split; each
# is one group in our results.
_CANONICAL = {
    "asian folks": "asian", "chinese folks": "chinese", "jewish folks": "jewish", "muslim folks": "muslim",
    "black folks / african-americans": "black", "black/african-american folks": "black",
    "folks with mental disabilities": "mental_dis", "folks with physical disabilities": "physical_dis",
    "latino/hispanic folks": "latino", "lgbtq+ folks": "lgbtq", "mexican folks": "mexican",
    "middle eastern folks": "middle_east",
    "native american folks": "native_american", "native american/indigenous folks": "native_american",
}  # fmt: skip

TOXIGEN_TEST_GROUPS = frozenset(_CANONICAL)
"""Spellings of groups, in lower case, that no row of ToxiGen's train split has."""

# Domain -> groups as `_plain` writes them: ToxiGen's own, and what other prompt sets call the same people.
_GROUPS = {
    "gender": """women woman men man female male girl boy lgbtq lgbtqia lgbt gay lesbian bisexual trans
        transgender queer homosexual gender sexuality gender_minority nonbinary gay_men gay_women trans_women
        trans_men""",
    "race": """black african african_american black_african_american asian asian_american chinese latino
        latina latinx hispanic latino_hispanic mexican middle_east middle_eastern arab native_american
        indigenous native_american_indigenous immigrant refugee foreigner white caucasian indian pakistani
        japanese korean european roma race ethnicity mixed_race pacific_islander""",
    "religion": """muslim jewish jew islam judaism christian christianity catholic protestant hindu hinduism
        buddhist sikh atheist religion""",
    "disability": """mental_dis physical_dis mental_disability physical_disability mental_disabilities
        physical_disabilities disability disabilities disabled mentally_disabled physically_disabled
        mental_illness mentally_ill blind deaf autistic""",
}
_DOMAIN_OF = {group: domain for domain, groups in _GROUPS.items() for group in groups.split()}
_DOMAIN_NAMES = {"gender_lgbtq": "gender", "race_nationalities": "race"}


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        prompt_id: Number of the row in its source, from 0.
        text: As it stands in the source.
        group: The group that it mentions; ToxiGen's long spellings become its short ones (``physical_dis``).
        domain: ``gender``, ``race``, ``religion``, ``disability``, another word of the file's own, or None.
    """

    prompt_id: str
    text: str
    group: str | None
    domain: str | None


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one source.

    Attributes:
        prompts: In the order of the source.
        source: What the user typed.
        sha256: Hash of the prompts; the same from any file format.
        dropped: How many rows were left out, by reason (``empty``, ``not_in_split``, ``over_limit``).
        unmapped_groups: Groups that belong to no domain, with how many prompts mention them.
    """

    prompts: tuple[Prompt, ...]
    source: str
    sha256: str
    dropped: dict[str, int] = field(default_factory=dict)
    unmapped_groups: dict[str, int] = field(default_factory=dict)


def load_prompts(
    source: str, *, split: str = "validation", num_prompts: int | None = None, seed: int = 42
) -> PromptSet:
    """Load prompts from ToxiGen, or from a file with ``text`` and optionally ``group`` and ``domain``.

    ``prompt`` is read for ``text`` and ``target_group`` for ``group`` too. ToxiGen has no validation split:
    the paper's is a random tenth of the train split (896 of 8 960 prompts, with seed 42 the very rows of the
    published code). That also holds for a local file with ToxiGen's columns. Of any other file all rows are
    taken, whatever the split.

    Args:
        source: ``"toxigen"``, a file, or a Hub id.
        split: ``validation``, ``train``, ``test`` or ``all``; of a local file the last three mean every row. A range
            of rows may follow, as in `datasets`: ``train[:1800]``.
        num_prompts: Take a random sample of this size; the order stays.
        seed: Of the validation tenth and of the sample.

    Returns:
        The prompts; equal texts stay apart by their ``prompt_id``.

    Raises:
        MissingError: There is no such file or data set.
        UsageError: It cannot be used, or an unknown split.

    Reference:
        UniDetox (ICLR 2025), evaluation; Hartvigsen et al. (2022), arXiv:2203.09509.
    """
    check_count(num_prompts, "the number of prompts")
    part, window = _parse_split(split)
    table = _load(source, part)
    hint = "rename the one that holds the prompts to 'text'"
    column = pick_column(table, None, hint, PROMPT_COLUMNS, "no column 'text' or 'prompt'")
    dropped: dict[str, int] = {}
    chosen = _rows_of_split(table, part, seed)[window]
    count(dropped, f"not_in_{split}_split", len(table.rows) - len(chosen))
    rows = [(index, table.rows[index]) for index in chosen]
    prompts = [prompt for index, row in rows if (prompt := _prompt(row, index, column, table.source))]
    count(dropped, "empty", len(rows) - len(prompts))
    if not prompts:
        raise UsageError(f"{source}: no prompt in column '{column}'", hint="give a file that holds at least one")
    if num_prompts is not None and num_prompts < len(prompts):
        count(dropped, "over_limit", len(prompts) - num_prompts)
        prompts = [prompts[index] for index in sample_indices(len(prompts), num_prompts, seed)]
    unmapped = dict(Counter(prompt.group for prompt in prompts if prompt.group and not prompt.domain))
    note = "; groups without a domain: " + ", ".join(f"{g} ({n:,})" for g, n in unmapped.items()) if unmapped else ""
    repeated = len(prompts) - len({prompt.text for prompt in prompts})
    note += f"; {repeated:,} repeat an earlier one and stay apart" if repeated else ""
    say_once(summary(source, len(prompts), "prompts", dropped) + note)
    sha256 = hash_of([[p.prompt_id, p.text, p.group, p.domain] for p in prompts])
    return PromptSet(tuple(prompts), source, sha256, dropped, unmapped)


def domain_of(group: str | None) -> str | None:
    """The domain of a group, whatever its spelling.

    Args:
        group: E.g. ``"women"``, ``"black/african-american folks"``, ``"Muslims"``.

    Returns:
        ``gender``, ``race``, ``religion``, ``disability``, or None where the group is unknown.
    """
    if not group:
        return None
    plain = _plain(group)
    return _DOMAIN_OF.get(plain) or _DOMAIN_OF.get(plain.removesuffix("s"))


def _plain(group: str) -> str:
    """``"Black folks / African-Americans"`` -> ``"black_african_americans"``."""
    words = re.findall(r"[a-z]+", group.lower())
    return "_".join(word for word in words if word not in {"folks", "folk", "people", "persons", "with", "the", "of"})


def _load(source: str, part: str) -> Table:
    if not is_toxigen(source):
        return load_table(source, (part, "train", "test"))
    name = at_revision(*known_id(source))
    return load_hub_table(name, ["test" if part == "test" else "train"], config="annotated")


def is_toxigen(source: str) -> bool:
    """Whether a name means ToxiGen of the Hub, in whatever revision."""
    return known_id(source)[0] in TOXIGEN_IDS


def _parse_split(split: str) -> tuple[str, slice]:
    """``"train[:1800]"`` -> ``"train", slice(None, 1800)``."""
    found = _SPLIT.fullmatch(split)
    if found is None or found[1] not in _SPLITS:
        hint = f"choose one of {', '.join(_SPLITS)}, or a range such as train[:1800]"
        raise UsageError(f"unknown split '{split}'", hint=hint)
    start, stop = (int(number) if number else None for number in found.groups()[1:])
    return found[1], slice(start, stop)


def _rows_of_split(table: Table, part: str, seed: int) -> list[int]:
    n = len(table.rows)
    if part == "validation" and set(table.columns) >= _TOXIGEN_COLUMNS:
        return sample_indices(n, max(1, int(VALIDATION_SHARE * n)), seed)
    return list(range(n))


def _prompt(row: dict[str, Any], index: int, column: str, source: str) -> Prompt | None:
    text = text_of(row.get(column), source, index + 1)
    if not text.strip():
        return None
    group = _word(row.get("group"), source, index + 1) or _word(row.get("target_group"), source, index + 1)
    group = _CANONICAL.get(group.lower(), group) if group else None
    return Prompt(str(index), text, group, _domain(row.get("domain"), source, index + 1) or domain_of(group))


def _domain(value: Any, source: str, row: int) -> str | None:
    name = (_word(value, source, row) or "").lower()
    if name in _AGGREGATES:
        hint = "id, ood and all are sums over domains; name a domain such as gender or race"
        raise UsageError(f"{source}, row {row}: domain '{name}'", hint=hint)
    return _DOMAIN_NAMES.get(name, name) or None


def _word(value: Any, source: str, row: int) -> str | None:
    """A name in a cell; a number is taken as a CSV has it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = "" if value != value else str(int(value) if value == int(value) else value)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{source}, row {row}: {value!r:.60} is no group or domain", hint="give a word or a number")
    return (value or "").strip() or None
