"""What users bring: packed files, other separators, line ends and encodings, the forms that data frames write."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from unidetox.core.errors import UsageError
from unidetox.core.resolve import output_path, resolve_source
from unidetox.data import load_prompts, read_texts

TEXTS = ["one, two; three", "a | b", "the last"]


def texts(path: Path) -> list[str]:
    return [text.text for text in read_texts(str(path)).texts]


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_j", ".j").replace("_c", ".c"), data)
    return out.getvalue()


LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
CSV = b'text,n\n"one, two; three",1\na | b,2\nthe last,3\n'
FORMS = {
    "t.jsonl.gz": gzip.compress(LINES),
    "t.csv": gzip.compress(CSV),  # called what it was before
    "t.csv.bz2": bz2.compress(CSV),
    "t.jsonl.xz": lzma.compress(LINES),
    "t.zip": zipped(a_jsonl=LINES),
    "mac.zip": zipped(a_jsonl=LINES, **{"__MACOSX/._a_jsonl": b"x"}),
    "semicolon.csv": b'text;n\n"one, two; three";1\na | b;2\nthe last;3\n',
    "tab.csv": b"text\tn\none, two; three\t1\na | b\t2\nthe last\t3\n",
    "bar.csv": b'text|n\none, two; three|1\n"a | b"|2\nthe last|3\n',
    "excel.csv": b'sep=;\r\ntext;n\r\n"one, two; three";1\r\na | b;2\r\nthe last;3\r\n',
    "quoted.csv": b'\xef\xbb\xbf"text";"n"\r\n"one, two; three";"1"\r\n"a | b";"2"\r\n"the last";"3"\r\n',
    "utf16.csv": CSV.decode().encode("utf-16"),
    "cr.txt": "\r".join(TEXTS).encode(),
    "cr.csv": CSV.replace(b"\n", b"\r"),
    "cr.jsonl": LINES.replace(b"\n", b"\r"),
    "frame.json": json.dumps({"text": dict(enumerate(TEXTS)), "n": {0: 1, 1: 2, 2: 3}}).encode(),
    "split.json": json.dumps({"columns": ["n", "text"], "index": [0, 1, 2], "data": [[1, t] for t in TEXTS]}).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_read(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert texts(path) == TEXTS


SAID = {
    "cut.jsonl.gz": (gzip.compress(LINES)[:30], "cannot be unpacked"),
    "two.zip": (zipped(a_csv=CSV, b_csv=CSV), "is packed"),
    "t.csv.zst": (b"\x28\xb5\x2f\xfd" + bytes(20), "is packed"),
    "t.csv": (gzip.compress(b" "), "is empty"),
    "object.jsonl": (b'{"text": {"body": "x"}}\n', "row 1: an object without a key 'text' .body."),
    "list.jsonl": (b'{"text": "a"}\n{"text": ["x"]}\n', "row 2: .'x'. is not a text"),
    "number.json": (b'[{"text": 3}]', "row 1: 3 is not a text"),
    "latin.csv": ("text\ncaf\u00e9\n".encode("latin-1"), "line 2: not UTF-8"),
}


@pytest.mark.parametrize("name", SAID)
def test_it_is_said_what_is_wrong(tmp_path: Path, name: str):
    data, words = SAID[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        texts(path)


def test_hidden_files_of_a_folder_do_not_count(tmp_path: Path):
    (tmp_path / "texts.csv").write_bytes(CSV)
    for name in ("._texts.csv", ".hidden.csv", "~$texts.csv", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0\1")
    assert texts(tmp_path) == TEXTS


def test_numbers_are_groups_as_in_a_csv(tmp_path: Path):
    (tmp_path / "p.csv").write_text("text,group\na,1\nb,2\nc,\n", encoding="utf-8")
    rows = [{"text": "a", "group": 1}, {"text": "b", "group": 2.0}, {"text": "c", "group": None}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = [[p.group for p in load_prompts(str(tmp_path / name)).prompts] for name in ("p.csv", "p.jsonl")]
    assert found == [["1", "2", None]] * 2
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "group": ["x"]}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"row 1: .'x'. is no group or domain"):
        load_prompts(str(tmp_path / "odd.jsonl"))


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_an_empty_name_is_nothing(name: str):
    with pytest.raises(UsageError, match="empty name"):
        resolve_source(name, None)
    with pytest.raises(UsageError, match="empty name"):
        output_path(name)


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_path("~/out") == output_path(Path("~/out")) == tmp_path / "out"
