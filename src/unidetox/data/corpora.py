"""The toxic corpus: Dynamically Generated Hate Speech (DGHS) filtered as the paper does, or any texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.resolve import at_revision
from unidetox.data.files import check_count, count, load_table, pick_column, sample_indices, say_once, summary
from unidetox.data.formats import Table
from unidetox.data.hub_datasets import ALIASES, known_id, load_hub_table, newest_version
from unidetox.data.texts import Text, TextSet, collect_texts, make_text_set

DGHS_ID = ALIASES["dghs"]

# The 34 targets of the paper (gender and sexuality; race and nationality; religion), as the data set spells
# them -> as its own documentation abbreviates them, where that differs. Disability, class, age, Travellers,
# entries with several targets, and round 1 (no target given) are not among them.
DGHS_TARGETS: dict[str, str | None] = {
    "wom": None, "trans": None, "gendermin": None, "bis": None,
    "gay": None, "gay.man": "gayman", "gay.wom": "gaywom",
    "mixed.race": "mixed", "ethnic.minority": "ethnic minority", "non.white": "non-white",
    "indig": None, "indig.wom": "indigwom", "bla": None, "bla.wom": "blawom", "bla.man": "blaman",
    "asi": None, "asi.wom": "asiwom", "asi.east": "east", "asi.south": "south", "asi.chin": "chinese",
    "asi.pak": "pak", "arab": None, "hispanic": None,
    "eastern.europe": "eastern european", "russian": None, "pol": None,
    "immig": None, "asylum": None, "ref": None, "for": None,
    "jew": None, "mus": None, "mus.wom": "muswom", "other.religion": None,
}  # fmt: skip
_SPELLINGS = {name: name for name in DGHS_TARGETS} | {short: name for name, short in DGHS_TARGETS.items() if short}
_LABEL_COLUMNS = {"label", "labels", "is_toxic", "toxic", "toxicity", "is_hate", "hate", "class"}


def load_toxic_corpus(
    source: str, *, column: str | None = None, duplicates: bool = False, limit: int | None = None, seed: int = 0
) -> TextSet:
    """Load the texts that the toxic model learns from.

    ``"dghs"`` is the data set of the paper from the Hub. Its repository holds two versions that differ only
    in round 1, which the paper leaves out; loading both, as the default does, doubles every row. The newest
    is read. Any table with DGHS's columns and labels is filtered in the same way: label ``hate``, and one of
    the 34 targets. Where most hate rows name no target, the table counts as filtered already, and rows
    without a target stay. Of any other source every text is taken. All splits are used.

    Args:
        source: ``"dghs"``, a file, a folder or a Hub id.
        column: The column that holds the texts.
        duplicates: Keep texts that occur more than once.
        limit: Take a random sample of this size.
        seed: Of that sample.

    Returns:
        The texts; each ends with ``"eos"`` unless the source says that it was cut.

    Raises:
        MissingError: There is no such file or data set.
        UsageError: It cannot be used, or nothing passes the filter.

    Reference:
        UniDetox (ICLR 2025), toxic model; Vidgen et al. (2021), arXiv:2012.15761.
    """
    check_count(limit, "limit")
    table = _load(source)
    hint = "name the one to read with --column (in a recipe: toxic.column = ...), or rename it to 'text'"
    column = pick_column(table, column, hint)
    dropped: dict[str, int] = {}
    chosen, note = _relevant_rows(table, column, dropped)
    texts = collect_texts(table, column, chosen, dropped, default_finish="eos")
    texts, repeated = _sampled(texts, dropped, duplicates, limit, seed)
    say_once(summary(source, len(texts), "toxic texts", dropped) + note + repeated)
    return make_text_set(texts, source, dropped)


def load_non_toxic_texts(
    source: str | None, corpus: str, *, column: str | None, duplicates: bool, limit: int | None, seed: int
) -> TextSet:
    """Load texts that are not toxic, for methods that learn from both kinds.

    Args:
        source: A file, a folder or a Hub id. Of a table with DGHS's columns the rows labeled ``nothate`` are taken, of
            any other all. None stands for the toxic corpus.
        corpus: The toxic corpus.
        column: The column that holds the texts.
        duplicates: Keep texts that occur more than once.
        limit: Take a random sample of this size.
        seed: Of that sample.

    Returns:
        The texts.

    Raises:
        MissingError: There is no such file or data set.
        UsageError: It cannot be used, or holds no text that is marked as not toxic.
    """
    check_count(limit, "limit")
    table = _load(source or corpus)
    column = pick_column(table, column, "name the one to read with toxic.column = ..., or rename it to 'text'")
    marked = _is_dghs(table)
    chosen = [index for index, row in enumerate(table.rows) if not marked or _cell(row, "label") == "nothate"]
    if not chosen or (source is None and not marked):
        hint = "name a file of such texts: toxic.non_toxic = ..."
        raise UsageError(f"{table.source}: no text is marked as not toxic", hint=hint)
    dropped: dict[str, int] = {}
    texts = collect_texts(table, column, chosen, dropped, default_finish="eos")
    texts, repeated = _sampled(texts, dropped, duplicates, limit, seed)
    say_once(summary(source or corpus, len(texts), "texts that are not toxic", dropped) + repeated)
    return make_text_set(texts, source or corpus, dropped)


def _load(source: str) -> Table:
    name, revision = known_id(source)
    if name != DGHS_ID:
        return load_table(source)
    table = load_hub_table(at_revision(DGHS_ID, revision), ("train",), refine=newest_version)
    say_once(f"{source}: only the newest version in {DGHS_ID} is read; both together would hold every text twice")
    return table


def _relevant_rows(table: Table, column: str, dropped: dict[str, int]) -> tuple[Sequence[int], str]:
    """The numbers of the rows to learn from, and what to tell about the choice."""
    if not _is_dghs(table):
        _warn_of_labels(table, column)
        return range(len(table.rows)), ""
    target = {index: _cell(row, "target") for index, row in enumerate(table.rows) if _cell(row, "label") == "hate"}
    nameless = sum(not name for name in target.values())
    filtered_before = nameless * 2 > len(target)
    kept = [index for index, name in target.items() if name in _SPELLINGS or (filtered_before and not name)]
    count(dropped, "not_hate", len(table.rows) - len(target))
    count(dropped, "no_target", 0 if filtered_before else nameless)
    count(dropped, "other_target", len(target) - len(kept) - (0 if filtered_before else nameless))
    if not kept:
        hint = "expected rows with label 'hate' and a target such as 'wom', 'bla', 'mus'"
        raise UsageError(f"{table.source}: no row passes the filter of the paper", hint=hint)
    if filtered_before:
        return kept, f"; {nameless:,} hate rows without a target kept: filtered already"
    absent = sorted(set(DGHS_TARGETS) - {_SPELLINGS.get(name) for name in target.values()})
    return kept, f"; targets that match no row: {', '.join(absent)}" if absent else ""


def _warn_of_labels(table: Table, column: str) -> None:
    """A labeled file most likely holds harmless texts too, which would spoil the toxic model."""
    labels = [name for name in table.columns if name.lower() in _LABEL_COLUMNS and name != column]
    if labels:
        taken = f"{table.source}: every row is taken as toxic text, whatever its column '{labels[0]}' says"
        console.warn(f"{taken}; filter the file first if it holds other texts")


def _is_dghs(table: Table) -> bool:
    labels = {_cell(row, "label") for row in table.rows}
    return {"label", "target"} <= set(table.columns) and labels <= {"hate", "nothate"}


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return value.strip().lower() if isinstance(value, str) else ""


def _sampled(
    texts: list[Text], dropped: dict[str, int], duplicates: bool, limit: int | None, seed: int
) -> tuple[list[Text], str]:
    """Leave out duplicates (surrounding white space does not count) unless they are to be kept, and take a sample.

    Returns:
        The texts, and what to tell about duplicates that were kept.
    """
    first: dict[str, Text] = {}
    for text in texts:
        first.setdefault(text.text.strip(), text)
    repeated = len(texts) - len(first)
    if not duplicates:
        texts = list(first.values())
        count(dropped, "duplicate", repeated)
    if limit is not None and limit < len(texts):
        count(dropped, "over_limit", len(texts) - limit)
        texts = [texts[index] for index in sample_indices(len(texts), limit, seed)]
    return texts, f"; {repeated:,} duplicates kept" if duplicates and repeated else ""
