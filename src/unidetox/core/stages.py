"""A stage: what was made from what, whether it still holds, and work that goes on where a kill stopped it.

While a stage works, everything is in ``.work``; how its content is committed is in `unidetox.core.stage_files`. What is
expensive and may serve other settings too is in ``.parts``, in folders named after all that they depend on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unidetox.core.directories import DirectoryLock, check_directory, damaged_files, list_files, locked, remove
from unidetox.core.errors import LockedError, UniDetoxError, UsageError
from unidetox.core.files import canonical, file_entry, hash_of, read_json, write_json
from unidetox.core.peak_memory import forget_peak, peak_bytes
from unidetox.core.provenance import differences, now, versions
from unidetox.core.stage_files import COMMIT, FAILED, PROGRESS, RESERVED, STAGE, TRASH, WORK_INFO, StageFiles

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StageStatus:
    """Where a stage stands.

    Attributes:
        state: ``fresh`` nothing to do; ``stale`` made with something else; ``partial`` begun; ``failed``; ``missing``.
        reasons: What changed, how far it is or what went wrong; one line each.
    """

    state: Literal["fresh", "stale", "partial", "missing", "failed"]
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.state} ({'; '.join(self.reasons)})" if self.reasons else self.state


@dataclass(eq=False)
class Stage(StageFiles):
    """One step of a run and the directory that it fills.

    Args:
        directory: Where the outputs go; made when the stage is opened.
        name: What kind of stage it is, e.g. ``"distill"``.
        settings: The part of the recipe that it reads; may be nested.
        inputs: A hash for each thing that it reads, by name.
        code_version: Raised when the code changes what comes out.
        parts: Names of the folders in `parts_dir` that the outputs rest on; a commit removes all others.

    Example:
        >>> stage = Stage(Path("texts"), "distill", {"alpha": 0.1}, {"base": "1f3a"})  # doctest: +SKIP
        >>> def make(work: Path) -> dict[str, int]:  # doctest: +SKIP
        ...     (work / "out" / "texts.jsonl").write_text("...")
        ...     return {"texts": 640}
        >>> stage.run(make)  # doctest: +SKIP
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    code_version: int = 1
    parts: Iterable[str] = ()

    def __post_init__(self) -> None:
        self.settings, self.parts = canonical(self.settings), sorted(self.parts)
        self._lock, self._began = DirectoryLock(self.directory), time.monotonic()

    @property
    def key(self) -> str:
        """Hash of all that the outputs depend on."""
        return hash_of([self.name, self.settings, self.inputs, self.code_version])

    def _identity(self) -> dict[str, Any]:
        identity = {"stage": self.name, "key": self.key, "settings": self.settings, "inputs": self.inputs}
        return identity | {"code_version": self.code_version} | ({"parts": self.parts} if self.parts else {})

    def status(self) -> StageStatus:
        """Say where the stage stands; changes nothing, so `recover` comes first where a kill may have left things."""
        if (holder := self._lock.other_holder()) is not None:
            return StageStatus("partial", (f"process {holder} is working on it", *self._progress()))
        record, work, failed = self.record(), self._work_info(), read_json(self.directory / FAILED)
        if record is not None and not (reasons := self._staleness(record)):
            return StageStatus("fresh")
        if failed is not None and failed.get("key") == self.key:
            return StageStatus("failed", (str(failed.get("message")),))
        if work is not None and work.get("key") == self.key:
            return StageStatus("partial", self._progress() or ("begun, and it goes on from there",))
        if record is not None:
            return StageStatus("stale", reasons)
        changes = self._differences(work) if work and work.get("key") else ()
        return StageStatus("missing", tuple(f"unfinished work of other settings: {change}" for change in changes))

    def recover(self) -> None:
        """Do what a kill left undone, if nobody else is at it and the directory can be written."""
        traces = (self.work_dir, self.directory / TRASH, self._lock.path)
        if self._lock.held or not any(path.exists() for path in traces) or self._lock.other_holder() is not None:
            return
        with contextlib.suppress(LockedError, UsageError, OSError), locked(self.directory, self._lock):
            self._mend()
            self._drop_needless_work()

    def run(self, make: Callable[[Path], Mapping[str, Any]], *, fresh: bool = False, replace: bool = True) -> bool:
        """Fill the directory, unless it holds the complete and current outputs already.

        Args:
            make: Gets the work folder, fills ``out`` in it, and returns a few numbers for ``stage.json``.
            fresh: Start over, see `open`.
            replace: Whether outputs or work of other settings may be replaced, see `open`.

        Returns:
            Whether there was anything to do.

        Raises:
            UniDetoxError: See `open` and `commit`.
        """
        self.recover()
        if not fresh and self.status().state == "fresh":
            return False
        with self.open(fresh=fresh, replace=replace) as work:
            self.commit(make(work))
        return True

    @contextlib.contextmanager
    def open(self, *, fresh: bool = False, replace: bool = True) -> Iterator[Path]:
        """Work on the stage; holds the lock of the directory meanwhile.

        Args:
            fresh: Start over: forget parts, work in progress and what was committed.
            replace: Whether outputs or work of other settings may be replaced. If not, they are a usage error, unless
                they have parts and all of these are used again: then nothing expensive is lost.

        Yields:
            The work folder. Work of an interrupted run with the same key is still in it.

        Raises:
            LockedError: If another process works in the directory.
            UsageError: If the directory holds something else.
        """
        with locked(self.directory, self._lock):
            self._prepare(fresh, replace)
            try:
                yield self.work_dir
            except BaseException as exc:
                with contextlib.suppress(OSError):  # a full disk must not hide the error itself
                    self._note_failure(exc, replace)
                raise

    def commit(self, summary: Mapping[str, Any]) -> None:
        """Put the content of ``out`` in place of what was committed before; call it last inside `open`.

        Args:
            summary: A few numbers about what was made; kept in ``stage.json``.

        Raises:
            UniDetoxError: If an output has a name that is reserved, or cannot be moved into place.
        """
        work = self._work_info() or {}
        outputs = {path: file_entry(self.out_dir / path) for path in list_files(self.out_dir)}
        clash = sorted({path.split("/")[0] for path in outputs} & RESERVED)
        if clash:
            raise UniDetoxError(f"the stage {self.name} must not write {clash[0]}")
        record = {"schema_version": SCHEMA_VERSION, **self._identity(), "versions": versions()}
        record |= {"started": work.get("started", now()), "finished": now()}
        record |= {"seconds": round(time.monotonic() - self._began, 3), "peak_bytes": peak_bytes()}
        record |= {"sessions": work.get("sessions", 1), "outputs": outputs, "summary": summary}
        decided = {"record": record, "previous": sorted(self._previous(work))}
        write_json(self.work_dir / COMMIT, decided)
        self._roll_forward(decided)

    def report_progress(self, done: int, total: int, unit: str) -> None:
        """Note how far the work is, for `status`: ``report_progress(128, 640, "texts")``."""
        write_json(self.work_dir / PROGRESS, {"done": done, "total": total, "unit": unit}, durable=False)

    # --- opening

    def _prepare(self, fresh: bool, replace: bool) -> None:
        """Bring the directory into the state in which work can begin or go on."""
        self.refuse_foreign(self.name)
        self._mend()
        record, work = self.record(), self._work_info()
        if not replace and not fresh:
            self._refuse_other_settings(record, work)
        previous = sorted(self._previous(work))
        info = {**self._identity(), "started": now(), "sessions": 1, "previous": previous}
        if work and work.get("key") == self.key and not fresh:
            info |= {"started": work.get("started", now()), "sessions": work.get("sessions", 1) + 1}
        else:
            self._wipe_work(self.name, previous)
        write_json(self.work_dir / WORK_INFO, info)
        self.out_dir.mkdir(exist_ok=True)
        if fresh:
            (self.directory / STAGE).unlink(missing_ok=True)
            remove(self.parts_dir)
        self._began = time.monotonic()
        forget_peak()

    def _refuse_other_settings(self, record: dict[str, Any] | None, work: dict[str, Any] | None) -> None:
        if record and self._only_adds(record):
            return  # at worst unfinished additions are lost
        for content, what in ((record, "results"), (work, "unfinished work")):
            theirs = content if content and content.get("key") and not self._only_adds(content) else None
            if theirs and (changes := self._differences(theirs)):
                held = f"{self.directory} holds {what} of other settings ({'; '.join(changes)})"
                raise UsageError(held, hint="Start over with --fresh, or give another -o")

    def _only_adds(self, record: Mapping[str, Any]) -> bool:
        """Say whether all that is expensive in other results is used again."""
        return bool(record.get("parts")) and set(record["parts"]) <= set(self.parts)

    def _note_failure(self, exc: BaseException, replace: bool) -> None:
        """Leave a note of what went wrong, or no trace at all where nothing had been made yet."""
        if not self.work_dir.is_dir():  # it is committed
            return
        work, record = self._work_info() or {}, self.record() or {}
        parts = {part for part in self.parts if (self.parts_dir / part).exists()}
        scratch = set(list_files(self.work_dir)) - {WORK_INFO, PROGRESS}
        produced = bool(scratch) or not parts <= set(record.get("parts", ()))
        if not produced and set(work.get("previous", ())) <= set(record.get("outputs", {})):
            self._discard_work()
        if isinstance(exc, Exception) and (produced or replace):
            message = str(exc) if isinstance(exc, UniDetoxError) else f"{type(exc).__name__}: {exc}"
            note = {"stage": self.name, "key": self.key, "message": " ".join(message.split()), "when": now()}
            write_json(self.directory / FAILED, note)

    def _drop_needless_work(self) -> None:
        """Drop work that was begun anew and killed before it touched what is committed and good."""
        record, work = self.record(), self._work_info()
        if record is None or work is None or work.get("key") not in (self.key, None) or self._staleness(record):
            return
        if set(work.get("previous", ())) <= record["outputs"].keys():
            self._discard_work()

    def _differences(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Say what differs between what was recorded and what is wanted now; empty where the keys are equal."""
        if record.get("key") == self.key and record.get("schema_version", SCHEMA_VERSION) == SCHEMA_VERSION:
            return ()
        return differences(record, self._identity()) or ("stage.json is of another version or cannot be read",)

    def _staleness(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        return self._differences(record) or damaged_files(self.directory, record.get("outputs", {}))

    def _progress(self) -> tuple[str, ...]:
        progress = read_json(self.work_dir / PROGRESS)
        return (f"{progress['done']} of {progress['total']} {progress['unit']}",) if progress else ()


def check_stage_directory(directory: Path, name: str) -> None:
    """See, before anything long begins, that a stage may work in a directory; writes nothing.

    Args:
        directory: Where the stage is to work.
        name: The stage's name.

    Raises:
        LockedError: If another process works in the directory.
        UsageError: If it is a file or holds something else.
    """
    check_directory(directory)
    if directory.is_dir():
        StageFiles(directory).refuse_foreign(name)
