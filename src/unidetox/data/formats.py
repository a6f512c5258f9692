"""Bytes of a CSV, TSV, JSONL, JSON, TXT or Parquet file -> rows; every fault names file and line."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError

_MAX_FIELD = 2**31 - 1  # the csv module's own limit of 131 072 characters is less than a long document


@dataclass(frozen=True)
class Table:
    """Rows of one source.

    Attributes:
        source: What to call it in messages: a path or a Hub id.
        columns: Column names in the order of the file.
        rows: One mapping from column to value a row; a missing cell is absent or None.
    """

    source: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]


def read_table(path: Path) -> Table:
    """Read one data file by its ending.

    Args:
        path: A ``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.txt`` or ``.parquet`` file.

    Returns:
        Its rows; of a ``.txt`` file each line is a row with the one column ``text``.

    Raises:
        UsageError: Unknown ending, empty, binary, not UTF-8, or malformed; with the line where there is one.
        MissingError: The file cannot be opened.
    """
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        raise UsageError(f"{path}: no data file (its ending is '{path.suffix}')", hint=f"known: {' '.join(PARSERS)}")
    return parse(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Read a file whole, refusing one that cannot be opened or holds nothing."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        hint = "check the path and its permissions"
        raise MissingError(f"{path} cannot be read ({exc.strerror})", hint=hint) from None
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise UsageError(f"{path} is empty", hint="give a file that holds at least one row")
    return data


def decode(path: Path, data: bytes) -> str:
    """Decode UTF-8 text, with or without a byte-order mark, refusing binary files and other encodings."""
    if b"\0" in data:
        raise UsageError(f"{path} is a binary file", hint="save it as UTF-8 text, or give it the ending of its format")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8 text", hint="save the file as UTF-8 and try again") from None


def csv_rows(path: Path, text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Cells of a CSV text: quoted line breaks, CRLF, and fields of any length; blank lines are left out.

    Args:
        path: The file, for messages.
        text: Its decoded content.
        delimiter: What stands between cells.

    Returns:
        For each record the number of its last line and its cells.

    Raises:
        UsageError: Quotes that do not match, with the line.
    """
    before = csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as exc:
        hint = 'put texts that hold commas, quotes or line breaks in quotes ("" for a quote), or save as JSONL'
        raise UsageError(f"{path}, line {reader.line_num}: not valid CSV ({exc})", hint=hint) from None
    finally:
        csv.field_size_limit(before)


def _delimited(path: Path, data: bytes, delimiter: str = ",") -> Table:
    (_, names), *records = csv_rows(path, decode(path, data), delimiter)
    header, rows = [name.strip() for name in names], []
    for line, cells in records:
        if len(cells) > len(header):
            counts = f"{len(cells)} cells but the header has {len(header)}"
            raise UsageError(f"{path}, line {line}: {counts}", hint="put texts that hold commas in double quotes")
        rows.append(dict(zip(header, cells, strict=False)))
    return Table(str(path), tuple(header), rows)


def _txt(path: Path, data: bytes) -> Table:
    lines = decode(path, data).replace("\r\n", "\n").removesuffix("\n").split("\n")
    return Table(str(path), ("text",), [{"text": line} for line in lines])


def _jsonl(path: Path, data: bytes) -> Table:
    items = []
    for number, line in enumerate(decode(path, data).split("\n"), start=1):
        if line.strip():
            try:
                items.append(json.loads(line))
            except (ValueError, RecursionError) as exc:
                hint = "each line must be one JSON object"
                raise UsageError(f"{path}, line {number}: not valid JSON ({_reason(exc)})", hint=hint) from None
    return _from_items(path, items)


def _json(path: Path, data: bytes) -> Table:
    try:
        content = json.loads(decode(path, data))
    except (ValueError, RecursionError) as exc:
        if "Extra data" in str(exc):  # JSON Lines under the name .json, as on many Hub pages
            return _jsonl(path, data)
        raise UsageError(f"{path}: not valid JSON ({_reason(exc)})", hint="save it as JSONL or CSV") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == len(content) and len({len(values) for values in lists}) == 1 and len(lists) > 1:
            content = [dict(zip(content, cells, strict=True)) for cells in zip(*lists, strict=True)]
        else:
            content = lists[0] if len(lists) == 1 else [content]
    return _from_items(path, content if isinstance(content, list) else [content])


def _from_items(path: Path, items: list[Any]) -> Table:
    odd = next((number for number, item in enumerate(items, start=1) if not isinstance(item, str | dict)), None)
    if odd is not None:
        hint = "give objects with a text key, or plain strings"
        raise UsageError(f"{path}, row {odd}: neither an object nor a string", hint=hint)
    rows = [{"text": item} if isinstance(item, str) else item for item in items]
    return Table(str(path), tuple(dict.fromkeys(key for row in rows for key in row)), rows)


def _parquet(path: Path, data: bytes) -> Table:
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError, ValueError) as exc:
        raise UsageError(f"{path}: not a valid Parquet file ({_reason(exc)})", hint="download it again") from None
    return Table(str(path), tuple(table.column_names), table.to_pylist())


def _reason(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:120].rstrip(".")


PARSERS: dict[str, Callable[[Path, bytes], Table]] = {
    ".csv": _delimited, ".tsv": functools.partial(_delimited, delimiter="\t"),
    ".jsonl": _jsonl, ".json": _json, ".txt": _txt, ".parquet": _parquet,
}  # fmt: skip
