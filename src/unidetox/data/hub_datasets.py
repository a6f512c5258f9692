"""Data sets of the Hugging Face Hub: from the local cache where they lie there, else fetched file by file.

Files are chosen by their names and read by `unidetox.data.formats`, and `datasets` comes last, for three reasons.
Offline it reads nothing of the Hub cache, or, given the folder, only what the README says, which a cache of single
files lacks. It takes ``dev`` and ``validation`` for one split. And of a CSV it reads the texts ``NA`` and ``null`` as
none at all, so that rows would have another hash by way of the Hub than from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unidetox.core import hub
from unidetox.core.resolve import split_revision
from unidetox.data.formats import Table, read_table

# The first ending for which there are files wins: a data set often holds the same rows in several formats.
_PREFERRED = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".txt")
_NOT_DATA = {
    "dataset_infos.json", "dataset_info.json", "state.json", "config.json",
    "readme.txt", "license.txt", "requirements.txt",
}  # fmt: skip
# Splits with the other words for them.
_SPLITS = ("auxiliary", "train training", "validation valid val", "dev", "test")

ALIASES = {
    "dghs": "LennardZuendorf/Dynamically-Generated-Hate-Speech-Dataset",
    "toxigen": "toxigen/toxigen-data",
    "mmlu": "cais/mmlu",
}
"""What well-known data sets are called for short -> their Hub ids."""

Select = Callable[[Sequence[str]], list[str]]


def known_id(source: str) -> tuple[str, str | None]:
    """Split what the user typed into a name and a revision, the short name of a well-known data set written out."""
    name, revision = split_revision(source)
    return ALIASES.get(name, name), revision


def load_hub_table(name: str, splits: Sequence[str], config: str | None = None, refine: Select | None = None) -> Table:
    """Load one split of a Hub data set with as little as possible: cache, then download, then `datasets`.

    Args:
        name: Hub id, e.g. ``"toxigen/toxigen-data"``, perhaps with ``@REVISION``.
        splits: The splits that will do, best first.
        config: Name of the configuration (subset), where there are several.
        refine: Last word on which of the chosen files to read, e.g. only the newest version.

    Returns:
        The rows of the first of the splits that there is.

    Raises:
        MissingError: Neither cached nor to be had; with how to get it.
        UsageError: A file of it that cannot be read.
    """

    def select(paths: Sequence[str]) -> list[str]:
        chosen = next((files for split in splits if (files := choose_files(paths, split, config))), [])
        return refine(chosen) if refine else chosen

    files = _from_cache(name, select) or ([] if hub.is_offline() else _download(name, select))
    if not files:
        return _with_datasets(name, splits, config)
    tables = [read_table(path) for path in files]
    return Table(name, tables[0].columns, [row for table in tables for row in table.rows])


def cached_files(name: str, split: str, config: str | None = None) -> list[Path]:
    """Return the data files of a split that lie in the local cache, see `choose_files`; empty where there are none."""
    return _from_cache(name, lambda paths: choose_files(paths, split, config))


def choose_files(paths: Sequence[str], split: str, config: str | None = None) -> list[str]:
    """Pick the data files of a split from the file names of a data set.

    Args:
        paths: All file names, relative, with forward slashes.
        split: ``train``, ``validation``, ``dev``, ``test`` or another word of the file names.
        config: Only files in a folder of this name, or whose own name starts with it.

    Returns:
        Sorted file names of one format; empty where there are none, or where a shard of them is missing.
        Files that name no split at all count as ``train``.
    """
    data = [path for path in sorted(paths) if _is_data(path) and (config is None or _in_config(path, config))]
    for suffix in _PREFERRED:
        splits = {path: _split_of(path) for path in data if path.lower().endswith(suffix)}
        wanted = split if split in splits.values() or split != "train" else None
        if chosen := [path for path, named in splits.items() if named == wanted]:
            shards = [found.group(1) for path in chosen if (found := re.search(r"-of-(\d{5})", path))]
            one_folder = len({PurePosixPath(path).parent for path in chosen}) == 1
            return [] if shards and one_folder and len(shards) != int(shards[0]) else chosen
    return []


def newest_version(paths: Sequence[str]) -> list[str]:
    """Of files named with versions (``... v0.2.3.csv``) keep the newest; all where none names a version."""
    versions = {path: re.search(r"v(\d+)\.(\d+)(?:\.(\d+))?", path) for path in paths}
    numbers = {path: tuple(int(part or 0) for part in found.groups()) for path, found in versions.items() if found}
    newest = max(numbers.values(), default=())
    return [path for path in paths if numbers.get(path, ()) == newest]


def _is_data(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and parts[-1].lower() not in _NOT_DATA and path.lower().endswith(_PREFERRED)


def _in_config(path: str, config: str) -> bool:
    pure = PurePosixPath(path)
    return config in pure.parts[:-1] or re.match(rf"{re.escape(config)}([-_.]|$)", pure.stem) is not None


def _split_of(path: str) -> str | None:
    """The split that a file's own name, else its folder's names, speak of."""
    pure = PurePosixPath(path)
    for part in (pure.stem, *reversed(pure.parts[:-1])):
        words = set(re.findall("[a-z]+", part.lower()))
        if split := next((names.split()[0] for names in _SPLITS if words & set(names.split())), None):
            return split
    return None


def _from_cache(name: str, select: Select) -> list[Path]:
    folder = hub.cached_snapshot(name, "dataset")
    if folder is None:
        return []
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [folder / path for path in select(present)]


def _download(name: str, select: Select) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download

    hub.require_reachable(name, "dataset")
    repository, revision = split_revision(name)
    where: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    try:
        chosen = select(HfApi().list_repo_files(repository, **where))
        return [Path(hf_hub_download(repository, path, **where)) for path in chosen]
    except Exception as exc:
        raise hub.explain_hub_error(exc, name, "dataset") from None


def _with_datasets(name: str, splits: Sequence[str], config: str | None) -> Table:
    """The last resort: what `datasets` prepared earlier, or a layout that only it understands."""
    import datasets

    repository, revision = split_revision(name)
    failure: Exception | None = None
    for split in splits:
        try:
            loaded = datasets.load_dataset(repository, config, split=split, revision=revision)
            return Table(name, tuple(loaded.column_names), list(loaded))
        except Exception as exc:
            failure = failure or exc
    raise hub.explain_hub_error(failure or FileNotFoundError(name), name, "dataset") from None
