"""Kills an evaluation with a real SIGKILL before its n-th durable write, starts it again, and compares.

A program of its own, because it forks: `python evaluation_kill_driver.py FOLDER SETTINGS.json` prints what differs.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from unidetox import console, evaluation
from unidetox.metrics import collect


def die_before_write(number: int) -> None:
    """Kill this process just before it makes its n-th write durable."""
    count = 0
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real_fsync(fd)

    os.fsync = fsync


def in_child(action: object) -> int:
    """Run something in a forked process; return the signal that ended it, 0 if none did."""
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(folder: Path) -> dict[str, str]:
    """What an evaluation leaves, without what depends on the clock."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("stage.json", ".lock")]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def main(folder: Path, given: dict[str, object]) -> None:
    torch.set_num_threads(1)
    console.configure(-1)
    # Small parts, so that there are many moments to be killed in.
    collect._APPEND_SECONDS, collect.CHUNK = 0.0, 5
    collect.Chunks.__init__.__defaults__ = (5,)
    models = given.pop("models")

    def run(output: Path) -> None:
        evaluation.evaluate(models, output=output, device="cpu", dtype="float32", **given)

    run(folder / "whole")  # in this process, so that the others start with everything imported
    expected = content(folder / "whole")
    kills, number = 0, 1
    while True:
        output = folder / f"killed-{number}"

        def doomed(output: Path = output, number: int = number) -> None:
            die_before_write(number)
            run(output)

        if in_child(doomed) != -signal.SIGKILL:
            break
        kills += 1
        if in_child(lambda output=output: run(output)) != 0:
            print(f"killed before write {number}: it does not start again")
        found = content(output)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                print(f"killed before write {number}: {name} differs")
        number += 1 + number // 2
    print(f"kills: {kills}, files: {len(expected)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
