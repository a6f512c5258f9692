"""What a name in a recipe or on the command line stands for: a file, a folder, sandbox data or a Hub id."""

from __future__ import annotations

import os.path
from pathlib import Path

from unidetox.core.errors import MissingError
from unidetox.core.hub import is_local
from unidetox.core.names import SANDBOX, sandbox_assets


def resolve_source(name: str, base_dir: Path | None, *, missing_ok: bool = False) -> str:
    """Find what a name in a recipe or on the command line stands for.

    Args:
        name: ``sandbox:NAME``, a path or a Hub id.
        base_dir: Folder that relative paths are tried against first; then the working directory.
        missing_ok: Return the name as it is where a path does not exist.

    Returns:
        An absolute path if there is such a file or folder, else the name unchanged (a Hub id).

    Raises:
        MissingError: If the name can only be a path, and nothing is there.
    """
    if name.startswith(SANDBOX):
        inner = name.removeprefix(SANDBOX)
        return str(sandbox_assets() / inner if missing_ok else sandbox_asset(inner))
    for folder in (base_dir, Path.cwd()):
        # Unlike resolve(), it keeps a link's own name, and `..` leads to the folder that the link is in.
        candidate = os.path.abspath((folder or Path.cwd()) / Path(name).expanduser())  # noqa: PTH100
        if os.path.exists(candidate):  # noqa: PTH110
            return candidate
    if is_local(name) and not missing_ok:
        raise MissingError(f"{name} does not exist", hint="Correct the path, or give the id of a Hub repository")
    return name


def sandbox_asset(name: str) -> Path:
    """Return where a model or data file of the packaged sandbox lies.

    Args:
        name: ``gpt2``, ``opt``, ``falcon``, ``llama``, ``judge``, ``scorer`` (model directories), ``mmlu`` (folder of
            questions), ``toxic_corpus.csv``, ``prompts_validation.csv``, ``prompts_test.csv``, ``prompts_neutral.csv``
            or ``build.json``.

    Raises:
        MissingError: There is no asset of that name.
    """
    path = sandbox_assets() / name
    if not name or Path(name).name != name or not path.exists():
        raise MissingError(f"the sandbox has no {name!r}", hint=_sandbox_hint())
    return path


def _sandbox_hint() -> str:
    assets = sandbox_assets()
    names = sorted(item.name for item in assets.iterdir()) if assets.is_dir() else []
    return "It has: " + ", ".join(names) if names else "Its data are not installed; install UniDetox again"
