"""A run's directory: its recipe, its manifest and its lock; the stages live in folders below it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unidetox.config.recipe import load_recipe, portable, write_recipe
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.directories import DirectoryLock, check_directory, list_files, locked
from unidetox.core.errors import MissingError, UsageError, interruption
from unidetox.core.files import TMP_SUFFIX, read_json, write_json
from unidetox.core.names import hide_home, hide_secrets
from unidetox.core.provenance import now, versions
from unidetox.core.stage_files import FAILED

RECIPE, RESOLVED, MANIFEST, LOGS = "recipe.toml", "recipe.resolved.json", "manifest.json", "logs"
_OWN = frozenset({RECIPE, RESOLVED, MANIFEST, FAILED, *DirectoryLock.NAMES})


class Run:
    """A directory that holds everything a recipe makes.

    Args:
        directory: The run's directory; it need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Return a run that exists.

        Raises:
            MissingError: If there is no such directory.
            UsageError: If it is not a run.
        """
        run = cls(directory)
        if not run.directory.is_dir():
            raise MissingError(f"{directory} does not exist", hint="Give the directory of a run")
        if not run.manifest():
            hint = "Give the directory that `unidetox run` or `unidetox demo` wrote"
            raise UsageError(f"{directory} is not a run: it has no {MANIFEST}", hint=hint)
        return run

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; empty where there is none."""
        return read_json(self.directory / MANIFEST) or {}

    def recipe(self) -> Recipe:
        """Return the recipe that the run was last started with; it may name files that are gone."""
        return load_recipe(self.directory / RECIPE, missing_ok=True)

    def check(self, recipe: Recipe) -> None:
        """See that this recipe may run in this directory; writes nothing.

        Raises:
            UsageError: If the directory holds something else, or a run with another name.
        """
        if not self.directory.is_dir():
            check_directory(self.directory)
        names = [item.name for item in self.directory.iterdir()] if self.directory.is_dir() else []
        manifest = self.manifest()
        if not manifest and any(name not in DirectoryLock.NAMES and not name.endswith(TMP_SUFFIX) for name in names):
            raise UsageError(f"{self.directory} is not empty and not a run", hint="Give another -o, or empty it first")
        if (held := manifest.get("name", recipe.name)) != recipe.name:
            raise UsageError(f"{self.directory} holds the run {held!r}, not {recipe.name!r}", hint="Give another -o")

    @contextlib.contextmanager
    def session(self, recipe: Recipe, command: Sequence[str]) -> Iterator[Run]:
        """Work in the run; holds its lock meanwhile and keeps recipe and manifest.

        Args:
            recipe: What to do.
            command: The command line, for the manifest; home folder and tokens are taken out.

        Yields:
            This run.

        Raises:
            LockedError: If another process works in it.
            UsageError: As `check`.
        """
        self.check(recipe)
        with locked(self.directory) as made:
            try:
                self.check(recipe)
                yield from self._recorded(recipe, command)
            finally:
                self._forget_if_nothing_done(bool(made))

    def _recorded(self, recipe: Recipe, command: Sequence[str]) -> Iterator[Run]:
        manifest, log = self._begin(recipe, command), self.directory / LOGS / "run.log"
        outcome = "interrupted"
        try:
            with console.logged(log):
                yield self
            outcome = "done"
        except Exception as exc:
            outcome = "interrupted" if interruption(exc) else "failed"
            with contextlib.suppress(OSError), console.logged(log):
                console.detail(f"failed: {exc}")
            raise
        finally:
            with contextlib.suppress(OSError):  # a full disk must not hide the error itself
                write_json(self.directory / MANIFEST, manifest | {"finished": now(), "outcome": outcome})

    def _begin(self, recipe: Recipe, command: Sequence[str]) -> dict[str, Any]:
        before = self.manifest()
        earlier = [*before.pop("earlier", []), before] if before else []
        # Without the home folder, tokens and where the program lies.
        words = [hide_secrets(hide_home(word)) for word in command]
        manifest = {
            "schema_version": 1, "name": recipe.name, "recipe": recipe.digest(),
            "command": [Path(word).name for word in words[:1]] + words[1:],
            "started": now(), "finished": None, "outcome": "running", "versions": versions(), "earlier": earlier,
        }  # fmt: skip
        write_json(self.directory / MANIFEST, manifest)
        write_json(self.directory / RESOLVED, portable(recipe, self.directory.absolute()).model_dump())
        write_recipe(recipe, self.directory / RECIPE)
        return manifest

    def _forget_if_nothing_done(self, made: bool) -> None:
        """Remove a new run in which a mistake was found before anything was made."""
        if not made or self.manifest().get("outcome") not in ("failed", "interrupted"):
            return
        if all(path.name in _OWN or path.parts[0] == LOGS for path in map(Path, list_files(self.directory))):
            shutil.rmtree(self.directory)
            self.directory.mkdir()  # the lock is still ours; the caller removes the empty folder
