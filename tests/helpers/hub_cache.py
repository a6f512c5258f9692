"""A Hugging Face cache made on the spot, as downloads leave it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of the main branch."""
OLD = "fedcba9876543210fedcba9876543210fedcba98"
"""Of another revision."""


def lay(
    hub: Path, kind: str, name: str, files: Iterable[Path], *, commit: str = COMMIT, revision: str = "main"
) -> None:
    """Add one revision of a repository: blobs, links to them in a snapshot, a ref.

    Args:
        hub: The folder ``hub`` of a Hugging Face home.
        kind: ``model`` or ``dataset``.
        name: The Hub id.
        files: What is in it.
        commit: Of this state.
        revision: The branch or tag that stands for the commit.
    """
    folder = hub / f"{kind}s--{name.replace('/', '--')}"
    ref, snapshot = folder / "refs" / revision, folder / "snapshots" / commit
    for path in (ref.parent, snapshot, folder / "blobs"):
        path.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    for file in files:
        blob = folder / "blobs" / f"{len(list((folder / 'blobs').iterdir())):040x}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
