"""How names, paths and texts are shown: nothing secret, nothing private, nothing long."""

from __future__ import annotations

from pathlib import Path

import pytest

from unidetox.core.names import (
    display_names,
    hide_home,
    hide_secrets,
    portable_name,
    public_name,
    sandbox_name,
    short_name,
)
from unidetox.core.resolve import is_local, sandbox_assets


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("gpt2", "gpt2"),
        ("facebook/opt-6.7b", "facebook/opt-6.7b"),
        ("/home/jane/models/gpt2", "gpt2"),
        ("/home/jane doe/models/my gpt2", "my gpt2"),
        ("~/models/gpt2/", "gpt2"),
        ("../shared/models/llama", "llama"),
        (r"C:\Users\jane\gpt2", "gpt2"),
        ("/home/jane/runs/targets/gpt2/model", "gpt2"),
        ("file:///home/jane/x.csv", "x.csv"),
        ("read from /home/jane/x.csv, twice", "read from x.csv, twice"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("and/or 1/2", "and/or 1/2"),
        ("two\nlines\x00", "two lines"),
        ("/", "local"),
    ],
)
def test_paths_are_shortened(text, public):
    assert public_name(text) == public


def test_names_are_short_unless_they_would_be_alike():
    assert display_names(["a/gpt2", "b/gpt2", "c/opt"]) == {"a/gpt2": "a/gpt2", "b/gpt2": "b/gpt2", "c/opt": "opt"}


def test_local_or_hub():
    assert not is_local("gpt2") and not is_local("facebook/opt-6.7b")
    assert is_local("/x/gpt2") and is_local("./gpt2") and is_local("runs/texts/x") and is_local("~/x")


def test_what_looks_a_little_like_a_token_is_shown():
    for name in ("runs/hf_models/gpt2", "hf_transformers", "api_org_x"):
        assert hide_secrets(name) == name
    assert hide_secrets("url?key=hf_AbCdEfGh1234567890 and") == "url?key=*** and"


def test_the_home_folder_is_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    assert hide_home("cp /home/jane/x /home/jane/y") == "cp ~/x ~/y"
    monkeypatch.setenv("HOME", "/")
    assert hide_home("/x/y") == "/x/y"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("facebook/opt-6.7b", "opt-6.7b"),
        ("runs/opt-6.7b/model", "opt-6.7b"),
        (Path("/x/gpt2/Final"), "gpt2"),
        ("model", "model"),
        ("../..", "model"),
        ("profile:x", "profile:x"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


def test_names_that_mean_the_same_elsewhere(tmp_path):
    inside = str(sandbox_assets() / "gpt2")
    assert sandbox_name(inside) == portable_name(inside, tmp_path) == "sandbox:gpt2"
    assert portable_name(str(tmp_path / "a" / "m"), tmp_path) == "./a/m"
    assert portable_name(str(tmp_path / "m"), tmp_path / "run") == "../m"
    assert portable_name("org/name", tmp_path) == "org/name"
