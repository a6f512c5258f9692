"""How to know a model again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unidetox.core.content import content_hash
from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.models.directories import adapter_base, read_rule

# Notes hold times: a model made again must be known as the same.
_NOTES = {"stage.json", "unidetox.json", "failed.json"}
_CONTENT = (".json", ".safetensors", ".bin", ".model", ".txt", ".py", ".jinja", ".gguf", ".tiktoken")
_WHOLE = 8 << 20
"""Files of up to so many bytes are read each time; fingerprints of small models stay what they were."""


def fingerprint(name: str | Path) -> str:
    """A hash of what a model is, to notice that it has changed.

    Every byte of every file that loading reads counts; large files are hashed once and known again by their size and
    times (`core.content.content_hash`). The models that an adapter or a rule (``detox.json``) names count too; notes
    about the model (``README.md``, ``unidetox.json``) do not.

    Args:
        name: A model directory or a Hub id.

    Returns:
        A SHA-256 of a directory's files; ``ID@COMMIT`` for a Hub id in the local cache, else the id as it is named.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return content_hash(path)
    if not path.is_dir():
        return _hub_fingerprint(str(name))
    digest = hashlib.sha256()
    for file in [*sorted(path.iterdir()), *sorted(path.glob("*/*.jinja")), *sorted(path.glob("*/**/*.py"))]:
        if file.is_file() and file.suffix in _CONTENT and file.name not in _NOTES:
            size = file.stat().st_size
            digest.update(file.name.encode() + b"\0" + str(size).encode())
            digest.update(file.read_bytes() if size <= _WHOLE else content_hash(file).encode())
    base, rule = adapter_base(path), read_rule(path)
    for other in (*([base] if base else []), *(rule.models if rule else ())):
        digest.update(fingerprint(other).encode())
    return digest.hexdigest()


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
