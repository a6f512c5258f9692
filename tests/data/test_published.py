"""The published texts: fetched once, held by their hash, read offline from then on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from unidetox.core.errors import MissingError, UniDetoxError
from unidetox.data import published, read_texts

CONTENT = b'Text\r\n"a text, with\na line break"\r\nanother\r\n'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A server that holds the texts; every address that it is asked for."""
    addresses: list[str] = []

    def get(url: str, timeout: float) -> SimpleNamespace:
        addresses.append(url)
        return SimpleNamespace(content=CONTENT, raise_for_status=lambda: None)

    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(published.hub, "is_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(get=get))
    return addresses


def test_they_are_fetched_once(asked, monkeypatch):
    assert [text.text for text in read_texts("published").texts] == ["a text, with\na line break", "another"]
    assert asked == [published.URL] and published.COMMIT in published.URL
    assert published.published_texts().read_bytes() == CONTENT
    monkeypatch.setattr(published.hub, "is_offline", lambda: True)
    assert read_texts("published").source == "published"
    assert len(asked) == 1


def test_what_is_something_else_is_not_kept(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(published, "SHA256", "0" * 64)
    with pytest.raises(UniDetoxError, match="SHA-256 differs"):
        published.published_texts()
    assert not list(tmp_path.rglob("*.csv"))


def test_a_damaged_copy_is_fetched_again(asked):
    published.published_texts().write_bytes(b"Text\r\n")
    assert published.published_texts().read_bytes() == CONTENT
    assert len(asked) == 2


def test_offline_says_where_they_are(asked, monkeypatch):
    monkeypatch.setattr(published.hub, "is_offline", lambda: True)
    with pytest.raises(MissingError, match=r"not on this disk \(offline\)") as caught:
        published.published_texts()
    assert published.URL in str(caught.value.hint) and not asked


def test_no_answer_is_one_line(asked, monkeypatch):
    def get(url: str, timeout: float) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(get=get))
    with pytest.raises(MissingError, match=r"cannot be fetched \(ConnectionError\)"):
        published.published_texts()


@pytest.mark.real_data
def test_they_are_the_authors_file(shared):
    content = (shared / "data" / "unidetox_published_texts.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == published.SHA256
