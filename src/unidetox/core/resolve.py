"""What a name in a recipe or on the command line stands for: a file, a folder, sandbox data or ``HUB-ID@REVISION``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from unidetox.core.errors import MissingError, UsageError

SANDBOX = "sandbox:"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"\w[\w./+-]*")
_FILE_SUFFIXES = (
    ".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".toml", ".arrow", ".gz", ".zip",
    ".safetensors", ".bin", ".pt", ".pth", ".gguf",
)  # fmt: skip


def is_local(name: str) -> bool:
    """Whether a name means something on this disk rather than a Hub id.

    True for what exists, and for what can only be a path: absolute, starting with ``.`` or ``~``, more than
    one slash, or the ending of a file. ``gpt2``, ``org/name`` and ``org/name@revision`` are Hub ids unless such a path
    exists.

    Args:
        name: A path or a Hub id, as the user typed it.

    Returns:
        True where the name should be looked for on disk only.
    """
    if os.path.exists(os.path.expanduser(name)):  # noqa: PTH110, PTH111 - unlike a path's own, these take any name
        return True
    repository, mark, revision = name.partition("@")
    looks_like_id = _HUB_ID.fullmatch(repository) is not None and len(repository) <= 128 and ".." not in name
    looks_like_revision = not mark or _REVISION.fullmatch(revision) is not None
    named_as_file = any(part.lower().endswith(_FILE_SUFFIXES) for part in (repository, name))
    return not (looks_like_id and looks_like_revision) or named_as_file


def after_kind(change: Callable[[str], str], name: str) -> str:
    """Apply a function to the name of a file, folder or Hub id: to what follows in a name like ``KIND:NAME``.

    Args:
        change: Takes and returns a name.
        name: A name; ``sandbox:NAME`` is one without a kind, and a single letter is no kind but a drive.
    """
    head, colon, rest = name.partition(":")
    has_kind = colon and f"{head}:" != SANDBOX and re.fullmatch("[a-z_]{2,}", head) and not rest.startswith("//")
    if not has_kind:
        return change(name)
    try:
        return f"{head}:{change(rest)}"
    except MissingError:  # the kind knows whether it need be there
        return name


def split_revision(name: str) -> tuple[str, str | None]:
    """Split ``HUB-ID@REVISION`` into its two parts; a path, and an id without a revision, stay as they are.

    Args:
        name: A path or a Hub id, as the user typed it.

    Returns:
        The path or the id, and the branch, tag or commit that is asked for; None for the newest state.
    """
    if is_local(name):
        return name, None
    repository, _, revision = name.partition("@")
    return repository, revision or None


def at_revision(name: str, revision: str | None) -> str:
    """Undo `split_revision`."""
    return f"{name}@{revision}" if revision else name


def resolve_source(name: str, base_dir: Path | None, *, missing_ok: bool = False) -> str:
    """Find what a name in a recipe or on the command line stands for.

    Args:
        name: ``sandbox:NAME``, a path or a Hub id.
        base_dir: Folder that relative paths are tried against first; then the working directory.
        missing_ok: Return the name as it is where a path does not exist.

    Returns:
        An absolute path if there is such a file or folder, else the name unchanged (a Hub id, perhaps ``ID@REVISION``).

    Raises:
        MissingError: If the name can only be a path, and nothing is there.
        UsageError: If it is empty, e.g. a variable of the shell that is not set.
    """
    if not name.strip():
        raise UsageError("an empty name is no source", hint="Give a file, a folder or a Hub id")
    if name.startswith(SANDBOX):
        inner = name.removeprefix(SANDBOX)
        return str(sandbox_assets() / inner if missing_ok else sandbox_asset(inner))
    for folder in (base_dir, Path.cwd()):
        # Unlike resolve(), it keeps a link's own name, and `..` leads to the folder that the link is in.
        candidate = os.path.abspath((folder or Path.cwd()) / Path(name).expanduser())  # noqa: PTH100
        if os.path.exists(candidate):  # noqa: PTH110
            return candidate
    if is_local(name) and not missing_ok:
        raise MissingError(f"{name} does not exist", hint="Correct the path, or give a Hub id: ID or ID@REVISION")
    return name


def output_path(name: str | Path) -> Path:
    """Return where something is to be written; ``~`` is the home directory, whoever expands it.

    Raises:
        UsageError: The name is empty, or the user has no home directory.
    """
    if not str(name).strip() or str(name) == "":
        raise UsageError("an empty name is no place for a result", hint="Give a folder")
    try:
        return Path(name).expanduser()
    except RuntimeError as exc:
        raise UsageError(f"{name}: there is no such home directory", hint="Give the whole path") from exc


def cache_home() -> Path:
    """Return where texts are kept from one command to the next: ``$UNIDETOX_HOME``, by default ``~/.cache/unidetox``.

    Raises:
        MissingError: There is no home directory, and the variable is not set or starts with a ``~``.
    """
    named = os.environ.get("UNIDETOX_HOME") or "~/.cache/unidetox"
    try:
        return Path(named).expanduser()
    except RuntimeError:
        hint = "Set UNIDETOX_HOME to a folder where texts may be kept"
        raise MissingError(f"{named}: this user has no home directory", hint=hint) from None


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
    if name and Path(name).name == name and path.exists():
        return path
    assets = ", ".join(sorted(item.name for item in path.parent.iterdir())) if path.parent.is_dir() else ""
    hint = f"It has: {assets}" if assets else "Its data are not installed; install UniDetox again"
    raise MissingError(f"the sandbox has no {name!r}", hint=hint)


def sandbox_assets() -> Path:
    """Return the folder of the packaged sandbox."""
    return Path(str(resources.files("unidetox") / "data" / "sandbox"))
