"""From what the user typed to rows: files, folders, Hub ids; the text column; sampling and counting."""

from __future__ import annotations

import functools
import os.path
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unidetox.config.settings import BUILTIN, PUBLISHED
from unidetox.core import console
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.resolve import is_local
from unidetox.data.formats import PARSERS, Table, read_table
from unidetox.data.hub_datasets import load_hub_table
from unidetox.data.published import published_texts

BUILTIN_TEXTS = Path(__file__).parent / "builtin" / "texts.jsonl"
_NAMED: Mapping[str, Callable[[], Path]] = {BUILTIN: lambda: BUILTIN_TEXTS, PUBLISHED: published_texts}
TEXT_COLUMNS = ("text", "Text", "sentence", "content")


def load_table(source: str, splits: Sequence[str] = ("train",)) -> Table:
    """Load the rows of a file, of a folder that holds one data file, or of a Hub data set.

    Args:
        source: A path, a Hub id, ``"builtin"`` (the texts of this package, see ``data/builtin/README.md``) or
            ``"published"`` (those of the paper's authors).
        splits: For a Hub id, the splits that will do, best first.

    Returns:
        The rows; ``source`` is what the user typed.

    Raises:
        MissingError: No such file, or a Hub id that cannot be had.
        UsageError: A file that cannot be used.
    """
    if not source.strip():
        raise UsageError("no data source given", hint="give a file, a folder or a Hub id")
    if source in _NAMED:
        table = read_table(_NAMED[source]())
    else:
        table = read_table(_local_file(source)) if is_local(source) else load_hub_table(source, splits)
    return Table(source, table.columns, table.rows)


def _local_file(source: str) -> Path:
    """The data file that a path means: of a folder its ``texts.jsonl`` (also in ``texts/``) or its only data file."""
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - unlike a path's own, these take any name
    if not os.path.exists(path):  # noqa: PTH110
        hint = f"check the path (working directory: {Path.cwd()})"
        raise MissingError(f"{source}: no such file or folder", hint=hint)
    known = next((file for file in (path / "texts.jsonl", path / "texts" / "texts.jsonl") if file.is_file()), path)
    if not known.is_dir():
        return known
    files = sorted(file for file in path.iterdir() if file.is_file() and _is_data(file.name))
    if len(files) == 1:
        return files[0]
    if not files:
        raise UsageError(f"{path}: no data file in this folder", hint=f"give a file: {' '.join(PARSERS)}")
    names = ", ".join(file.name for file in files[:5])
    raise UsageError(f"{path}: {len(files)} data files in this folder ({names})", hint="name the one that is meant")


def _is_data(name: str) -> bool:
    plain = name.lower().removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    return not name.startswith((".", "~$")) and plain.endswith((*PARSERS, ".zip"))


def pick_column(
    table: Table, wanted: str | None, hint: str, usual: Sequence[str] = TEXT_COLUMNS, missing: str = "no text column"
) -> str:
    """Find the column that holds the text.

    Args:
        table: The rows.
        wanted: The user's choice; None tries the usual names, then again without regard to case.
        hint: What to do where there is none.
        usual: The usual names.
        missing: What to say where there is none of them.

    Returns:
        The name of the column.

    Raises:
        UsageError: There is none; says which columns there are.
    """
    if found := find_column(table, [wanted] if wanted else usual):
        return found
    missing = f"no column '{wanted}'" if wanted else missing
    there = (", ".join(table.columns[:12]) + (", ..." if len(table.columns) > 12 else "")) or "none"
    raise UsageError(f"{table.source}: {missing}; its columns are: {there}", hint=hint)


def find_column(table: Table, names: Sequence[str]) -> str | None:
    """The column with the first of these names that there is, then without regard to case; else None."""
    lowered = {column.lower(): column for column in reversed(table.columns)}
    exact = next((name for name in names if name in table.columns), None)
    return exact or next((lowered[name.lower()] for name in names if name.lower() in lowered), None)


def text_of(value: Any, source: str, row: int) -> str:
    """The text in a cell; an absent one is empty.

    Args:
        value: A string, None, or an object with a ``text`` (as in RealToxicityPrompts).
        source: For messages.
        row: Number of the row from 1, for messages.

    Returns:
        The text as it stands.

    Raises:
        UsageError: Another type, or text that is no valid Unicode.
    """
    if isinstance(value, dict):
        if "text" not in value:
            what = f"{source}, row {row}: an object without a key 'text' ({', '.join(map(str, list(value)[:5]))})"
            raise UsageError(what, hint="choose a column that holds texts")
        value = value["text"]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{source}, row {row}: {value!r:.60} is not a text", hint="choose a column that holds texts")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{source}, row {row}: half of a surrogate pair in the text", hint="correct the row") from None
    return value


def sample_indices(n: int, k: int, seed: int) -> list[int]:
    """Choose ``k`` of ``n`` row numbers at random, the same as ``Dataset.shuffle(seed).select(range(k))``.

    Args:
        n: How many rows there are.
        k: How many to take; at most ``n`` are taken.
        seed: A larger ``k`` with the same seed takes the same rows and more.

    Returns:
        Row numbers in ascending order.
    """
    return sorted(np.random.default_rng(seed).permutation(n)[:k].tolist())


def check_count(value: int | None, name: str) -> None:
    """Refuse a limit below 1."""
    if value is not None and value < 1:
        raise UsageError(f"{name} must be at least 1, not {value}", hint="leave it out to take all")


def count(dropped: dict[str, int], reason: str, n: int = 1) -> None:
    """Add to the number of rows dropped for a reason."""
    if n:
        dropped[reason] = dropped.get(reason, 0) + n


@functools.cache
def say_once(message: str) -> None:
    """Tell the user, once a process: several stages may load the same data."""
    console.info(message)


def summary(source: str, n: int, noun: str, dropped: dict[str, int]) -> str:
    """One line: how many rows were taken, and how many were not, why."""
    reasons = ", ".join(f"{number:,} {reason.replace('_', ' ')}" for reason, number in dropped.items())
    return f"{source}: {n:,} {noun}" + (f"; left out: {reasons}" if reasons else "")
