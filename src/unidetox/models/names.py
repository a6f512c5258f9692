"""What to call a model, in a table and as a folder, and how to know it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.models.directories import adapter_base, read_rule

# A folder of this name says nothing about the model in it; its parent does.
_GENERIC_NAMES = {"model", "models", "checkpoint", "final", "out", "output", "merged", "adapter"}
# Notes hold times: a model made again must be known as the same.
_NOTES = {"stage.json", "unidetox.json", "failed.json"}
_CONTENT = (".json", ".safetensors", ".bin", ".model", ".txt", ".py", ".jinja")


def short_name(name: str | Path) -> str:
    """The name that people say: ``opt-6.7b`` for ``facebook/opt-6.7b`` and for ``runs/opt-6.7b/model``.

    A revision stays part of it, as two are two models: ``opt-6.7b@v2``; of a commit, its first seven digits.
    """
    name, revision = split_revision(str(name))
    parts = [part for part in Path(name).expanduser().parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[-1].lower() in _GENERIC_NAMES:
        parts.pop()
    commit = revision and re.fullmatch("[0-9a-f]{40}", revision)
    return at_revision(parts[-1] if parts else "model", revision[:7] if revision and commit else revision)


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


def fingerprint(name: str | Path) -> str:
    """A hash of what a model is, to notice that it has changed.

    Files of up to 8 MiB are read whole, of larger ones 64 evenly spaced blocks of 64 KiB: fine-tuning shows,
    and a 7B model takes but a moment. The models that an adapter or a rule (``detox.json``) names count too; notes
    about the model (``README.md``, ``unidetox.json``) do not.

    Args:
        name: A model directory or a Hub id.

    Returns:
        A SHA-256 of a directory's files; ``ID@COMMIT`` for a Hub id in the local cache, else the id as it is named.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        return _hub_fingerprint(str(name))
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix in _CONTENT and file.name not in _NOTES:
            digest.update(file.name.encode() + b"\0")
            for block in _sampled_blocks(file):
                digest.update(block)
    base, rule = adapter_base(path), read_rule(path)
    for other in (*([base] if base else []), *(rule.models if rule else ())):
        digest.update(fingerprint(other).encode())
    return digest.hexdigest()


def _sampled_blocks(file: Path, whole: int = 8 << 20, block: int = 64 << 10, count: int = 64) -> Iterator[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        if size <= whole:
            yield stream.read()
            return
        for i in range(count):
            stream.seek((size - block) * i // (count - 1))
            yield stream.read(block)


def _hub_fingerprint(name: str) -> str:
    if is_local(name):
        return name
    from huggingface_hub import try_to_load_from_cache

    repository, revision = split_revision(name)
    for file in ("config.json", "adapter_config.json"):
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return at_revision(repository, Path(cached).parent.name)
    return name
