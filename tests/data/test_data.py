"""Reading texts, corpora, prompts and questions: every format, every fault, everything that is left out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.errors
import pytest

from unidetox import data
from unidetox.core import console, hub
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.names import hide_secrets
from unidetox.core.resolve import is_local
from unidetox.data import files, hub_datasets

TOXIGEN_HEADER = ["text", "target_group", "toxicity_ai", "toxicity_human"]


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What the user is told."""
    lines: list[str] = []
    files.say_once.cache_clear()
    monkeypatch.setattr(console, "info", lines.append)
    monkeypatch.setattr(console, "warn", lambda line: lines.append(f"warning: {line}"))
    return lines


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty Hugging Face cache; call it to put a revision of a data set there."""
    import huggingface_hub.constants

    root = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(name: str, content: dict[str, str | bytes], revision: str = "main") -> None:
        folder, commit = root / f"datasets--{name.replace('/', '--')}", ("0" if revision == "main" else "1") * 40
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        for path, text in content.items():
            target = folder / "snapshots" / commit / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text if isinstance(text, bytes) else text.encode())

    return put


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def parquet_bytes(rows: list[dict]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def words(texts: data.TextSet) -> list[str]:
    return [text.text for text in texts.texts]


# ---- texts: formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,one\n2,two\n"),
        ("a.tsv", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'),
        ("a.jsonl", '"one"\n"two"'),
        ("a.json", '["one", "two"]'),
        ("a.json", '[{"text": "one"}, {"text": "two"}]'),
        ("a.json", '{"data": [{"text": "one"}, {"text": "two"}]}'),
        ("a.json", '{"id": [1, 2], "text": ["one", "two"]}'),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n'),
        ("a.txt", "one\r\ntwo\r\n"),
        ("A.TXT", "one\ntwo"),
        ("a.parquet", parquet_bytes([{"text": "one"}, {"text": "two"}])),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path, name, content):
    texts = data.read_texts(write(tmp_path / name, content))
    assert words(texts) == ["one", "two"]
    assert {text.finish_reason for text in texts.texts} == {None}
    assert texts.sha256 == data.read_texts(write(tmp_path / "same.txt", "one\ntwo\n")).sha256


@pytest.mark.parametrize("column", ["text", "Text", "sentence", "content", "TEXT", "Sentence"])
def test_usual_text_columns_are_found(tmp_path, column):
    assert words(data.read_texts(write(tmp_path / "a.csv", f"x,{column}\n1,one\n"))) == ["one"]


def test_csv_with_mark_crlf_quoted_breaks_and_long_fields(tmp_path):
    long = "word " * 60_000
    content = f'\ufeffText,x\r\n"two\r\nlines, ""quoted""",1\r\n\r\n"{long}",2\r\n'
    texts = data.read_texts(write(tmp_path / "a.csv", content))
    assert words(texts) == ['two\r\nlines, "quoted"', long]
    assert csv.field_size_limit() == 131072  # the setting of the whole process is put back


def test_finish_reasons_are_read(tmp_path):
    rows = [{"text": "a", "finish_reason": "eos"}, {"text": "b", "finish_reason": "length"}, {"text": "c"}]
    source = write(tmp_path / "texts.jsonl", "\n".join(map(json.dumps, rows)))
    assert [text.finish_reason for text in data.read_texts(source).texts] == ["eos", "length", None]
    csv_source = write(tmp_path / "a.csv", "text,finish_reason\na,stop\nb,length\nc,\n")
    assert data.read_texts(csv_source).sha256 == data.read_texts(source).sha256
    assert data.read_texts(source).sha256 != data.read_texts(write(tmp_path / "b.txt", "a\nb\nc")).sha256


def test_unknown_finish_reason_is_refused(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "finish_reason": "tired"}')
    with pytest.raises(UsageError, match="row 2: finish_reason 'tired'"):
        data.read_texts(source)


def test_empty_texts_are_counted_duplicates_kept_and_both_reported_once(tmp_path, said):
    source = write(tmp_path / "a.csv", 'text\none\n" "\none \n""\ntwo\n')
    texts = data.read_texts(source)
    data.read_texts(source)
    assert words(texts) == ["one", "one ", "two"]
    assert texts.dropped == {"empty": 2}
    assert said == [f"{source}: 3 texts; left out: 2 empty; 1 duplicates kept"]


def test_limit_takes_the_first_and_counts_the_rest(tmp_path):
    texts = data.read_texts(write(tmp_path / "a.txt", "a\nb\nc"), limit=2)
    assert words(texts) == ["a", "b"]
    assert texts.dropped == {"over_limit": 1}
    with pytest.raises(UsageError, match="at least 1"):
        data.read_texts(texts.source, limit=0)


def test_advice_on_a_missing_column_names_only_options_that_there_are(tmp_path):
    source = write(tmp_path / "a.csv", "id,words\n1,one\n")
    with pytest.raises(UsageError) as caught:
        data.read_texts(source)
    assert caught.value.hint == "rename the one to read to 'text'"
    with pytest.raises(UsageError) as caught:
        data.load_toxic_corpus(source)
    assert "--column" in caught.value.hint


def test_column_is_chosen_by_name(tmp_path):
    source = write(tmp_path / "a.csv", "text,other\none,two\n")
    assert words(data.read_texts(source, column="other")) == ["two"]
    with pytest.raises(UsageError, match="no column 'nope'; its columns are: text, other"):
        data.read_texts(source, column="nope")


def test_folder_means_its_texts_or_its_only_data_file(tmp_path):
    write(tmp_path / "only.csv", "text\none\n")
    assert words(data.read_texts(str(tmp_path))) == ["one"]
    write(tmp_path / "other.csv", "text\ntwo\n")
    with pytest.raises(UsageError, match="2 data files in this folder"):
        data.read_texts(str(tmp_path))
    write(tmp_path / "texts.jsonl", '{"text": "three"}')
    assert words(data.read_texts(str(tmp_path))) == ["three"]


def test_run_folder_means_the_texts_in_it(tmp_path):
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / "texts.jsonl", '{"text": "three"}')
    assert words(data.read_texts(str(tmp_path))) == ["three"]


# ---- texts: faults


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "\ufeff \r\n", "is empty"),
        ("a.csv", "text\n", "nothing to use"),
        ("a.csv", "text,x\n,1\n", "left out: 1 empty"),
        ("a.csv", "id,label\n1,2\n", "no text column; its columns are: id, label"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a binary file"),
        ("a.txt", "one\ntwo\ncaf\u00e9\n".encode("latin-1"), "line 3: not UTF-8"),
        ("a.json", "[\n\u00e9]".encode("latin-1"), "line 2: not UTF-8"),
        ("a.csv", 'text\none\n"two\n', "line 3: not valid CSV"),
        ("a.csv", 'text\n"one" two\n', "line 2: not valid CSV"),
        ("a.csv", "text\none, two\n", "line 2: 2 cells but the header has 1"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', "line 2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "row 2: neither an object nor a string"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', "row 2: 3 is not a text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "row 1: half of a surrogate pair"),
        ("a.json", '{"text": ', "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.parquet", b"PAR1 nonsense", "not a valid Parquet file"),
        ("a.xlsx", "x", "no data file"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, name, content, message):
    with pytest.raises(UsageError) as caught:
        data.read_texts(write(tmp_path / name, content))
    assert message in str(caught.value)
    assert name in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["nowhere.csv", "/nowhere/at/all", "./texts", "~/nowhere-at-all", "a/b/c", "a" * 5000]
)
def test_missing_files_are_missing(source):
    with pytest.raises(MissingError, match="no such file or folder"):
        data.read_texts(source)


def test_no_source_and_no_data_in_folder(tmp_path):
    with pytest.raises(UsageError, match="no data source"):
        data.read_texts(" ")
    with pytest.raises(UsageError, match="no data file in this folder"):
        data.read_texts(str(tmp_path))


# ---- the Hub


def test_hub_ids_are_read_from_the_cache(cache, tmp_path):
    cache("org/corpus", {"README.md": "# x", "data/train.csv": "text\none\n", "data/test.csv": "text\ntwo\n"})
    texts = data.read_texts("org/corpus")
    assert words(texts) == ["one"]
    assert texts.source == "org/corpus"


def test_a_data_set_has_revisions(cache):
    cache("org/corpus", {"train.csv": "text\none\n"})
    cache("org/corpus", {"train.csv": "text\ntwo\n"}, "v1")
    texts = {name: data.read_texts(name) for name in ("org/corpus", "org/corpus@v1", "org/corpus@" + "1" * 40)}
    assert [words(found) for found in texts.values()] == [["one"], ["two"], ["two"]]
    assert [found.source for found in texts.values()] == list(texts)
    assert texts["org/corpus"].sha256 != texts["org/corpus@v1"].sha256
    with pytest.raises(MissingError, match="data set org/corpus@v2 is neither") as caught:
        data.read_texts("org/corpus@v2")
    assert "hf download org/corpus --repo-type dataset --revision v2" in caught.value.hint


def test_datasets_is_asked_for_the_revision(cache, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, revision))
        return datasets.Dataset.from_dict({"text": ["one"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert words(data.read_texts("org/odd@v1")) == words(data.read_texts("org/odd")) == ["one"]
    assert asked == [("org/odd", "v1"), ("org/odd", None)]


def test_short_names_of_data_sets_have_revisions_too(cache):
    cache(data.DGHS_ID, {"v0.2.3.csv": "text,label,target\nnew,hate,wom\n"})
    cache(data.DGHS_ID, {"v0.2.3.csv": "text,label,target\nold,hate,wom\n"}, "v1")
    assert [words(data.load_toxic_corpus(name)) for name in ("dghs", "dghs@v1")] == [["new"], ["old"]]
    row = {"question": "q", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2}
    for answer, revision in ((2, "main"), (3, "v1")):
        questions = parquet_bytes([{**row, "answer": answer}])
        content = {f"all/{split}.parquet": questions for split in ("validation", "dev")}
        cache("cais/mmlu", content, revision)
        rows = [{"text": str(answer), "target_group": "women", "toxicity_ai": 1.0, "toxicity_human": 1.0}]
        cache("toxigen/toxigen-data", {"annotated/train.parquet": parquet_bytes(rows)}, revision)
    assert [data.load_questions(name).questions[0].answer for name in ("mmlu", "mmlu@v1", "cais/mmlu@v1")] == [2, 3, 3]
    assert [data.load_prompts(name).prompts[0].text for name in ("toxigen", "toxigen@v1")] == ["2", "3"]


def test_hub_id_that_is_not_cached_says_how_to_get_it(cache):
    with pytest.raises(MissingError) as caught:
        data.read_texts("org/absent")
    assert "hf download org/absent --repo-type dataset" in str(caught.value)
    assert "--offline" in str(caught.value)


def test_unreachable_hub_fails_fast(cache, monkeypatch):
    import huggingface_hub
    import huggingface_hub.constants

    class Session:
        def head(self, url, timeout):
            raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    with pytest.raises(MissingError, match="Hub cannot be reached") as caught:
        data.read_texts("org/absent")
    assert caught.value.exit_code == 3


def test_hub_that_never_answers_is_given_up(monkeypatch):
    import threading

    import huggingface_hub

    class Session:
        def head(self, url, timeout):
            threading.Event().wait(2)

    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    with pytest.raises(MissingError, match="cannot be reached"):
        hub.require_reachable("org/x", "model")


def test_downloads_only_the_files_of_the_split(cache, monkeypatch, tmp_path):
    import huggingface_hub

    got = []

    class Api:
        def list_repo_files(self, name, repo_type, revision):
            got.append((name, revision))
            return ["README.md", "train.csv", "test.csv"]

    def download(name, path, repo_type, revision):
        got.append((name, path, revision))
        return write(tmp_path / path, "text\none\n")

    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "require_reachable", lambda name, kind: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert words(data.read_texts("org/x")) == ["one"]
    assert got == [("org/x", None), ("org/x", "train.csv", None)]
    assert words(data.read_texts("org/x@v1")) == ["one"]
    assert got[2:] == [("org/x", "v1"), ("org/x", "train.csv", "v1")]


def test_download_errors_are_explained(cache, monkeypatch):
    class Api:
        def list_repo_files(self, name, **_):
            raise answered("GatedRepoError", 403, "Bearer hf_abcdefghijklmnop")

    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "require_reachable", lambda name, kind: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(MissingError, match=r"gated.*hf auth login"):
        data.read_texts("org/x")


def answered(kind: str, status: int, message: str = "") -> Exception:
    """An error of the Hub's client."""
    return getattr(huggingface_hub.errors, kind)(
        message, response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


@pytest.mark.parametrize(
    ("raised", "said_first", "hint"),
    [
        (answered("GatedRepoError", 403), "model org/x is gated", "hf auth login"),
        (OSError("You are trying to access a gated repo."), "is gated", "https://huggingface.co/org/x"),
        (answered("RepositoryNotFoundError", 404), "no model org/x", "spelling"),
        (answered("RemoteEntryNotFoundError", 404, "no config.json"), "cannot be loaded (no config.json)", "org/x"),
        (answered("HfHubHTTPError", 401), "refused access", "hf auth login"),
        (answered("HfHubHTTPError", 500, "is gated, they said"), "cannot be loaded (is gated, they said)", "org/x"),
        (huggingface_hub.errors.LocalEntryNotFoundError("x"), "cannot be reached", "--offline"),
        (OSError("org/x is not a local folder and is not a valid model identifier"), "no model org/x", "spelling"),
        (OSError("We couldn't connect to 'https://huggingface.co'"), "cannot be reached", "hf download org/x`"),
        (huggingface_hub.errors.HTTPError("no route"), "cannot be reached", "--offline"),
        (TimeoutError("slow"), "cannot be reached", "--offline"),
        (ValueError("odd thing\nwith more lines"), "cannot be loaded (odd thing)", "huggingface.co/org/x"),
        (ValueError(""), "cannot be loaded (ValueError)", "huggingface.co"),
    ],
)
def test_hub_errors_become_one_line(monkeypatch, raised, said_first, hint):
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    error = hub.explain_hub_error(raised, "org/x", "model")
    assert said_first in error.message
    assert hint in (error.hint or "")


def test_a_revision_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    for raised in (answered("RevisionNotFoundError", 404), OSError("v9 is not a valid git identifier (branch ...)")):
        assert hub.explain_hub_error(raised, "org/x@v9", "model").message == "model org/x has no revision v9"


def test_hub_errors_are_found_under_what_wraps_them(monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    wrapper = OSError("could not load")
    wrapper.__cause__ = answered("GatedRepoError", 403)
    assert "is gated" in hub.explain_hub_error(wrapper, "org/x", "dataset").message


def test_no_token_is_shown(monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    error = hub.explain_hub_error(ValueError("bad header Bearer abc.def token hf_AbCdEfGh12345678"), "org/x", "model")
    assert "abc.def" not in str(error)
    assert "AbCdEf" not in str(error)


def test_what_looks_a_little_like_a_token_is_shown():
    for name in ("runs/hf_models/gpt2", "hf_transformers", "api_org_x"):
        assert hide_secrets(name) == name
    assert hide_secrets("url?key=hf_AbCdEfGh1234567890 and") == "url?key=*** and"


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        ("---\nlicense: mit\n---\n# x", {"license": "mit"}),
        ("---\nlicense: other\nlicense_name: own\n---\n", {"license": "other", "license_name": "own"}),
        ("---\nlicense: [a, b]\n---\n", {}),
        ("---\n{oops\n---\n", {}),
        ("# no metadata", {}),
        (None, {}),
    ],
)
def test_the_license_of_a_model_is_what_its_card_says(tmp_path, card, license_):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert hub.license_of(str(tmp_path)) == license_


def test_the_license_of_a_model_in_the_cache(cache, tmp_path):
    folder = tmp_path / "hub-cache" / "models--org--x"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert hub.license_of("org/x") == {"license": "apache-2.0"}
    assert hub.license_of("org/absent") == {}


def test_what_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("gpt2")
    assert not is_local("Qwen/Qwen2.5-0.5B")
    assert all(map(is_local, ["./gpt2", "/gpt2", "~/gpt2", "a/b/c", "texts.csv", "a..b", "", "has space", "a\0b"]))
    (tmp_path / "gpt2").mkdir()
    assert is_local("gpt2")


def test_files_of_a_split_are_chosen_by_name():
    toxigen = [
        "README.md",
        "annotated/test-00000-of-00001.parquet",
        "annotated/train-00000-of-00001.parquet",
        "annotations/train-00000-of-00001.parquet",
        "train/train-00000-of-00001.parquet",
    ]
    assert hub_datasets.choose_files(toxigen, "train", "annotated") == [toxigen[2]]
    assert hub_datasets.choose_files(toxigen, "test", "annotated") == [toxigen[1]]
    assert hub_datasets.choose_files(["annotated_train.csv", "toxigen.csv"], "train", "annotated") == [
        "annotated_train.csv"
    ]
    mmlu = ["all/auxiliary_train-0.parquet", "all/dev-0.parquet", "all/validation-0.parquet", "law/dev-0.parquet"]
    assert hub_datasets.choose_files(mmlu, "dev", "all") == [mmlu[1]]
    assert hub_datasets.choose_files(mmlu, "validation", "all") == [mmlu[2]]
    assert hub_datasets.choose_files(mmlu, "train", "all") == []
    assert hub_datasets.choose_files(["a.csv", ".hidden/b.csv", "dataset_infos.json"], "train") == ["a.csv"]
    shards = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert hub_datasets.choose_files(shards, "train") == shards
    assert hub_datasets.choose_files(shards[:1], "train") == []


# ---- the toxic corpus

DGHS_HEADER = ["acl.id", "text", "label", "type", "target", "split"]


def dghs_row(text: str, label: str, target: str) -> list[str]:
    return ["acl1", text, label, "notgiven", target, "train"]


def test_dghs_is_filtered_as_in_the_paper(tmp_path, said):
    rows = [
        dghs_row("a", "hate", "wom"),
        dghs_row("b", "hate", "gay.man"),
        dghs_row("c", "hate", "gayman"),
        dghs_row("d", "hate", "Eastern European"),
        dghs_row("e", "hate", "dis"),
        dghs_row("f", "hate", "bla, wom"),
        dghs_row("g", "hate", "notgiven"),
        dghs_row("h", "hate", ""),
        dghs_row("i", "nothate", "none"),
        dghs_row("a ", "hate", "trans"),
    ]
    corpus = data.load_toxic_corpus(write_csv(tmp_path / "a.csv", DGHS_HEADER, rows))
    assert words(corpus) == ["a", "b", "c", "d"]
    assert corpus.dropped == {"not_hate": 1, "no_target": 1, "other_target": 3, "duplicate": 1}
    assert {text.finish_reason for text in corpus.texts} == {"eos"}
    assert len(said) == 1
    assert "targets that match no row: arab, asi," in said[0]
    assert "gay.man" not in said[0].split("no row:")[1].split(", ")


def test_a_filtered_dghs_file_keeps_rows_without_target(tmp_path, said):
    rows = [
        dghs_row("a", "hate", ""),
        dghs_row("b", "hate", ""),
        dghs_row("c", "hate", "dis"),
        dghs_row("d", "nothate", ""),
    ]
    corpus = data.load_toxic_corpus(write_csv(tmp_path / "a.csv", DGHS_HEADER, rows))
    assert words(corpus) == ["a", "b"]
    assert corpus.dropped == {"not_hate": 1, "other_target": 1}
    assert "2 hate rows without a target kept" in said[0]


def test_dghs_without_a_fitting_row_is_refused(tmp_path):
    source = write_csv(tmp_path / "a.csv", DGHS_HEADER, [dghs_row("a", "nothate", "none")])
    with pytest.raises(UsageError, match="no row passes the filter"):
        data.load_toxic_corpus(source)


def test_there_are_34_targets():
    assert len(data.DGHS_TARGETS) == 34


def test_dghs_from_the_hub_reads_the_newest_version_only(cache, said):
    old = "text,label,target\nold,hate,wom\n"
    new = "text,label,target\nnew,hate,wom\n"
    cache(data.DGHS_ID, {"Data v0.2.2.csv": old, "Data v0.2.3.csv": new, "Data v0.2.10.csv": new})
    assert words(data.load_toxic_corpus("dghs")) == ["new"]
    assert any("newest version" in line for line in said)


def test_duplicates_can_be_kept(tmp_path, said):
    source = write(tmp_path / "a.txt", "a\nb\na\n")
    assert words(data.load_toxic_corpus(source)) == ["a", "b"]
    kept = data.load_toxic_corpus(source, duplicates=True)
    assert words(kept) == ["a", "b", "a"]
    assert kept.dropped == {}
    assert said[-1].endswith("1 duplicates kept")


def test_limit_takes_a_seeded_sample_in_order(tmp_path):
    source = write(tmp_path / "a.txt", "\n".join(f"{n:03}" for n in range(100)))
    one = data.load_toxic_corpus(source, limit=10, seed=1)
    assert words(one) == sorted(words(one))
    assert words(one) == words(data.load_toxic_corpus(source, limit=10, seed=1))
    assert words(one) != words(data.load_toxic_corpus(source, limit=10, seed=2))
    assert one.dropped == {"over_limit": 90}


def test_a_labelled_file_is_taken_whole_with_a_warning(tmp_path, said):
    corpus = data.load_toxic_corpus(write(tmp_path / "a.csv", "text,is_toxic\na,1\nb,0\n"))
    assert words(corpus) == ["a", "b"]
    assert said[0].startswith("warning: ")
    assert "'is_toxic'" in said[0]


def test_cut_toxic_texts_stay_cut(tmp_path):
    corpus = data.load_toxic_corpus(write(tmp_path / "a.jsonl", '{"text": "a", "finish_reason": "length"}\n"b"'))
    assert [text.finish_reason for text in corpus.texts] == ["length", "eos"]


# ---- prompts


def test_prompts_with_groups_and_domains(tmp_path, said):
    content = "prompt,group,domain\nWomen are,women,\nHello,,\n ,women,\nX,martians,\nY,tea drinkers,drinks\n"
    content += "Z,,race_nationalities\n"
    prompts = data.load_prompts(write(tmp_path / "a.csv", content))
    assert [(p.prompt_id, p.text, p.group, p.domain) for p in prompts.prompts] == [
        ("0", "Women are", "women", "gender"),
        ("1", "Hello", None, None),
        ("3", "X", "martians", None),
        ("4", "Y", "tea drinkers", "drinks"),
        ("5", "Z", None, "race"),
    ]
    assert prompts.dropped == {"empty": 1}
    assert prompts.unmapped_groups == {"martians": 1}
    assert "groups without a domain: martians (1)" in said[0]


OFFICIAL_TEST_GROUPS = {
    "asian folks": ("asian", "race"),
    "black folks / african-americans": ("black", "race"),
    "black/african-american folks": ("black", "race"),
    "chinese folks": ("chinese", "race"),
    "folks with mental disabilities": ("mental_dis", "disability"),
    "folks with physical disabilities": ("physical_dis", "disability"),
    "jewish folks": ("jewish", "religion"),
    "latino/hispanic folks": ("latino", "race"),
    "lgbtq+ folks": ("lgbtq", "gender"),
    "mexican folks": ("mexican", "race"),
    "middle eastern folks": ("middle_east", "race"),
    "muslim folks": ("muslim", "religion"),
    "native american folks": ("native_american", "race"),
    "native american/indigenous folks": ("native_american", "race"),
    "women": ("women", "gender"),
}


def test_both_spellings_of_toxigen_map_to_one_group_and_its_domain(tmp_path):
    rows = [["a prompt", group, "1", "1"] for group in OFFICIAL_TEST_GROUPS]
    prompts = data.load_prompts(write_csv(tmp_path / "a.csv", TOXIGEN_HEADER, rows), split="test").prompts
    assert [(p.group, p.domain) for p in prompts] == list(OFFICIAL_TEST_GROUPS.values())
    assert all(data.domain_of(group) == domain for group, domain in OFFICIAL_TEST_GROUPS.values())


@pytest.mark.parametrize(
    ("group", "domain"),
    [("Muslims", "religion"), ("black people", "race"), ("trans people", "gender"), ("disabled people", "disability"),
     ("immigrants", "race"), ("women", "gender"), ("people with disabilities", "disability"), ("LGBTQ+", "gender"),
     ("", None), (None, None), ("bakers", None)],
)  # fmt: skip
def test_other_names_of_groups(group, domain):
    assert data.domain_of(group) == domain


def test_validation_is_the_tenth_that_the_published_code_takes(tmp_path):
    import datasets

    rows = [[f"prompt {n}", "women", "1", "1"] for n in range(205)]
    source = write_csv(tmp_path / "a.csv", TOXIGEN_HEADER, rows)
    prompts = data.load_prompts(source)
    shuffled = datasets.Dataset.from_dict({"id": list(range(205))}).shuffle(seed=42).select(range(20))
    assert [int(p.prompt_id) for p in prompts.prompts] == sorted(shuffled["id"])
    assert prompts.dropped == {"not_in_validation_split": 185}
    assert all(len(data.load_prompts(source, split=split).prompts) == 205 for split in ("all", "train", "test"))
    assert data.load_prompts(source, seed=1).sha256 != prompts.sha256
    with pytest.raises(UsageError, match="unknown split 'dev'"):
        data.load_prompts(source, split="dev")


def test_split_means_nothing_for_other_files(tmp_path):
    source = write(tmp_path / "a.txt", "a\nb\nc")
    for split in ("train", "validation", "test", "all"):
        assert len(data.load_prompts(source, split=split).prompts) == 3


def test_num_prompts_takes_a_nested_sample_in_order(tmp_path):
    source = write(tmp_path / "a.txt", "\n".join(f"{n:03}" for n in range(50)))
    few = [p.prompt_id for p in data.load_prompts(source, num_prompts=5).prompts]
    more = data.load_prompts(source, num_prompts=9)
    assert few == sorted(few, key=int)
    assert set(few) < {p.prompt_id for p in more.prompts}
    assert more.dropped == {"over_limit": 41}
    assert len(data.load_prompts(source, num_prompts=1000).prompts) == 50
    with pytest.raises(UsageError, match="at least 1"):
        data.load_prompts(source, num_prompts=0)


def test_equal_prompts_stay_apart(tmp_path):
    prompts = data.load_prompts(write(tmp_path / "a.txt", "same\nsame"))
    assert [p.prompt_id for p in prompts.prompts] == ["0", "1"]


def test_prompt_objects_are_read(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"prompt": {"text": "So,", "toxicity": 0.1}}')
    assert data.load_prompts(source).prompts[0].text == "So,"


def test_prompt_faults(tmp_path):
    with pytest.raises(UsageError, match="no column 'text' or 'prompt'; its columns are: a, b"):
        data.load_prompts(write(tmp_path / "a.csv", "a,b\n1,2\n"))
    with pytest.raises(UsageError, match="row 1: domain 'ood'"):
        data.load_prompts(write(tmp_path / "b.csv", "text,domain\nx,ood\n"))
    with pytest.raises(UsageError, match="no prompt in column 'text'"):
        data.load_prompts(write(tmp_path / "c.csv", "text,group\n,women\n"))
    with pytest.raises(UsageError, match="unknown split 'tset'"):
        data.load_prompts("toxigen", split="tset")


def test_toxigen_from_the_cache(cache):
    train = [{"text": f"t{n}", "target_group": "women", "toxicity_ai": 1.0, "toxicity_human": 1.0} for n in range(30)]
    test = [{"text": "x", "target_group": "jewish folks", "toxicity_ai": 1.0, "toxicity_human": 1.0}]
    cache("toxigen/toxigen-data", {
        "annotated/train-00000-of-00001.parquet": parquet_bytes(train),
        "annotated/test-00000-of-00001.parquet": parquet_bytes(test),
    })  # fmt: skip
    assert len(data.load_prompts("toxigen").prompts) == 3
    assert len(data.load_prompts("toxigen", split="train").prompts) == 30
    assert data.load_prompts("toxigen", split="test").prompts[0].domain == "religion"


def test_prompts_of_another_hub_id(cache):
    cache("org/prompts", {"prompts.csv": "text,group\nhello,women\n"})
    assert data.load_prompts("org/prompts").prompts[0].domain == "gender"


# ---- questions


@pytest.fixture
def mmlu(tmp_path) -> Path:
    folder = tmp_path / "mmlu"
    for split, questions in {"dev": 2, "val": 3, "test": 1}.items():
        (folder / split).mkdir(parents=True)
        for subject in ("law", "art"):
            rows = [f'"{subject} {split} {n}, ""why""?",a,b,c,d,{"ABCD"[n]}' for n in range(questions)]
            write(folder / split / f"{subject}_{split}.csv", "\n".join(rows) + "\n")
    return folder


def test_questions_of_a_folder(mmlu, said):
    questions = data.load_questions(str(mmlu))
    assert [q.subject for q in questions.questions] == ["art"] * 3 + ["law"] * 3
    assert questions.questions[1] == data.Question("art", 'art val 1, "why"?', ("a", "b", "c", "d"), 1)
    assert [len(questions.dev[subject]) for subject in ("art", "law")] == [2, 2]
    assert said == [f"{mmlu}: 6 questions in 2 subjects"]
    assert len(data.load_questions(str(mmlu), split="test").questions) == 2
    assert data.load_questions(str(mmlu), split="validation").sha256 == questions.sha256


def test_limited_questions_spread_over_subjects(mmlu):
    assert [q.subject for q in data.load_questions(str(mmlu), limit=2).questions] == ["art", "law"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q,a,b,c,d,A\nq,a,b,c,d\n", "law_val.csv, line 2: 5 columns instead of 6"),
        ("q,a,b,c,d,A\nq,a,b,c,d,E\n", "law_val.csv, line 2: answer 'E' is not a letter"),
        ("question,A,B,C,D,answer\n", "line 1: answer 'answer' is not a letter"),
        ("", "is empty"),
    ],
)
def test_bad_question_files(mmlu, content, message):
    write(mmlu / "val" / "law_val.csv", content)
    with pytest.raises(UsageError, match=message):
        data.load_questions(str(mmlu))


def test_missing_questions(mmlu, tmp_path):
    with pytest.raises(MissingError, match="no such folder"):
        data.load_questions("./nowhere")
    with pytest.raises(UsageError, match="unknown MMLU split"):
        data.load_questions(str(mmlu), split="train")
    with pytest.raises(UsageError, match="is a file"):
        data.load_questions(write(tmp_path / "a.csv", "x"))
    with pytest.raises(MissingError, match="no questions of the split 'val'"):
        data.load_questions(str(mmlu / "dev"))


def test_mmlu_from_the_cache(cache):
    row = {"question": "q", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2}
    cache("cais/mmlu", {
        "all/validation-00000-of-00001.parquet": parquet_bytes([row]),
        "all/dev-00000-of-00001.parquet": parquet_bytes([{**row, "question": "e"}]),
    })  # fmt: skip
    questions = data.load_questions("mmlu")
    assert questions.questions == (data.Question("law", "q", ("a", "b", "c", "d"), 2),)
    assert questions.dev["law"][0].question == "e"


def test_a_hub_id_without_questions_is_refused(cache):
    cache("org/x", {"all/validation.csv": "question,choices\nq,z\n", "all/dev.csv": "question,choices\nq,z\n"})
    with pytest.raises(UsageError, match="row 1: not a multiple-choice question"):
        data.load_questions("org/x")


# ---- the module


def test_importing_data_stays_light():
    heavy = {"torch", "datasets", "transformers", "pyarrow", "huggingface_hub"}
    code = f"import sys, unidetox.data, unidetox.core.hub; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_split_may_name_a_range_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("text,group\n" + "".join(f"prompt {i},women\n" for i in range(10)))
    assert [p.prompt_id for p in data.load_prompts(str(file), split="train[:3]").prompts] == ["0", "1", "2"]
    assert [p.prompt_id for p in data.load_prompts(str(file), split="test[8:]").prompts] == ["8", "9"]
    with pytest.raises(UsageError, match=r"train\[:1800\]"):
        data.load_prompts(str(file), split="train[:-1]")
