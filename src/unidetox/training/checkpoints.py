"""Checkpoints of a run that may be killed at any moment, also while it saves one."""

from __future__ import annotations

import shutil
from pathlib import Path

from unidetox.core import files

_MARK = "complete.json"


class Checkpoints:
    """The checkpoints of one run: at most one complete one, and perhaps a half-written one that is ignored.

    A checkpoint counts once its mark is there, which is written last and says what run it belongs to.

    Args:
        directory: Holds folders ``checkpoint-STEP``.
        key: Hash of all that decides the result of the run.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory, self.key = directory, key

    def latest(self) -> Path | None:
        """The complete checkpoint of this run that got farthest, None where there is none; removes all others."""
        ours = [path for path in self._all() if (files.read_json(path / _MARK) or {}).get("key") == self.key]
        best = max(ours, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
        self._keep_only(best)
        return best

    def seal(self, checkpoint: Path) -> None:
        """Mark a checkpoint as complete, then remove the older ones."""
        files.write_json(checkpoint / _MARK, {"key": self.key})
        self._keep_only(checkpoint)

    def _all(self) -> list[Path]:
        return [path for path in self.directory.glob("checkpoint-*") if path.is_dir()]

    def _keep_only(self, keep: Path | None) -> None:
        for path in self._all():
            if path != keep:
                # Its mark goes first: a kill half-way through leaves nothing that looks complete.
                (path / _MARK).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
