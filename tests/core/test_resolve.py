"""Names: paths, Hub ids, and the revisions of these."""

from __future__ import annotations

import pytest

from unidetox.core.errors import MissingError
from unidetox.core.resolve import at_revision, is_local, resolve_source, split_revision


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2", ("gpt2", None)),
        ("org/name", ("org/name", None)),
        ("gpt2@main", ("gpt2", "main")),
        ("org/name@v1.2", ("org/name", "v1.2")),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3")),
        ("org/name@" + "a" * 40, ("org/name", "a" * 40)),
        # None of these can be a Hub id with a revision.
        *(
            (name, (name, None))
            for name in ("gpt2@", "gpt2@v1@v2", "@v1", "gpt2@a b", "gpt2@a..b", "gpt2@-v", "a/b/c@v")
        ),
        *(
            (name, (name, None))
            for name in ("./gpt2@v1", "/gpt2@v1", "sandbox:gpt2@v1", "me@a.csv", "me.csv@v1", "a/b/c@v")
        ),
    ],
)
def test_a_revision_is_what_follows_a_hub_id(name, parts):
    assert split_revision(name) == parts
    assert at_revision(*parts) == name
    assert is_local(name) == (parts[1] is None and not name.isalnum() and name != "org/name")


def test_a_path_that_is_there_wins(tmp_path):
    (tmp_path / "gpt2@v1").mkdir()
    assert split_revision("gpt2@v1") == ("gpt2@v1", None)
    assert resolve_source("gpt2@v1", tmp_path) == str(tmp_path / "gpt2@v1")
    assert resolve_source("gpt2@v2", tmp_path) == "gpt2@v2"


def test_what_can_be_no_revision_is_said_in_one_line(tmp_path):
    with pytest.raises(MissingError, match="gpt2@ does not exist") as caught:
        resolve_source("gpt2@", tmp_path)
    assert "ID@REVISION" in caught.value.hint
    with pytest.raises(MissingError, match="the sandbox has no 'gpt2@v1'"):
        resolve_source("sandbox:gpt2@v1", None)
