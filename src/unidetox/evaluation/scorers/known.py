"""Classifiers that are known by name: where they are, and how they are read (``known.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.models.labels import Activation


@dataclass(frozen=True)
class KnownScorer:
    """A classifier of the table; see the top of ``known.toml`` for what its fields mean."""

    repository: str
    activation: Activation
    labels: tuple[str, ...]
    context: int
    trained_on: tuple[str, ...]
    tokenizer: str | None = None


@cache
def known_scorers() -> Mapping[str, KnownScorer]:
    """Return all that are known, by name."""
    content = tomllib.loads(resources.files(__package__).joinpath("known.toml").read_text("utf-8"))
    return {
        name: KnownScorer(**entry | {key: tuple(entry[key]) for key in ("labels", "trained_on")})
        for name, entry in content.items()
    }


@cache
def known_scorer(name: str) -> KnownScorer | None:
    """Return what is known of a scorer by its name or its repository, at whatever revision; None of any other.

    A folder that is called like one of the table is a folder.
    """
    if is_local(name):
        return None
    repository = split_revision(name)[0]
    by_repository = {entry.repository: entry for entry in known_scorers().values()}
    return known_scorers().get(repository) or by_repository.get(repository)


def repository_of(name: str) -> str:
    """Return the repository of a name of the table, at the same revision; any other name as it is."""
    known = known_scorer(name)
    return at_revision(known.repository, split_revision(name)[1]) if known else name
