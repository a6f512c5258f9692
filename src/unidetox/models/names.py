"""How to know a model again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.models.directories import adapter_base, read_rule

# Notes hold times: a model made again must be known as the same.
_NOTES = {"stage.json", "unidetox.json", "failed.json"}
_CONTENT = (".json", ".safetensors", ".bin", ".model", ".txt", ".py", ".jinja")


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
