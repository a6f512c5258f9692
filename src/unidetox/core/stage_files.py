"""What is in a stage's directory, and the moves of a commit that a kill at any moment cannot break.

The commit is decided by one file, ``.work/COMMIT``, that lists what will be in place; from then on whoever opens the
directory rolls it forward. ``stage.json`` is written last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.core.directories import DirectoryLock, list_files, move_files, remove, remove_files, remove_others, there
from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.core.files import TMP_SUFFIX, fsync_directory, read_json, write_json

STAGE, WORK, TRASH, FAILED, COMMIT, PARTS = "stage.json", ".work", ".work.old", "failed.json", "COMMIT", ".parts"
WORK_INFO, PROGRESS, OUT = "work.json", "progress.json", "out"
RESERVED = frozenset({STAGE, WORK, TRASH, FAILED, PARTS, *DirectoryLock.NAMES})


@dataclass(eq=False)
class StageFiles:
    """The files of a stage, whatever it was made with.

    Args:
        directory: The stage's directory; it need not exist.
    """

    directory: Path

    @property
    def work_dir(self) -> Path:
        """Folder for work in progress; ``out`` in it holds what will be committed, the rest is scratch."""
        return self.directory / WORK

    @property
    def out_dir(self) -> Path:
        """Folder whose content is moved into the directory by the commit."""
        return self.work_dir / OUT

    @property
    def parts_dir(self) -> Path:
        """Folder of the parts."""
        return self.directory / PARTS

    @staticmethod
    def read_record(directory: Path) -> dict[str, Any] | None:
        """Return a directory's ``stage.json``: None where nothing is committed, empty where it cannot be read."""
        record = read_json(directory / STAGE)
        return record if record is not None or not (directory / STAGE).exists() else {}

    def record(self) -> dict[str, Any] | None:
        """Return the content of ``stage.json``, see `read_record`."""
        return self.read_record(self.directory)

    def refuse_foreign(self, name: str) -> None:
        """See that a stage may work here.

        Args:
            name: The stage's name.

        Raises:
            UsageError: The directory holds the output of another command, or things of somebody else.
        """
        record, work = self.record(), self._work_info()
        for content in (record, work):
            if (other := (content or {}).get("stage", name)) != name:
                other_command = f"{self.directory} holds the output of another command ({other})"
                raise UsageError(other_command, hint="Give another -o")
        names = {item.name for item in self.directory.iterdir() if not item.name.endswith(TMP_SUFFIX)}
        if names - RESERVED and record is None and work is None and FAILED not in names:
            foreign = f"{self.directory} is not empty and was not made by this command"
            raise UsageError(foreign, hint="Give another -o, or empty it first")

    def _work_info(self) -> dict[str, Any] | None:
        """Return what the work folder says about itself; empty where a kill came before it could say anything."""
        if not self.work_dir.is_dir():
            return None
        info = read_json(self.work_dir / WORK_INFO)
        if info is None and list_files(self.work_dir) not in ([], [WORK_INFO]):
            raise UsageError(f"{self.work_dir} was not made by this command", hint="Give another -o, or remove it")
        return info or {}

    def _previous(self, work: Mapping[str, Any] | None) -> set[str]:
        """Return which files are of older commits, by what the work folder and the record say."""
        return set((work or {}).get("previous", ())) | set((self.record() or {}).get("outputs", {}))

    def _mend(self) -> None:
        """Carry out a commit that a kill interrupted, and remove what was to be removed; needs the lock."""
        remove(self.directory / TRASH)
        decided = read_json(self.work_dir / COMMIT)
        if decided is not None and "record" in decided:
            self._roll_forward(decided)

    def _roll_forward(self, decided: Mapping[str, Any]) -> None:
        """Carry out a decided commit, from whatever point an earlier attempt reached."""
        record, previous, outputs = decided["record"], decided["previous"], decided["record"]["outputs"]
        if any(not there(self.out_dir / path) and not there(self.directory / path) for path in outputs):
            # Somebody removed files: forget the work, keep the list of what is ours.
            self._wipe_work(record["stage"], sorted({*previous, *outputs}))
            return
        (self.directory / STAGE).unlink(missing_ok=True)
        fsync_directory(self.directory)
        try:
            remove_files(self.directory, set(previous) - set(outputs))
            move_files(self.out_dir, self.directory, outputs)
            remove_others(self.parts_dir, keep=record.get("parts", ()))
        except OSError as exc:
            raise UniDetoxError(f"cannot put {exc.filename} in place: {exc.strerror}") from exc
        (self.directory / FAILED).unlink(missing_ok=True)
        write_json(self.directory / STAGE, record)
        self._discard_work()

    def _wipe_work(self, name: str, previous: list[str]) -> None:
        """Empty the work folder; the list of older outputs is never lost, whenever a kill comes."""
        self.work_dir.mkdir(exist_ok=True)
        write_json(self.work_dir / WORK_INFO, {"stage": name, "key": None, "previous": previous})
        for item in self.work_dir.iterdir():
            if item.name != WORK_INFO:
                remove(item)

    def _discard_work(self) -> None:
        trash = self.directory / TRASH  # renamed first: what is called .work is always whole
        remove(trash)
        os.replace(self.work_dir, trash)  # noqa: PTH105
        remove(trash)
