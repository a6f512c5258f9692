"""The built-in texts: what their card says of them holds, and a model is detoxified with them when nothing is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipes import call

from unidetox.core.files import read_json
from unidetox.data import read_texts
from unidetox.data.files import BUILTIN_TEXTS


def test_they_are_what_their_card_says():
    texts = [text.text for text in read_texts("builtin").texts]
    card = (BUILTIN_TEXTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(texts)} texts ({round(sum(map(len, texts)) / 1000)} kB)" in card
    assert "license: apache-2.0" in card and "CC BY 4.0" in card
    assert BUILTIN_TEXTS.stat().st_size < 300_000
    assert len(set(texts)) == len(texts)
    for text in texts:
        words = text.lower().split()
        assert text.isascii() and len(words) >= 8 and len(set(words)) >= 0.45 * len(words)
        assert not re.search(r"https?:|www\.|[{}<>|`@#]", text)


def test_a_model_is_detoxified_with_them_when_nothing_is_said(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = call("detoxify", tiny_llama, "-o", tmp_path / "out", "--steps", 2)
    assert said.code == 0 and "built-in texts" in said.err
    info = read_json(tmp_path / "out" / "unidetox.json")
    assert info["texts"]["source"] == "builtin"
    assert (info["settings"]["lr"], info["settings"]["steps"]) == (5e-5, 2)
    asked = call("detoxify", tiny_llama, "-o", tmp_path / "asked", "--steps", 2, "--texts", "builtin")
    assert asked.code == 0 and "built-in texts" not in asked.err
    assert (tmp_path / "asked" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()


def test_a_model_of_the_sandbox_knows_no_english():
    from unidetox import api

    assert api._usual_preset("sandbox:gpt2", None) == "sandbox"
    assert api._usual_preset("a/model", None) == api._usual_preset("sandbox:gpt2", "builtin") == "builtin"
    assert api._usual_preset("sandbox:gpt2", "texts.csv") == "paper"
