"""The hash of a large file: every byte of it, by all processors at once, once while the file stays as it is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unidetox.core.errors import MissingError
from unidetox.core.files import hash_of, read_json, write_text
from unidetox.core.resolve import cache_home

_PIECE = 16 << 20
# Within the granularity of a file system's clock a file may change again without a sign.
_SETTLED_SECONDS = 3.0


def content_hash(path: Path) -> str:
    """Return a hash of all bytes of a file: the SHA-256 of the SHA-256 of its pieces of 16 MiB.

    It is kept in ``$UNIDETOX_HOME/hashes``, under the file's path, with size, inode and times of change; while these
    are the same, the file is not read again.

    Args:
        path: The file.
    """
    path = path.resolve()
    known = _known_place(path)
    stat = path.stat()
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    if known and (note := read_json(known)) and note.get("state") == state:
        return str(note["sha256"])
    found = _hash(path, stat.st_size)
    if known and time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS:
        with contextlib.suppress(OSError):  # a home that cannot be written costs time, nothing else
            write_text(known, f'{{"state": {state}, "sha256": "{found}"}}', durable=False)
    return found


def _known_place(path: Path) -> Path | None:
    try:
        return cache_home() / "hashes" / f"{hash_of(str(path))[:32]}.json"
    except MissingError:  # a user without a home
        return None


def _hash(path: Path, size: int) -> str:
    def piece(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(_PIECE)).digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return hashlib.sha256(b"".join(pool.map(piece, range(0, size, _PIECE)))).hexdigest()
