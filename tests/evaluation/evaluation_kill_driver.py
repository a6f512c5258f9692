"""Kills an evaluation with a real SIGKILL before its n-th durable write, starts it again, and compares.

First one from nothing, then one that adds to it.

A program of its own, because it forks: `python evaluation_kill_driver.py FOLDER SETTINGS.json` prints what differs.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from unidetox.core import console
from unidetox.evaluation import collect, evaluate


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
    """What an evaluation leaves, without what depends on the clock; continuations are kept as they end."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("stage.json", ".lock")]
    texts = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}
    return {
        name: "".join(sorted(text.splitlines(True))) if "rows.jsonl" in name else text for name, text in texts.items()
    }


def main(folder: Path, given: dict[str, object]) -> None:
    console.configure(-1)
    # Small parts, so that there are many moments to be killed in.
    collect._APPEND_SECONDS, collect.CHUNK = 0.0, 5
    collect.Chunks.__init__.__defaults__ = (5,)
    models, additions = given.pop("models"), given.pop("additions")

    def run(output: Path, more: dict[str, object]) -> None:
        evaluate.evaluate(models, output=output, device="cpu", dtype="float32", **given | more)

    # In this process, so that the others start with everything imported.
    run(folder / "whole", {})
    run(folder / "grown", additions)
    for name, start, more in (("whole", None, {}), ("grown", folder / "whole", additions)):
        expected, number = content(folder / name), 1
        while kill_and_compare(
            folder / f"{name}-{number}", number, start, expected, lambda out, more=more: run(out, more)
        ):
            number += 1 + number
        print(f"{name}: killed before write 1 to {number}, files: {len(expected)}")


def kill_and_compare(
    output: Path, number: int, start: Path | None, expected: dict[str, str], run: Callable[[Path], None]
) -> bool:
    """Kill a run before its n-th write and start it again; say whether it got so far."""
    if start is not None:
        shutil.copytree(start, output)
    killed = in_child(lambda: (die_before_write(number), run(output))) == -signal.SIGKILL
    if killed and in_child(lambda: run(output)) != 0:
        print(f"killed before write {number}: it does not start again")
    found = content(output)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            print(f"{output.name}: {name} differs")
    return killed


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
