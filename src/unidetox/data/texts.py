"""Texts, the noun that everything turns on: from any format, with how each ended where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unidetox.core.callers import listed
from unidetox.core.errors import UsageError
from unidetox.core.files import hash_of
from unidetox.data.files import check_count, count, load_table, pick_column, say_once, summary, text_of
from unidetox.data.formats import Table

# How a text ended, in our words and in those of serving programs.
_FINISH_REASONS = {"eos": "eos", "stop": "eos", "length": "length", "": None, "none": None, "null": None}


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes:
        text: As it stands in the source.
        finish_reason: ``"eos"`` where the text is complete, ``"length"`` where it was cut, else None.
    """

    text: str
    finish_reason: str | None = None


@dataclass(frozen=True)
class TextSet:
    """Texts of one source.

    Attributes:
        texts: In the order of the source.
        source: What the user typed.
        sha256: Hash of the texts and how they ended; the same from any file format.
        dropped: How many rows were left out, by reason (``empty``, ``duplicate``, ``over_limit``, ...).
    """

    texts: tuple[Text, ...]
    source: str
    sha256: str
    dropped: dict[str, int] = field(default_factory=dict)


def read_texts(source: str, *, column: str | None = None, limit: int | None = None) -> TextSet:
    """Read texts from a CSV, TSV, JSONL, JSON, TXT (one a line) or Parquet file, a folder, or a Hub data set.

    Empty texts are left out and counted. Duplicates stay and are reported: the texts are what somebody made.

    Args:
        source: File, folder (as `unidetox distill` writes, or with one data file), or Hub id.
        column: The column to read; by default ``text``, ``Text``, ``sentence`` or ``content``.
        limit: Take only the first texts.

    Returns:
        The texts.

    Raises:
        MissingError: There is no such file or data set.
        UsageError: It cannot be used: no text column, nothing in it, binary, not UTF-8, malformed.
    """
    check_count(limit, "limit")
    table = load_table(source)
    dropped: dict[str, int] = {}
    column = pick_column(table, column, "rename the one to read to 'text'")
    texts = collect_texts(table, column, range(len(table.rows)), dropped)
    if limit is not None:
        count(dropped, "over_limit", max(0, len(texts) - limit))
        texts = texts[:limit]
    repeated = len(texts) - len({text.text.strip() for text in texts})
    note = f"; {repeated:,} duplicates kept" if repeated else ""
    say_once(summary(source, len(texts), "texts", dropped) + note)
    return make_text_set(texts, source, dropped)


def texts_of_rows(rows: Sequence[dict[str, Any]], source: str) -> TextSet:
    """Return the texts that `read_texts` would find in a file of these rows, without a word.

    Args:
        rows: Each with ``text`` and ``finish_reason``.
        source: What to call them.
    """
    dropped: dict[str, int] = {}
    texts = collect_texts(Table(source, ("text", "finish_reason"), list(rows)), "text", range(len(rows)), dropped)
    return make_text_set(texts, source, dropped)


def texts_of_list(given: Iterable[Any]) -> list[Any]:
    """Return what a caller of Python gave as texts.

    Args:
        given: Plain strings, and objects with ``text`` and ``finish_reason``, which stay as they are.

    Raises:
        UsageError: It is no list, or an item of it is no text.
    """
    texts = []
    for number, item in enumerate(listed(given, "texts"), 1):
        if not isinstance(getattr(item, "text", item), str):
            hint = "Give texts, or a file of them to `unidetox.detoxify`"
            raise UsageError(f"texts, item {number}: {item!r:.60} is not a text", hint=hint)
        text = text_of(getattr(item, "text", item), "texts", number)
        texts.append(item if hasattr(item, "finish_reason") else Text(str(text)))
    return texts


def collect_texts(
    table: Table, column: str, chosen: Sequence[int], dropped: dict[str, int], default_finish: str | None = None
) -> list[Text]:
    """Turn rows into texts, leaving out and counting empty ones.

    Args:
        table: Where the rows come from.
        column: The column that holds the text.
        chosen: Which rows to use, by number from 0.
        dropped: Counts of what is left out; added to.
        default_finish: How a text ended that does not say so itself.

    Returns:
        The texts in order.
    """
    texts = []
    for index in chosen:
        row = table.rows[index]
        text = text_of(row.get(column), table.source, index + 1)
        if text.strip():
            finish = _finish_reason(row.get("finish_reason"), table.source, index + 1)
            texts.append(Text(text, finish or default_finish))
        else:
            count(dropped, "empty")
    if not texts:
        reasons = summary(table.source, 0, "texts", dropped)
        raise UsageError(f"nothing to use: {reasons}", hint=f"column '{column}' was read; give another file or column")
    return texts


def make_text_set(texts: list[Text], source: str, dropped: dict[str, int]) -> TextSet:
    """Freeze texts with their hash."""
    return TextSet(tuple(texts), source, hash_of([[text.text, text.finish_reason] for text in texts]), dropped)


def _finish_reason(value: Any, source: str, row: int) -> str | None:
    if (word := str(value).strip().lower()) in _FINISH_REASONS:
        return _FINISH_REASONS[word]
    raise UsageError(f"{source}, row {row}: finish_reason {value!r:.40}", hint="it is 'eos', 'length' or empty")
