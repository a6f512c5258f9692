import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from unidetox.config.recipe import build_recipe
from unidetox.core import console, directories
from unidetox.core.errors import LockedError, MissingError, UniDetoxError, UsageError
from unidetox.core.files import (
    JsonlWriter,
    canonical,
    file_entry,
    hash_of,
    read_json,
    read_jsonl,
    require_json,
    write_json,
    write_jsonl,
    write_text,
)
from unidetox.core.stages import Stage, check_stage_directory
from unidetox.pipeline.run_directory import Run

DRIVER = Path(__file__).with_name("kill_driver.py")


def make_stage(directory: Path, alpha: float = 0.1, **changes) -> Stage:
    arguments = {"name": "distill", "settings": {"alpha": alpha}, "inputs": {"base": "abc"}} | changes
    return Stage(directory, **arguments)


def fill(stage: Stage, files: dict[str, str] | None = None, **options) -> None:
    with stage.open(**options) as work_dir:
        for name, text in (files or {"texts.jsonl": "{}\n"}).items():
            write_text(work_dir / "out" / name, text)
        stage.commit({"texts": 1})


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


# --- files


def test_hash_ignores_order_and_kind_of_container():
    assert hash_of({"a": (1, 2), "b": float("inf")}) == hash_of({"b": float("inf"), "a": [1, 2]})
    assert hash_of({"a": 1}) != hash_of({"a": 2})
    assert hash_of({"a": Path("x"), "b": np.float32(0.5)}) == hash_of({"a": "x", "b": 0.5})


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError, match="a set has no JSON form"):
        canonical({"a": {1}})


def test_json_is_strict_json(tmp_path):
    write_json(tmp_path / "a" / "x.json", {"a": float("inf"), "b": float("nan"), "c": "é\ud800"})
    text = (tmp_path / "a" / "x.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "inf", "b": None, "c": "é\ud800"}
    assert names(tmp_path) == ["a/x.json"]


def test_jsonl_is_there_whole_or_not_at_all(tmp_path):
    def cut_short():
        yield [{"n": 3}]
        raise KeyboardInterrupt

    path = tmp_path / "a" / "x.jsonl"
    write_jsonl(path, [[{"n": 1}], [{"n": 2}]])
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, cut_short())
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]
    # What a kill leaves is hidden: `evaluate` refuses a directory in which it sees files of others.
    assert [item.name for item in path.parent.iterdir() if not item.name.startswith(".")] == ["x.jsonl"]
    write_jsonl(path, [[{"n": 4}]])
    assert names(tmp_path) == ["a/x.jsonl"] and read_jsonl(path) == [{"n": 4}]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    write_text(tmp_path / "x", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"


def test_read_json_of_something_else_is_none(tmp_path):
    (tmp_path / "x").write_text("[1]")
    (tmp_path / "y").write_bytes(b"\xff")
    assert [read_json(tmp_path / name) for name in "xyz"] == [None, None, None]


def test_json_that_must_be_there(tmp_path):
    write_json(tmp_path / "a", {"b": 1})
    assert require_json(tmp_path / "a") == {"b": 1}
    with pytest.raises(MissingError, match="x does not exist"):
        require_json(tmp_path / "x")
    (tmp_path / "x").write_text("[1]")
    with pytest.raises(UsageError, match="x holds no JSON object"):
        require_json(tmp_path / "x")


def test_jsonl_cut_at_every_byte_resumes_to_the_same_file(tmp_path):
    rows = [{"n": number, "text": 'é "quoted" \u2028 \U0001f600'} for number in range(3)]
    with JsonlWriter(tmp_path / "whole.jsonl") as writer:
        writer.write(rows)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    for size in range(len(whole) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:size])
        have = read_jsonl(path)
        assert have == rows[: len(have)]
        with JsonlWriter(path) as writer:
            writer.write(rows[len(have) :])
        assert path.read_bytes() == whole


def test_jsonl_repair_finds_the_line_start_far_back(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    with JsonlWriter(path) as writer:
        writer.write([{"c": 2}])
    assert read_jsonl(path) == [{"a": 1}, {"c": 2}]


def test_jsonl_takes_numpy_and_non_finite_numbers(tmp_path):
    with JsonlWriter(tmp_path / "x.jsonl") as writer:
        writer.write([{"a": np.float32(0.5), "b": float("nan"), "c": float("inf"), "d": "\ud800"}])
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 0.5, "b": None, "c": "inf", "d": "\ud800"}]


@pytest.mark.parametrize("line", [b"{oops}", b"[1]", b"\xff\xfe"])
def test_a_corrupt_line_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(UsageError, match=r"x\.jsonl line 3 is not a JSON object"):
        read_jsonl(path)


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        read_jsonl(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        read_jsonl(tmp_path)


def test_big_files_are_known_by_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("unidetox.core.files._WHOLE_HASH_BYTES", 1 << 20)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * (3 << 20))
    before = file_entry(path)
    path.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert before["bytes"] == 3 << 20
    assert file_entry(path)["sha256_ends"] != before["sha256_ends"]


# --- a stage


def test_a_committed_stage_is_fresh_and_leaves_only_its_outputs(tmp_path):
    stage = make_stage(tmp_path / "a" / "texts")
    assert str(stage.status()) == "missing"
    fill(stage, {"texts.jsonl": "{}\n", "sub/card.md": "x"})
    assert str(make_stage(tmp_path / "a" / "texts").status()) == "fresh"
    assert names(tmp_path / "a" / "texts") == ["stage.json", "sub/card.md", "texts.jsonl"]
    assert sorted(path.name for path in (tmp_path / "a" / "texts").iterdir()) == ["stage.json", "sub", "texts.jsonl"]
    record = stage.record()
    assert record["outputs"]["texts.jsonl"]["bytes"] == 3
    assert record["summary"] == {"texts": 1}
    assert record["started"] <= record["finished"]
    assert {"python", "unidetox", "torch", "transformers"} <= set(record["versions"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"alpha": 0.2}}, "alpha: 0.1 -> 0.2"),
        ({"settings": {"alpha": float("inf")}}, 'alpha: 0.1 -> "inf"'),
        ({"settings": {"alpha": 0.1, "deep": {"x": 1}}}, "deep.x: (absent) -> 1"),
        ({"settings": {}}, "alpha: 0.1 -> (absent)"),
        ({"settings": {"alpha": "x" * 99}}, "..."),
        ({"inputs": {"base": "abd"}}, "input base changed"),
        ({"inputs": {"base": "abc", "toxic": "1"}}, "input toxic changed"),
        ({"code_version": 2}, "code version: 1 -> 2"),
    ],
)
def test_a_stale_stage_says_what_changed(tmp_path, changes, reason):
    fill(make_stage(tmp_path))
    status = make_stage(tmp_path, **changes).status()
    assert status.state == "stale"
    assert len(status.reasons) == 1
    assert reason in status.reasons[0]


def test_changed_or_lost_outputs_make_a_stage_stale(tmp_path):
    stage = make_stage(tmp_path)
    fill(stage, {"a.txt": "1", "b.txt": "2"})
    (tmp_path / "a.txt").write_text("12")
    (tmp_path / "b.txt").unlink()
    assert stage.status().reasons == ("a.txt was changed", "b.txt is gone")
    fill(stage, {"a.txt": "1", "b.txt": "2"})
    assert stage.status().state == "fresh"


def test_redoing_removes_what_only_the_older_commit_had(tmp_path):
    fill(make_stage(tmp_path), {"old.txt": "x", "deep/er/old.txt": "x", "model": "file"})
    (tmp_path / "mine.txt").write_text("a note of the user")
    fill(make_stage(tmp_path, 0.2), {"new.txt": "x", "model/weights": "now a folder"})
    assert names(tmp_path) == ["mine.txt", "model/weights", "new.txt", "stage.json"]
    assert not (tmp_path / "deep").exists()


def test_work_goes_on_where_it_stopped_and_says_how_far_it_is(tmp_path):
    stage = make_stage(tmp_path)
    with pytest.raises(KeyboardInterrupt), stage.open() as work_dir:
        write_text(work_dir / "out" / "texts.jsonl", "half")
        stage.report_progress(128, 640, "texts")
        raise KeyboardInterrupt
    assert str(stage.status()) == "partial (128 of 640 texts)"
    with make_stage(tmp_path).open(replace=False) as work_dir:
        assert (work_dir / "out" / "texts.jsonl").read_text() == "half"
        stage.commit({})
    assert stage.record()["sessions"] == 2


def test_work_of_other_settings_is_not_taken_up(tmp_path):
    with pytest.raises(KeyboardInterrupt), make_stage(tmp_path).open() as work_dir:
        write_text(work_dir / "out" / "texts.jsonl", "half")
        write_text(work_dir / "checkpoint" / "x", "half")
        raise KeyboardInterrupt
    other = make_stage(tmp_path, 0.2)
    assert other.status().reasons == ("unfinished work of other settings: alpha: 0.1 -> 0.2",)
    with other.open() as work_dir:
        assert names(work_dir) == ["work.json"]


def test_fresh_forgets_work_and_results(tmp_path):
    stage = make_stage(tmp_path)
    fill(stage, {"a.txt": "1"})
    with pytest.raises(KeyboardInterrupt), stage.open(fresh=True, replace=False) as work_dir:
        write_text(work_dir / "scratch", "x")
        raise KeyboardInterrupt
    assert stage.status().state == "partial"
    with stage.open(fresh=True, replace=False) as work_dir:
        assert names(work_dir) == ["work.json"]
        write_text(work_dir / "out" / "b.txt", "1")
        stage.commit({})
    assert names(tmp_path) == ["b.txt", "stage.json"]


def test_single_commands_do_not_replace_other_results(tmp_path):
    fill(make_stage(tmp_path))
    before = names(tmp_path)
    with pytest.raises(UsageError, match=r"other settings \(alpha: 0.1 -> 0.2\)\. Start over with --fresh"):
        fill(make_stage(tmp_path, 0.2), replace=False)
    assert names(tmp_path) == before
    fill(make_stage(tmp_path, 0.2), replace=False, fresh=True)


def test_single_commands_do_not_replace_other_unfinished_work(tmp_path):
    with pytest.raises(KeyboardInterrupt), make_stage(tmp_path).open() as work_dir:
        write_text(work_dir / "out" / "texts.jsonl", "half")
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match=r"unfinished work of other settings \(alpha: 0.1 -> 0.2\)"):
        fill(make_stage(tmp_path, 0.2), replace=False)
    assert (tmp_path / ".work" / "out" / "texts.jsonl").read_text() == "half"


def test_parts_outlive_the_work_and_additions_are_welcome(tmp_path):
    def part(stage: Stage, name: str) -> None:
        write_text(stage.parts_dir / name / "scores", name)

    first = make_stage(tmp_path, parts=["texts", "scores"])
    with first.open(replace=False):
        part(first, "texts")
        part(first, "scores")
        first.commit({})
    more = make_stage(tmp_path, 0.2, parts=["texts", "scores", "others"])
    assert more.status().state == "stale"
    with pytest.raises(KeyboardInterrupt), more.open(replace=False):
        part(more, "others")
        raise KeyboardInterrupt
    assert more.status().state == "partial"
    # Other additions instead: only what was unfinished is lost, once they are there.
    with make_stage(tmp_path, 0.3, parts=["texts", "scores", "third"]).open(replace=False):
        assert sorted(path.name for path in more.parts_dir.iterdir()) == ["others", "scores", "texts"]
    with more.open(replace=False):
        more.commit({})
    with pytest.raises(UsageError, match=r"other settings \(alpha: 0.2 -> 0.1\)"):
        fill(make_stage(tmp_path, parts=["texts", "scores"]), replace=False)
    fill(make_stage(tmp_path, parts=["texts", "scores"]), replace=True)
    assert names(tmp_path) == [".parts/scores/scores", ".parts/texts/scores", "stage.json", "texts.jsonl"]
    with make_stage(tmp_path).open(fresh=True):
        assert not (tmp_path / ".parts").exists()


def test_a_failure_that_left_a_part_is_remembered(tmp_path):
    stage = make_stage(tmp_path, parts=["texts"])
    with pytest.raises(MissingError), stage.open(replace=False):
        write_text(stage.parts_dir / "texts" / "x", "half")
        raise MissingError("the disk is gone")
    assert str(stage.status()) == "failed (the disk is gone)"


@pytest.mark.parametrize("entry", ["notes.txt", ".hidden", ".work/notes.txt"])
@pytest.mark.parametrize("options", [{}, {"replace": False}, {"fresh": True}])
def test_foreign_directories_are_refused_and_left_alone(tmp_path, entry, options):
    write_text(tmp_path / entry, "mine")
    with pytest.raises(UsageError, match="was not made by this command") as caught:
        fill(make_stage(tmp_path), **options)
    assert "Give another -o" in caught.value.hint
    assert names(tmp_path) == [entry]


def test_the_output_of_another_command_is_refused_even_with_fresh(tmp_path):
    fill(make_stage(tmp_path, name="detoxify"))
    with pytest.raises(UsageError, match=r"output of another command \(detoxify\)"):
        fill(make_stage(tmp_path), fresh=True)
    assert make_stage(tmp_path, name="detoxify").status().state == "fresh"


def test_a_file_in_the_way_is_a_usage_error(tmp_path):
    (tmp_path / "x").write_text("")
    for directory in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(UsageError, match="cannot make the folder"):
            fill(make_stage(directory))


def test_a_mistake_found_before_anything_was_made_leaves_no_trace(tmp_path):
    with pytest.raises(UsageError), make_stage(tmp_path / "a" / "b").open(replace=False):
        raise UsageError("the vocabularies differ")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_a_run_is_remembered_until_the_next_success(tmp_path):
    stage = make_stage(tmp_path / "texts")
    with pytest.raises(ZeroDivisionError), stage.open():
        _ = 1 / 0
    assert str(stage.status()) == "failed (ZeroDivisionError: division by zero)"
    assert make_stage(tmp_path / "texts", 0.2).status().state == "missing"
    fill(stage)
    assert stage.status().state == "fresh"
    assert names(tmp_path / "texts") == ["stage.json", "texts.jsonl"]


def test_a_failure_keeps_what_was_made(tmp_path):
    stage = make_stage(tmp_path)
    with pytest.raises(MissingError), stage.open(replace=False) as work_dir:
        write_text(work_dir / "out" / "texts.jsonl", "half")
        raise MissingError("the disk is gone", hint="Find it")
    assert str(stage.status()) == "failed (the disk is gone. Find it)"
    with stage.open(replace=False) as work_dir:
        assert (work_dir / "out" / "texts.jsonl").read_text() == "half"


def test_an_error_after_the_commit_does_not_undo_it(tmp_path):
    stage = make_stage(tmp_path)
    with pytest.raises(ZeroDivisionError), stage.open() as work_dir:
        write_text(work_dir / "out" / "a", "x")
        stage.commit({})
        _ = 1 / 0
    assert stage.status().state == "fresh"
    assert names(tmp_path) == ["a", "stage.json"]


def test_a_failed_redo_keeps_the_older_results(tmp_path):
    fill(make_stage(tmp_path), {"a": "x"})
    with pytest.raises(ZeroDivisionError), make_stage(tmp_path, 0.2).open():
        _ = 1 / 0
    assert make_stage(tmp_path).status().state == "fresh"
    assert make_stage(tmp_path, 0.2).status().state == "failed"


def test_reserved_names_cannot_be_outputs(tmp_path):
    stage = make_stage(tmp_path)
    with pytest.raises(UniDetoxError, match=r"must not write stage\.json"), stage.open() as work_dir:
        write_text(work_dir / "out" / "stage.json", "{}")
        stage.commit({})


def test_an_unreadable_record_makes_the_stage_stale(tmp_path):
    fill(make_stage(tmp_path))
    (tmp_path / "stage.json").write_text("{oops")
    assert make_stage(tmp_path).status().state == "stale"
    fill(make_stage(tmp_path))
    assert make_stage(tmp_path).status().state == "fresh"


def test_looking_changes_nothing_and_recovering_finishes_a_commit(tmp_path, monkeypatch):
    fill(make_stage(tmp_path), {"a": "old"})
    with pytest.raises(RuntimeError), make_stage(tmp_path, 0.2).open() as work_dir:
        write_text(work_dir / "out" / "a", "new!")
        monkeypatch.setattr("unidetox.core.stage_files.move_files", lambda *_: (_ for _ in ()).throw(RuntimeError))
        make_stage(tmp_path, 0.2).commit({})
    monkeypatch.undo()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    stage = make_stage(tmp_path, 0.2)
    assert stage.status().state == "failed"
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    stage.recover()
    assert stage.status().state == "fresh"
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a", "stage.json"], "new!")


def test_what_is_fresh_is_not_made_again(tmp_path):
    made = []

    def make(work_dir: Path) -> dict[str, int]:
        made.append(1)
        write_text(work_dir / "out" / "a", "x")
        return {"n": len(made)}

    did = [make_stage(tmp_path).run(make, fresh=fresh) for fresh in (False, False, True)]
    assert did == [True, False, True]
    assert Stage.read_record(tmp_path)["summary"] == {"n": 2}
    assert Stage.read_record(tmp_path / "none") is None


def test_a_directory_is_checked_before_anything_long_begins(tmp_path):
    for directory in (tmp_path, tmp_path / "new"):
        check_stage_directory(directory, "distill")
    assert list(tmp_path.iterdir()) == []
    fill(make_stage(tmp_path / "made", name="detoxify"))
    check_stage_directory(tmp_path / "made", "detoxify")
    with pytest.raises(UsageError, match="output of another command"):
        check_stage_directory(tmp_path / "made", "distill")
    with make_stage(tmp_path / "at work").open(), pytest.raises(LockedError, match=str(os.getpid())):
        check_stage_directory(tmp_path / "at work", "distill")


def test_outputs_lost_in_the_middle_of_a_commit_are_made_again(tmp_path, monkeypatch):
    stage = make_stage(tmp_path)
    with pytest.raises(RuntimeError), stage.open() as work_dir:
        write_text(work_dir / "out" / "a", "x")
        monkeypatch.setattr("unidetox.core.stage_files.move_files", lambda *_: (_ for _ in ()).throw(RuntimeError))
        stage.commit({})
    monkeypatch.undo()
    (work_dir / "out" / "a").unlink()
    assert make_stage(tmp_path).status().state != "fresh"
    fill(make_stage(tmp_path), {"a": "y"})
    assert names(tmp_path) == ["a", "stage.json"]


# --- kills


@pytest.mark.parametrize("scenario", ["new", "stale", "fresh", "unfinished"])
def test_killed_anywhere_and_restarted_equals_undisturbed(scenario, tmp_path):
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as root:
        done = subprocess.run([sys.executable, DRIVER, scenario, root], capture_output=True, text=True, check=False)
    *differences, last = done.stdout.splitlines() or [""]
    assert differences == []
    assert last.startswith("kill points: "), done.stderr
    assert int(last.split()[-1]) > 50


# --- the lock

HOLD = """
import sys, time
from pathlib import Path
from unidetox.core.stages import Stage
with Stage(Path(sys.argv[1]), "distill", {"alpha": 0.1}, {"base": "abc"}).open() as work_dir:
    (work_dir / "out" / "a").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "ready\n"
        stage = make_stage(tmp_path)
        assert stage.status().reasons == (f"process {holder.pid} is working on it",)
        with pytest.raises(LockedError, match=f"in use by process {holder.pid}") as caught:
            fill(stage)
        assert caught.value.exit_code == 4
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert stage.status().state == "partial"
    fill(stage)
    assert names(tmp_path) == ["a", "stage.json", "texts.jsonl"]


def test_a_stage_cannot_be_opened_twice_in_one_process(tmp_path):
    with make_stage(tmp_path).open(), pytest.raises(LockedError, match=str(os.getpid())):
        fill(make_stage(tmp_path))


def test_only_one_of_many_gets_the_lock(tmp_path):
    code = HOLD.replace("time.sleep(60)", "time.sleep(0.5)")
    many = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    spans = []
    for process in many:
        out, err = process.communicate(timeout=60)
        spans.append(out == "ready\n")
        assert out == "ready\n" or "LockedError" in err
    assert any(spans)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_in_with_a_warning(tmp_path, monkeypatch, number):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    warned = []
    directories._warn_no_locks.cache_clear()
    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(console, "warn", warned.append)
    for alpha in (0.1, 0.2):
        fill(make_stage(tmp_path, alpha))
    assert names(tmp_path) == ["stage.json", "texts.jsonl"]
    if number == errno.ENOSYS:  # a file that only has to exist stands in for the lock
        with make_stage(tmp_path).open(), pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
            fill(make_stage(tmp_path))
    assert warned == ["this file system knows no locks: two processes must not work in the same folder"]
    directories._warn_no_locks.cache_clear()


def test_folders_and_what_is_open_for_reading_are_not_synced_on_windows(tmp_path, monkeypatch):
    real_sync = os.fsync

    def sync(fd):
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real_sync(fd)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "fsync", sync)
    with make_stage(tmp_path).open() as work_dir:
        write_text(work_dir / "out" / "a", "x")
        make_stage(tmp_path).commit({})
    assert make_stage(tmp_path).status().state == "fresh"


def test_a_directory_that_cannot_be_written_in_is_a_usage_error(tmp_path, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock._acquire", denied)
    with pytest.raises(UsageError, match=r"cannot write in .*: Permission denied\. Choose another -o"):
        fill(make_stage(tmp_path))


# --- a run


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "model").mkdir()
    return build_recipe({"preset": "small", "name": "mine", "base": {"model": str(tmp_path / "model")}})


def test_a_run_keeps_recipe_and_manifest(tmp_path, recipe, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    command = ["/usr/bin/unidetox", "run", "/home/somebody/r.toml", "--note=hf_" + "a1B2" * 8]
    with Run(tmp_path / "runs" / "x").session(recipe, command) as run:
        assert run.manifest()["outcome"] == "running"
        fill(make_stage(run.directory / "texts"))
    run = Run.open(tmp_path / "runs" / "x")
    assert run.recipe() == recipe
    assert run.manifest()["command"] == ["unidetox", "run", "~/r.toml", "--note=***"]
    assert run.manifest()["recipe"] == recipe.digest()
    assert run.manifest()["outcome"] == "done"
    assert run.manifest()["finished"] >= run.manifest()["started"]
    resolved = read_json(run.directory / "recipe.resolved.json")
    assert resolved["base"]["model"] == "../../model"
    assert resolved["texts"]["beta"] == "inf"
    assert not (run.directory / ".lock").exists()


def test_a_run_remembers_earlier_sessions(tmp_path, recipe):
    run = Run(tmp_path / "x")
    for seed in (1, 2, 3):
        with run.session(recipe.model_copy(update={"seed": seed}), ["unidetox", str(seed)]):
            fill(make_stage(run.directory / "texts"))
    assert run.recipe().seed == 3
    assert [session["command"][1] for session in run.manifest()["earlier"]] == ["1", "2"]


def test_a_run_can_be_looked_at_when_its_model_is_gone(tmp_path, recipe):
    with Run(tmp_path / "x").session(recipe, ["unidetox"]) as run:
        fill(make_stage(run.directory / "texts"))
    (tmp_path / "model").rmdir()
    assert run.recipe().base.model == "../model"


MASKED = RuntimeError("raised while an interrupt was handled")
MASKED.__context__ = KeyboardInterrupt()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(UniDetoxError("x"), "failed"), (KeyboardInterrupt(), "interrupted"), (MASKED, "interrupted")],
)
def test_a_run_says_how_it_ended(tmp_path, recipe, error, outcome):
    run = Run(tmp_path / "x")
    with pytest.raises(type(error)), run.session(recipe, ["unidetox"]):
        fill(make_stage(run.directory / "texts"))
        raise error
    assert run.manifest()["outcome"] == outcome


def test_a_new_run_with_a_mistake_leaves_no_trace(tmp_path, recipe):
    (tmp_path / "model").rmdir()
    with (
        pytest.raises(MissingError),
        Run(tmp_path / "runs" / "x").session(recipe, ["unidetox"]) as run,
        make_stage(run.directory / "toxic_model").open(),
    ):
        raise MissingError("no such model")
    assert list(tmp_path.iterdir()) == []


def test_a_run_refuses_what_is_not_its_own(tmp_path, recipe):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.txt").write_text("mine")
    for directory, words in [
        (tmp_path / "notes", "is not empty and not a run"),
        (tmp_path / "notes" / "n.txt", "is a file"),
    ]:
        with pytest.raises(UsageError, match=words), Run(directory).session(recipe, []):
            pytest.fail("must not begin")
    with Run(tmp_path / "x").session(recipe, []) as run:
        fill(make_stage(run.directory / "texts"))
    other = recipe.model_copy(update={"name": "other"})
    with pytest.raises(UsageError, match="holds the run 'mine', not 'other'"), run.session(other, []):
        pytest.fail("must not begin")
    assert run.recipe() == recipe


def test_a_run_is_locked_while_it_works(tmp_path, recipe):
    run = Run(tmp_path / "x")
    with run.session(recipe, []), pytest.raises(LockedError), Run(tmp_path / "x").session(recipe, []):
        pytest.fail("must not begin")


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        Run.open(tmp_path / "none")
    with pytest.raises(UsageError, match="is not a run"):
        Run.open(tmp_path)


def test_status_of_a_large_stage_is_quick(tmp_path):
    stage = make_stage(tmp_path)
    fill(stage, {f"d{n % 10}/f{n}": "x" for n in range(100)})
    begin = time.perf_counter()
    assert stage.status().state == "fresh"
    assert time.perf_counter() - begin < 1.0
