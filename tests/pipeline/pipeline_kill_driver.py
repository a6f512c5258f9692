"""Kills a run with a real SIGKILL inside each of its stages, starts it again, compares with an undisturbed run.

A program of its own, because it forks: `python pipeline_kill_driver.py RECIPE FOLDER once|all` prints what differs.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from recipes import snapshot

from unidetox import cli
from unidetox.evaluation import collect
from unidetox.training import trainer

# One moment late enough that something is half done; `all` goes through every moment.
ONCE = {
    "toxic_model": 7,
    "texts": 6,
    "targets/gpt2-unidetox": 9,
    "evaluation/gpt2-base": 7,
    "evaluation/gpt2-unidetox": 5,
}


def say(finding: str) -> None:
    """Report what should not be; the commands' own tables stand beside it."""
    print(f"WRONG {finding}", flush=True)


def die_in(stage: Path, moment: int) -> None:
    """Kill this process before its n-th durable write from when the stage has begun."""
    count = 0
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        nonlocal count
        count += (stage / ".work").exists()
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        real_fsync(fd)

    os.fsync = fsync


def in_child(action: Callable[[], object]) -> int:
    """Run something in a forked process; return the signal that ended it as a negative number, 0 if all went well."""
    pid = os.fork()
    if pid == 0:
        os._exit(int(action() or 0))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(run: Path) -> dict[str, bytes]:
    """What a run leaves, without what depends on the clock; `.work` or a lock left behind would show."""
    clock = ("stage.json", "manifest.json", "unidetox.json", "README.md", "run.log")
    return {name: data for name, data in snapshot(run).items() if not name.endswith(clock)}


def run(recipe: Path, folder: Path) -> int:
    return cli._run(["run", str(recipe), "-o", str(folder), "-q"])


def killed(recipe: Path, folder: Path, stage: str, moment: int) -> bool:
    def doomed() -> int:
        die_in(folder / stage, moment)
        return run(recipe, folder)

    code = in_child(doomed)
    if code not in (0, -signal.SIGKILL):
        say(f"{stage}, write {moment}: ended with {code}")
    return code == -signal.SIGKILL


def compare(found: dict[str, bytes], expected: dict[str, bytes], where: str) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            say(f"{where}: {name} differs")


def once(recipe: Path, folder: Path, expected: dict[str, bytes]) -> int:
    """Kill one run once in each stage, one after the other."""
    kills = 0
    for stage, moment in ONCE.items():
        kills += killed(recipe, folder, stage, moment)
        if not (folder / stage / ".work").exists():
            say(f"{stage}: the kill did not come inside the stage")
    if in_child(lambda: run(recipe, folder)) != 0:
        say("it does not start again")
    compare(content(folder), expected, "killed in each stage")
    return kills


def everywhere(recipe: Path, folder: Path, whole: Path, expected: dict[str, bytes]) -> int:
    """Kill a run at every durable write of every stage; what is before the stage is taken from the undisturbed run."""
    kills = 0
    for number, stage in enumerate(ONCE):
        moment = 1
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            for late in list(ONCE)[number:]:
                shutil.rmtree(folder / late)
            if not killed(recipe, folder, stage, moment):
                break
            kills += 1
            if in_child(lambda: run(recipe, folder)) != 0:
                say(f"{stage}, write {moment}: it does not start again")
            compare(content(folder), expected, f"{stage}, write {moment}")
            moment += 1
    return kills


def main(recipe: Path, folder: Path, how: str) -> None:
    # Small parts and a checkpoint at every step, so that there are many moments to be killed in.
    collect._APPEND_SECONDS, collect.CHUNK = 0.0, 3
    collect.Chunks.__init__.__defaults__ = (3,)
    trainer._SECONDS_BETWEEN_SAVES = 0.0
    in_child(lambda: run(recipe, folder / "whole"))
    expected = content(folder / "whole")
    if how == "once":
        kills = once(recipe, folder / "killed", expected)
    else:
        kills = everywhere(recipe, folder / "killed", folder / "whole", expected)
    print(f"kills: {kills}, files: {len(expected)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
