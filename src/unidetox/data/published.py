"""The 640 detoxifying texts that the paper's authors published: fetched once, checked, then read from this disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unidetox.core import hub
from unidetox.core.errors import MissingError, UniDetoxError
from unidetox.core.files import write_text
from unidetox.core.resolve import cache_home

COMMIT = "87a78111c85f814ac6be824a7a4db37b17f4a9ea"
SHA256 = "ba537cd7d234b76f2cd698f70befd0868241ba9fdf8e959933d213575b43ec2b"
URL = (
    f"https://raw.githubusercontent.com/EminLU/UniDetox/{COMMIT}/distilled_text/"
    "generated_texts_alpha%3D0.1_beta%3Dinf_checkpoint-15126.csv"
)
_SECONDS = 30.0


def published_texts() -> Path:
    """Return the authors' texts as a file of this disk (690 kB, CSV with the column ``Text``, Apache-2.0).

    They are fetched when they are first asked for and kept in ``$UNIDETOX_HOME`` (by default ``~/.cache/unidetox``).

    Returns:
        The file; its content is that of one commit, held by its SHA-256.

    Raises:
        MissingError: They are not on this disk and cannot be fetched: offline, or no answer.
        UniDetoxError: What was fetched is something else.
    """
    path = cache_home() / "texts" / f"published-{SHA256[:12]}.csv"
    if path.is_file() and _is_published(path.read_bytes()):
        return path
    hint = f"fetch {URL} where there is a network, and give the file: --texts FILE"
    if hub.is_offline():
        raise MissingError("the published texts are not on this disk (offline)", hint=hint)
    from huggingface_hub import get_session

    try:
        answer = get_session().get(URL, timeout=_SECONDS)
        answer.raise_for_status()
    except Exception as exc:  # the client's own kinds, which differ by version
        raise MissingError(f"the published texts cannot be fetched ({type(exc).__name__})", hint=hint) from exc
    if not _is_published(answer.content):
        raise UniDetoxError(f"{URL} holds something else than the published texts (SHA-256 differs)", hint=hint)
    write_text(path, answer.content.decode("utf-8"))
    return path


def _is_published(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256
