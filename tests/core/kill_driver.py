"""Kills a stage with a real SIGKILL before each of its file operations in turn, restarts it and looks at the result.

A program of its own, because it forks: `python kill_driver.py SCENARIO FOLDER` prints a line for each difference.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from unidetox.core.files import JsonlWriter, read_json, read_jsonl, write_text
from unidetox.core.stages import Stage

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}
ROWS = 3


def die_before_operation(number: int, folder: Path) -> None:
    """Count what touches the folder, and kill this process just before the given operation."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "fcntl.flock" or (event in EVENTS and str(folder) in str(args[0])):
            tick()

    os.fsync = lambda _: tick()
    sys.addaudithook(hook)


def work(folder: Path, alpha: float, fresh: bool = False) -> None:
    """A stage with a resumable file, scratch, folders, and outputs whose names depend on the settings."""
    stage = Stage(folder, "distill", {"alpha": alpha}, {"base": "b"}, parts=[f"texts-{alpha}"])

    def make(work_dir: Path) -> dict[str, int]:
        path = work_dir / "out" / "texts.jsonl"
        have = len(read_jsonl(path)) if path.exists() else 0
        with JsonlWriter(path) as writer:
            for number in range(have, ROWS):
                writer.write([{"text": f"{alpha} {number}"}])
                stage.report_progress(number + 1, ROWS, "texts")
        for part in stage.parts:
            write_text(stage.parts_dir / part / "costly.txt", part)
        (work_dir / "scratch").mkdir(exist_ok=True)
        (work_dir / "scratch" / "checkpoint").write_text("x")
        model = work_dir / "out" / ("model" if alpha == 0.1 else "model/weights") / "w.bin"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(str(alpha))
        (work_dir / "out" / f"only-{alpha}.txt").write_text("x")
        return {"texts": ROWS}

    stage.run(make, fresh=fresh)


def tree(folder: Path) -> dict[str, object]:
    """Everything in the folder; of the record only what does not depend on the clock."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "stage.json":
            record = read_json(path) or {}
            found[name] = [record.get(key) for key in ("key", "settings", "outputs", "summary")]
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def in_child(action: object) -> int:
    """Run something in a forked process; return the signal that ended it, 0 if none did."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        print("a restart failed")
        sys.exit(1)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def check_consistent(folder: Path, label: str) -> None:
    """What a record promises is there at every moment."""
    record = read_json(folder / "stage.json")
    for path, entry in (record or {}).get("outputs", {}).items():
        if not (folder / path).exists() or (folder / path).stat().st_size != entry["bytes"]:
            print(f"{label}: stage.json promises {path}")


SCENARIOS = {
    "new": (lambda _: None, lambda f: work(f, 0.2)),
    "stale": (lambda f: work(f, 0.1), lambda f: work(f, 0.2)),
    "fresh": (lambda f: work(f, 0.2), lambda f: work(f, 0.2, fresh=True)),
}


def begin_other(folder: Path) -> None:
    """Leave the stage half done with other settings, on top of committed ones."""
    work(folder, 0.1)
    stage = Stage(folder, "distill", {"alpha": 0.3}, {"base": "b"})
    with stage.open() as work_dir:
        (work_dir / "out" / "left-over.txt").write_text("x")


SCENARIOS["unfinished"] = (begin_other, lambda f: work(f, 0.2))


def main(scenario: str, root: Path) -> None:
    """Kill at every operation, and at some of the restart after it."""
    os.fsync = lambda _: None  # only a power cut needs it, and it is slow
    before, action = SCENARIOS[scenario]
    target = root / "dir"
    before(target)
    shutil.copytree(target, root / "start") if target.exists() else None
    work(target, 0.2)
    wanted = tree(target)

    def run(kills: tuple[int, ...]) -> bool:
        shutil.rmtree(target, ignore_errors=True)
        if (root / "start").exists():
            shutil.copytree(root / "start", target)
        killed = False
        for kill in kills:
            killed = in_child(lambda kill=kill: (die_before_operation(kill, target), action(target))) != 0
            check_consistent(target, f"kills {kills}")
        in_child(lambda: work(target, 0.2))
        if tree(target) != wanted:
            different = sorted(set(tree(target)) ^ set(wanted)) or "contents"
            print(f"kills {kills}: the result differs: {different}")
        return killed

    number = 1
    while run((number,)):
        if number % 12 == 0:
            second = 1
            while run((number, second)):
                second += 5
        number += 1
    print(f"kill points: {number - 1}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
