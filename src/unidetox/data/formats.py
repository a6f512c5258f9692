"""Bytes of a CSV, TSV, JSONL, JSON, TXT or Parquet file -> rows; every fault names file and line."""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError

_BLANK = b"\xef\xbb\xbf \t\r\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
# What a packed file begins with -> how it is unpacked, and the ending that packers give.
_PACKED: dict[bytes, tuple[Callable[[bytes], bytes], str]] = {
    b"\x1f\x8b": (gzip.decompress, ".gz"), b"BZh": (bz2.decompress, ".bz2"), b"\xfd7zXZ\x00": (lzma.decompress, ".xz"),
}  # fmt: skip
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
        path: A ``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.txt`` or ``.parquet`` file, perhaps packed: by gzip,
            bzip2 or xz, or alone in a ZIP archive; known by its content, whatever it is called.

    Returns:
        Its rows; of a ``.txt`` file each line is a row with the one column ``text``.

    Raises:
        UsageError: Unknown ending, empty, binary, not UTF-8, or malformed; with the line where there is one.
        MissingError: The file cannot be opened.
    """
    name, data = _unpacked(path, read_bytes(path))
    suffix = Path(name).suffix.lower()
    parse = PARSERS.get(suffix)
    if parse is None:
        raise UsageError(f"{path}: no data file (its ending is '{suffix}')", hint=f"known: {' '.join(PARSERS)}")
    return parse(path, data)


def read_bytes(path: Path) -> bytes:
    """Read a file whole, refusing one that cannot be opened or holds nothing."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        hint = "check the path and its permissions"
        raise MissingError(f"{path} cannot be read ({exc.strerror})", hint=hint) from None
    return _not_empty(path, data)


def _unpacked(path: Path, data: bytes) -> tuple[str, bytes]:
    """Return the name of a file without the endings of packers, and its content unpacked.

    Raises:
        UsageError: It cannot be unpacked, or holds several files.
    """
    try:
        for mark, (unpack, ending) in _PACKED.items():
            if data.startswith(mark):
                return path.name.removesuffix(ending), _not_empty(path, unpack(data))
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = [n for n in archive.namelist() if not n.endswith("/") and not _is_hidden(n)]
                if len(files) == 1:
                    return files[0], _not_empty(path, archive.read(files[0]))
    except (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as exc:
        raise UsageError(f"{path} cannot be unpacked ({_reason(exc)})", hint="copy it again, or unpack it") from None
    if data.startswith((b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")):
        raise UsageError(f"{path} is packed, or a workbook", hint="unpack it first, or save its sheet as CSV")
    return path.name, data


def _not_empty(path: Path, data: bytes) -> bytes:
    if not data.strip(_BLANK):
        raise UsageError(f"{path} is empty", hint="give a file that holds at least one row")
    return data


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or Path(name).name.startswith(".")


def decode(path: Path, data: bytes) -> str:
    """Decode UTF-8, with or without a byte-order mark, or UTF-16 with one; refuse binary files and other encodings."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise UsageError(f"{path} is a binary file", hint="save it as UTF-8 text") from None
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


def _delimiter_of(text: str) -> tuple[str, str]:
    """Return what stands between the cells of a CSV, by its header, and the text without a line ``sep=;``."""
    first, _, rest = text.partition("\n")
    if found := re.fullmatch(r"sep=(.)\r?", first):
        return found[1], rest
    bare = re.sub(r'"(?:[^"]|"")*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])
    return next((mark for mark in ",;\t|" if mark in bare), ","), text


def _delimited(path: Path, data: bytes, delimiter: str | None = None) -> Table:
    text = decode(path, data)
    if delimiter is None:
        delimiter, text = _delimiter_of(text)
    (_, names), *records = csv_rows(path, text, delimiter)
    header, rows = [name.strip() for name in names], []
    for line, cells in records:
        if len(cells) > len(header):
            counts = f"{len(cells)} cells but the header has {len(header)}"
            raise UsageError(f"{path}, line {line}: {counts}", hint="put texts that hold commas in double quotes")
        rows.append(dict(zip(header, cells, strict=False)))
    return Table(str(path), tuple(header), rows)


def _txt(path: Path, data: bytes) -> Table:
    lines = _LINE_END.sub("\n", decode(path, data)).removesuffix("\n").split("\n")
    return Table(str(path), ("text",), [{"text": line} for line in lines])


def _jsonl(path: Path, data: bytes) -> Table:
    items = []
    for number, line in enumerate(_LINE_END.split(decode(path, data)), start=1):
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
        elif (by_column := _by_column(content)) is not None:
            content = by_column
        else:
            content = lists[0] if len(lists) == 1 else [content]
    return _from_items(path, content if isinstance(content, list) else [content])


def _by_column(content: dict[str, Any]) -> list[Any] | None:
    """Return the rows of what a data frame writes: column, then row (pandas' default), or ``split``; else None."""
    if set(content) >= {"columns", "data"} and isinstance(content["columns"], list):
        return [dict(zip(content["columns"], cells, strict=False)) for cells in content["data"]]
    columns = list(content.values())
    if not columns or not all(isinstance(column, dict) for column in columns) or not columns[0]:
        return None
    if any(column.keys() != columns[0].keys() for column in columns):
        return None
    return [{name: column[key] for name, column in content.items()} for key in columns[0]]


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
