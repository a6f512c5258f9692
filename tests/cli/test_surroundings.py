"""Where a command runs: closed streams, terminals and pipes of other encodings, signals that ask for the end."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import environment

CLOSED = [which for n in (1, 2, 3) for which in itertools.combinations((0, 1, 2), n)]


def run(code: str, *arguments: object, closed: tuple[int, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, some of its streams closed."""
    # By a shell: subprocess itself needs the numbers.
    gone = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    command = ["sh", "-c", f'exec "$0" -c "$@" {gone}', sys.executable, code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), check=False, timeout=60)


MAIN = "from unidetox.cli import main\nmain()"


@pytest.mark.parametrize("closed", CLOSED)
def test_the_work_is_done_without_streams(tmp_path: Path, closed: tuple[int, ...]):
    done = run(MAIN, "init", "-o", tmp_path / "r.toml", closed=closed)
    assert done.returncode == 0 and (tmp_path / "r.toml").stat().st_size > 1000
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["init", "--help"], 0), (["stat"], 2), ([], 2)])
def test_what_is_said_to_nobody(arguments: list[str], code: int):
    for closed in ((1,), (0, 1, 2)):
        done = run(MAIN, *arguments, closed=closed)
        assert done.returncode == code and "Traceback" not in done.stderr


def test_a_file_does_not_get_the_number_of_a_stream(tmp_path: Path):
    """Else what a library writes to standard output by number would be in the middle of a model's weights."""
    code = f"""
import os
from unidetox import cli
cli._open_closed_streams()
with open({str(tmp_path / "file")!r}, "w") as file:
    os.write(1, b"chatter")
    os.write(2, b"chatter")
    file.write("weights")
    assert file.fileno() > 2
"""
    run(code, closed=(0, 1, 2))
    assert (tmp_path / "file").read_text() == "weights"


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", r"caf\xe9 \u4e2d"), ("latin-1", r"café \u4e2d"), ("cp1252:strict", r"café \u4e2d")]
)
def test_another_encoding(tmp_path: Path, encoding: str, said: str):
    command = [sys.executable, "-c", MAIN, "init", "-o", str(tmp_path / "café 中.toml")]
    env = environment(PYTHONIOENCODING=encoding, FORCE_COLOR="1")
    done = subprocess.run(command, capture_output=True, env=env, check=False, timeout=60)
    shown = (done.stdout + done.stderr).decode(encoding.partition(":")[0])
    assert done.returncode == 0 and said in shown and "\x1b" not in shown


KILLED = """
import os, sys, signal
from unidetox import cli
def work(context):
    for _ in range({times}):
        try:
            os.kill(os.getpid(), {number})
        except BaseException:
            if {times} == 1:
                raise
cli.app.invoke = work
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_asks_for_the_end_is_one_line(number: signal.Signals):
    done = run(KILLED.format(number=int(number), times=1), "init")
    line = "error: terminated. The same command goes on where it stopped\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", line)
    done = run(KILLED.format(number=int(number), times=2), "init")
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")  # the second is not waited for


def test_nohup_is_heeded():
    ignored = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = run(ignored + KILLED.format(number=int(signal.SIGHUP), times=1), "init")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bug_of_ours_shows_no_control_characters():
    code = r"""
from unidetox import cli
def work(context):
    raise ValueError("\x1b[2J hf_" + "a1" * 17)
cli.app.invoke = work
cli.main()
"""
    done = run(code, "init")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == r"ValueError: \x1b[2J ***"
    assert done.stderr.startswith("Traceback") and len(done.stderr.splitlines()) > 3
