"""Files that survive a kill: atomic writes, JSONL that resumes, canonical hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from unidetox.core.errors import MissingError, UsageError

TMP_SUFFIX = ".unidetox-tmp"
_MIB = 1 << 20
_WHOLE_HASH_BYTES = 64 * _MIB


def canonical(obj: Any) -> Any:
    """Return the same value made of plain JSON types: lists for tuples, text for paths, "inf", null for NaN.

    Raises:
        TypeError: If something in it has no JSON form.
    """
    if isinstance(obj, Mapping):
        return {str(key): canonical(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [canonical(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, float) and not math.isfinite(obj):
        return None if math.isnan(obj) else ("inf" if obj > 0 else "-inf")
    if obj is None or isinstance(obj, (str, bool, int, float)):
        return obj
    if hasattr(obj, "item"):  # a NumPy or torch scalar
        return canonical(obj.item())
    raise TypeError(f"a {type(obj).__name__} has no JSON form")


def hash_of(obj: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of a value; the order of keys does not matter."""
    text = json.dumps(canonical(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def fsync_directory(directory: Path) -> None:
    """Make renames and removals in a directory durable, where the system has a way to ask for it."""
    if sys.platform == "win32":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{TMP_SUFFIX}")


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically: a reader or a kill sees the old content or the new, never a part.

    Args:
        path: The file; its folder is made if needed.
        text: The whole content.
        durable: Whether to wait until it is on disk, so that it also survives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - the one atomic primitive, kept visible
    if durable:
        fsync_directory(path.parent)


def write_json(path: Path, obj: Any, *, durable: bool = True) -> None:
    """Write indented JSON atomically (see `write_text`); non-finite numbers as in `canonical`."""
    text = json.dumps(canonical(obj), indent=2, ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        text = json.dumps(canonical(obj), indent=2)  # lone surrogates have no UTF-8 form
    write_text(path, text + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is no such file or it does not hold one."""
    try:
        return _parse_object(path.read_bytes())
    except OSError:
        return None


def require_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that must hold one.

    Raises:
        MissingError: If there is no such file.
        UsageError: If it holds something else.
    """
    if (content := read_json(path)) is not None:
        return content
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    raise UsageError(f"{path} holds no JSON object", hint="Make or download it again")


def file_entry(path: Path) -> dict[str, Any]:
    """Return size and hash of a file: all of it up to 64 MiB, else its size and its first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if sys.platform != "win32":  # which syncs only what is open for writing
            os.fsync(file.fileno())
        if size <= _WHOLE_HASH_BYTES:
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        ends = file.read(_MIB)
        file.seek(-_MIB, os.SEEK_END)
        ends += file.read(_MIB)
    return {"bytes": size, "sha256_ends": hashlib.sha256(ends).hexdigest()}


def _row_bytes(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError):  # non-finite, NumPy scalars, lone surrogates
        return json.dumps(canonical(row), allow_nan=False).encode() + b"\n"


def _parse_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:  # covers bad JSON and bad UTF-8
        return None
    return value if isinstance(value, dict) else None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; a last line cut short by a kill is left out.

    Raises:
        MissingError: If there is no such file.
        UsageError: If another line is not a JSON object; names file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as exc:
        raise MissingError(f"{path} does not exist") from exc
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse_object(line) if line.strip() else None
        if row is not None:
            rows.append(row)
        elif line.strip() and number < len(lines):
            raise UsageError(f"{path} line {number} is not a JSON object", hint="Correct or remove that line")
    return rows


class JsonlWriter:
    """Appends rows to a JSONL file so that a kill loses at most the batch that was being written.

    Opening repairs the end of the file: a half-written last line is cut, a missing last line end added.

    Args:
        path: The file; it and its folder are made if needed.

    Example:
        >>> with JsonlWriter(Path("texts.jsonl")) as writer:  # doctest: +SKIP
        ...     writer.write([{"text": "a"}, {"text": "b"}])
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _repair_end(path)
        self._file = path.open("ab")

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on disk; on return they are safe."""
        self._file.write(b"".join(_row_bytes(row) for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_jsonl(path: Path, batches: Iterable[Iterable[Mapping[str, Any]]]) -> None:
    """Write a JSONL file atomically: it is there whole or not at all.

    Args:
        path: The file; it and its folder are made if needed.
        batches: Its rows; one batch is held in memory at a time.
    """
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    with JsonlWriter(temporary) as writer:
        for rows in batches:
            writer.write(rows)
    os.replace(temporary, path)  # noqa: PTH105


def _repair_end(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        last = (deque(file, maxlen=1) or [b"\n"])[0]
        if not last.endswith(b"\n") and _parse_object(last) is None:
            file.truncate(file.tell() - len(last))
        elif not last.endswith(b"\n"):
            file.write(b"\n")
