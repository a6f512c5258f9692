"""Files that survive a kill: atomic writes, JSONL that resumes, canonical hashes, a directory lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unidetox.errors import LockedError, MissingError, UniDetoxError, UsageError

TMP_SUFFIX = ".unidetox-tmp"
_LOCK_PATIENCE_S = 0.3


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
    """Make renames and removals in a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically: a reader or a kill sees the old content or the new, never a part.

    Args:
        path: The file; its folder is made if needed.
        text: The whole content.
        durable: Whether to wait until it is on disk, so that it also survives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TMP_SUFFIX}")
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
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _row_bytes(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError):  # non-finite, NumPy scalars, lone surrogates
        return json.dumps(canonical(row), allow_nan=False).encode() + b"\n"


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # covers bad JSON and bad UTF-8
        return None
    return row if isinstance(row, dict) else None


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
        row = _parse_row(line) if line.strip() else None
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
        self.path = path
        self._file = path.open("ab")

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on disk; on return they are safe."""
        self._file.write(b"".join(_row_bytes(row) for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _repair_end(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:
            step = min(1 << 16, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
        keep = start + tail.rfind(b"\n") + 1
        last = tail[keep - start :]
        if last and _parse_row(last) is None:
            file.truncate(keep)
        elif last:
            file.seek(size)
            file.write(b"\n")


class DirectoryLock:
    """An exclusive lock on a directory, held by this process; the system frees it if the process dies.

    Args:
        directory: The directory; it must exist. The lock is a file ``.lock`` in it, removed on release.
    """

    FILE = ".lock"

    def __init__(self, directory: Path) -> None:
        self.path = directory / self.FILE
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: If somebody else holds it; names the process id.
        """
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while not self._try():
            if time.monotonic() > deadline:
                raise LockedError(
                    f"{self.path.parent} is in use by process {self._holder()}",
                    hint="Wait for it to end, or end it first",
                )
            time.sleep(0.02)

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        if self._fd is not None:
            # Unlinked while still held: whoever opened this file meanwhile sees in `_try` that it is gone.
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def other_holder(self) -> str | None:
        """Return the process id of whoever else holds the lock, None if it is free or ours."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None if self.held else self._holder()
        finally:
            os.close(fd)
        return None

    def _try(self) -> bool:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise UsageError(
                f"cannot write in {self.path.parent}: {exc.strerror}", hint="Choose another -o"
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = os.stat(self.path).st_ino == os.fstat(fd).st_ino  # noqa: PTH116
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            return False
        except OSError as exc:
            os.close(fd)
            raise UniDetoxError(f"cannot lock {self.path.parent}: {exc.strerror}") from exc
        if not current:
            os.close(fd)
            return False
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return True

    def _holder(self) -> str:
        try:
            return self.path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"
