"""How names, paths and texts are shown: what is secret stays out, what is private or long is shortened.

| function | for |
|---|---|
| `hide_secrets` | whatever is printed, logged or recorded |
| `hide_home` | paths that are shown to the user: command lines in manifests, `doctor` |
| `public_name` | whatever is published: page, tables, cards |
| `short_name` | what people call a model: titles of results, messages |
| `slug`, `unique_slugs` | names of folders and files |
| `sandbox_name`, `portable_name` | recipes and records that must mean the same on another machine |
"""

from __future__ import annotations

import hashlib
import os.path
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from unidetox.core.resolve import SANDBOX, at_revision, sandbox_assets, split_revision

# Tokens have 34 letters and digits; a folder hf_models is none.
_SECRET = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}|(?<=Bearer )\S+")
# A folder of this name says nothing about the model in it; its parent does.
_GENERIC = {"model", "models", "checkpoint", "final", "out", "output", "merged", "adapter"}
_LOCAL = re.compile(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)")
_EMBEDDED = re.compile(r"(?<![\w.:/~-])(?:file:)?(?:~|[A-Za-z]:)?[/\\][^\s\"',;()\[\]]+")


def hide_secrets(text: str) -> str:
    """Return a text with ``***`` in place of every access token."""
    return _SECRET.sub("***", text)


def hide_home(text: str) -> str:
    """Return a text with ``~`` in place of the home folder."""
    home = os.path.expanduser("~")  # noqa: PTH111 - compared as text
    return text.replace(home, "~") if len(home) > 1 else text


def public_name(text: str) -> str:
    """Shorten every local path in a text to its last part, so that nobody's home directory is published.

    Args:
        text: A model name, a path, or a sentence that holds some. A Hub id or a URL stays as it is.

    Returns:
        The text on one line, without characters that cannot be printed.
    """
    line = re.sub(r"^file:(?=/)", "", " ".join("".join(c if c.isprintable() else " " for c in text).split()))
    if _LOCAL.match(line):
        return _last_part(line) or "local"
    return _EMBEDDED.sub(lambda match: _last_part(match[0]) or "local", line)


def short_name(name: str | Path) -> str:
    """The name that people say: ``opt-6.7b`` for ``facebook/opt-6.7b`` and for ``runs/opt-6.7b/model``.

    A revision stays part of it, as two are two models: ``opt-6.7b@v2``; of a commit, its first seven digits.
    """
    name, revision = split_revision(str(name))
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        revision = revision[:7]
    return at_revision(_last_part(str(Path(name).expanduser())) or "model", revision)


def display_names(targets: Sequence[str]) -> dict[str, str]:
    """Give each target a short name: without its owner, unless two targets would then be called alike."""
    full = {target: public_name(target) for target in targets}
    short = [name.rsplit("/", 1)[-1] for name in full.values()]
    return {t: last if short.count(last) == 1 and last else full[t] for t, last in zip(full, short, strict=True)}


def slug(name: str | Path) -> str:
    """A short name that is safe as a file name: letters, digits, dot, dash and underscore, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", short_name(name)).strip(".-")[:80] or "model"


def unique_slugs(names: Sequence[str | Path]) -> list[str]:
    """A slug for each name; where two would be the same, a short hash of the whole name tells them apart."""
    slugs = [slug(name) for name in names]
    return [
        plain if slugs.count(plain) == 1 else f"{plain}-{hashlib.sha256(str(name).encode()).hexdigest()[:6]}"
        for plain, name in zip(slugs, names, strict=True)
    ]


def sandbox_name(name: str) -> str:
    """Return ``sandbox:NAME`` for a path inside the packaged sandbox, any other name unchanged."""
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(sandbox_assets()):
        return SANDBOX + path.relative_to(sandbox_assets()).as_posix()
    return name


def portable_name(name: str, base_dir: Path) -> str:
    """Undo `core.resolve.resolve_source`: ``sandbox:NAME``, or a path relative to a folder where they are near."""
    short = sandbox_name(name)
    path, base = Path(short), base_dir.absolute()
    if not path.is_absolute() or path.parts[:2] != base.parts[:2]:
        return short
    relative = os.path.relpath(path, base)
    return relative if relative.startswith("..") else f"./{relative}"


def _last_part(path: str) -> str:
    """Take the last part of a path that says something, of either kind of slashes; empty where none does."""
    kind = PureWindowsPath if "\\" in path or re.match(r"[A-Za-z]:", path) else PurePosixPath
    parts = [part for part in kind(path.removeprefix("file:")).parts if part.strip("/\\.~")]
    while len(parts) > 1 and parts[-1].lower() in _GENERIC:
        parts.pop()
    return parts[-1] if parts else ""
