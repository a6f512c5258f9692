"""A run that is killed or interrupted goes on where it stopped and ends as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import recipes
from recipes import Inputs, call, environment, snapshot, start

DRIVER = Path(__file__).with_name("pipeline_kill_driver.py")


@pytest.fixture
def inputs(tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)


def drive(inputs: Inputs, folder: Path, how: str) -> int:
    """Let the driver kill a run; return how often it did."""
    recipe = inputs.recipe(folder / "tiny.toml", inputs.small())
    env = environment(PYTHONPATH=f"{environment()['PYTHONPATH']}:{Path(recipes.__file__).parent}")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(recipe), str(folder), how],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("WRONG")] == []
    return int(done.stdout.splitlines()[-1].removeprefix("kills: ").partition(",")[0])


def test_killed_once_in_each_stage_it_ends_the_same(inputs: Inputs, tmp_path: Path):
    assert drive(inputs, tmp_path, "once") == 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_every_write_of_every_stage_it_ends_the_same(inputs: Inputs, tmp_path: Path):
    assert drive(inputs, tmp_path, "all") >= 40


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until there is something in a file, or anything of a pattern's name."""
    deadline = time.monotonic() + 200
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def deterministic(run: Path) -> dict[str, bytes]:
    clock = ("stage.json", "manifest.json", "unidetox.json", "README.md", "run.log")
    return {name: content for name, content in snapshot(run).items() if not name.endswith(clock)}


def test_a_process_that_is_killed_and_one_that_is_interrupted(inputs: Inputs, tmp_path: Path):
    settings: dict[str, Any] = inputs.small()
    settings["texts"] |= {"num_texts": 120, "batch_size": 8}
    settings["evaluate"] |= {"samples": 40, "batch_size": 8}
    recipe, run = inputs.recipe(tmp_path / "tiny.toml", settings), tmp_path / "run"

    process = start("run", recipe, "-o", run)
    part = run / "texts" / ".work" / "texts.part.jsonl"
    wait_for(part, process)
    # Meanwhile the run is locked, and its state can be looked at.
    locked = call("run", recipe, "-o", run)
    assert locked.code == 4
    assert locked.err.strip().endswith(f"is in use by process {process.pid}. Wait for it to end, or end it first")
    working = call("status", run, "--json").ok().json["texts"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert working["state"] == "partial"
    assert working["reasons"][0] == f"process {process.pid} is working on it"
    had = part.read_text().splitlines()[:-1]
    left = call("status", run, "--json").ok().json["texts"]
    assert left["state"] == "partial"
    assert left["reasons"][0].endswith("of 120 texts")

    process = start("run", recipe, "-o", run)
    wait_for(run / "evaluation" / "gpt2-base" / ".work" / "work.json", process)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted. The same command goes on where it stopped"
    assert "Traceback" not in err
    assert set(had) <= set((run / "texts" / "texts.jsonl").read_text().splitlines())
    assert call("status", run, "--json").ok().json["evaluation/gpt2-base"]["state"] in ("partial", "missing")

    call("run", recipe, "-o", run, "-q").ok()
    call("run", recipe, "-o", tmp_path / "whole", "-q").ok()
    found, expected = deterministic(run), deterministic(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
