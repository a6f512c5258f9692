"""Directories: a lock, and making, listing and removing."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.core import console
from unidetox.core.errors import LockedError, UniDetoxError, UsageError
from unidetox.core.files import TMP_SUFFIX, fsync_directory

if TYPE_CHECKING:
    from filelock import BaseFileLock

_PATIENCE_S = 0.3
# What network mounts answer that know no locks; for ENOSYS filelock itself turns to a file that only has to exist.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP})


class DirectoryLock:
    """An exclusive lock on a directory, held by this process; the system frees it if the process dies.

    Where the file system knows no locks, a warning says that two processes must not share the directory.

    Args:
        directory: The directory; it must exist. Lock and holder's process id are files in it, removed on release.
    """

    FILE, HOLDER = ".lock", ".lock.pid"
    NAMES = frozenset({FILE, HOLDER})

    def __init__(self, directory: Path) -> None:
        self.path, self._holder_file = directory / self.FILE, directory / self.HOLDER
        self._lock: BaseFileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: If somebody else holds it; names the process id.
            UsageError: If the directory cannot be written in.
        """
        if (lock := self._take(_PATIENCE_S)) is None:
            raise _in_use(self.path.parent, self._holder())
        self._lock = lock
        with contextlib.suppress(OSError):  # a full disk: only messages will lack it
            self._holder_file.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        if self._lock is None:
            return
        from filelock import SoftFileLock

        self._holder_file.unlink(missing_ok=True)
        if not isinstance(self._lock, SoftFileLock):
            # While still held: whoever opened the file meanwhile sees that it is gone. Windows removes it on release.
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._lock.release()
        self._lock = None

    def other_holder(self) -> str | None:
        """Return the process id of whoever else holds the lock, None if it is free or ours."""
        if self.held or not self.path.exists():
            return None
        with contextlib.suppress(UniDetoxError):  # a directory that only others may write in
            if (lock := self._take(0)) is None:
                return self._holder()
            lock.release()
        return None

    def _take(self, patience: float) -> BaseFileLock | None:
        """Take the lock within some seconds; None where somebody else holds it."""
        from filelock import FileLock, SoftFileLock, Timeout

        lock = FileLock(self.path, thread_local=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said below, so that it is seen without `-v`
                lock.acquire(timeout=patience, poll_interval=0.02)
        except Timeout:
            return None
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                unwritable = f"cannot write in {self.path.parent}: {exc.strerror}"
                raise UsageError(unwritable, hint="Choose another -o") from exc
        if not lock.is_locked or isinstance(lock, SoftFileLock):
            _warn_no_locks()
        return lock

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return self._holder_file.read_text().strip() or "unknown"
        return "unknown"


@functools.cache
def _warn_no_locks() -> None:
    console.warn("this file system knows no locks: two processes must not work in the same folder")


def _in_use(directory: Path, holder: str) -> LockedError:
    return LockedError(f"{directory} is in use by process {holder}", hint="Wait for it to end, or end it first")


def there(path: Path) -> bool:
    """Say whether there is a file, a folder or a link, be it a broken one."""
    return path.exists() or path.is_symlink()


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def list_files(folder: Path) -> list[str]:
    """Return the relative paths of all files in a folder, sorted; left-overs of atomic writes are not counted."""
    files = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in files if not path.name.endswith(TMP_SUFFIX))


def damaged_files(root: Path, entries: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Say which files are gone or of another size.

    Args:
        root: The folder.
        entries: Path below it -> what `unidetox.core.files.file_entry` said of it.
    """
    damage = []
    for path, entry in entries.items():
        if not (root / path).exists():
            damage.append(f"{path} is gone")
        elif (root / path).stat().st_size != entry["bytes"]:
            damage.append(f"{path} was changed")
    return tuple(damage)


def make_directory(directory: Path) -> list[Path]:
    """Make a directory and return which folders had to be made, the innermost first.

    Raises:
        UsageError: If it cannot be made.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot make the folder {directory}: {exc.strerror}", hint="Give another -o") from exc
    return made


@contextlib.contextmanager
def locked(directory: Path, lock: DirectoryLock | None = None) -> Iterator[list[Path]]:
    """Hold the lock of a directory, which is made if need be; what was made and stayed empty is removed in the end.

    Args:
        directory: The directory.
        lock: Its lock, where somebody else asks whether it is held.

    Yields:
        The folders that had to be made.

    Raises:
        LockedError: If another process works in it.
        UsageError: If it cannot be made or written in.
    """
    made, lock = make_directory(directory), lock or DirectoryLock(directory)
    with contextlib.ExitStack() as undoing:
        undoing.callback(remove_empty, made)
        lock.acquire()
        undoing.callback(lock.release)
        yield made


def check_directory(directory: Path) -> None:
    """See, before anything long begins, that a directory can be made or is there, and that nobody works in it.

    Raises:
        LockedError: If another process works in it.
        UsageError: If it is a file, or below one.
    """
    there_already = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not there_already.is_dir():
        raise UsageError(f"{there_already} is a file", hint="Give a directory: -o DIR")
    if there_already == directory and (holder := DirectoryLock(directory).other_holder()) is not None:
        raise _in_use(directory, holder)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_files(root: Path, paths: Iterable[str]) -> None:
    """Remove files below a folder, and the folders between that are empty then."""
    for path in paths:
        target = root / path
        target.unlink(missing_ok=True)
        remove_empty([parent for parent in target.parents if parent.is_relative_to(root)][:-1])


def move_files(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Move files from below one folder to the same place below another; those that were moved before stay there."""
    folders = {target}
    for path in paths:
        if there(source / path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source / path, target / path)  # noqa: PTH105 - the one atomic primitive, kept visible
        folders.add((target / path).parent)
    for folder in folders:
        fsync_directory(folder)


def remove_others(folder: Path, keep: Iterable[str]) -> None:
    """Remove what is in a folder, if it is there, but for some names; and the folder itself where nothing is left."""
    if folder.is_dir():
        for name in {item.name for item in folder.iterdir()} - set(keep):
            remove(folder / name)
        remove_empty([folder])
