"""Tests that lack what they need are left out and counted; in CI they fail, however they were left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent / "helpers"
# Needs of whatever machine this is: one is there, one can be installed and is not, one cannot be installed.
CONFTEST = """
import needs
from needs import pytest_make_collect_report, pytest_runtest_makereport, pytest_runtest_setup, pytest_terminal_summary

needs.NEEDS.clear()
needs.NEEDS |= {
    "browser": needs.Need("a browser", lambda: True),
    "detoxify": needs.Need("detoxify", lambda: False),
    "gpu": needs.Need("a GPU", lambda: False, installable=False),
}
"""
MARKED = """
import pytest

@pytest.mark.browser
def test_one(): pass

@pytest.mark.detoxify
@pytest.mark.parametrize("i", [0, 1])
def test_two(i): pass

@pytest.mark.gpu
def test_three(): pass
"""
BY_ITSELF = "import pytest\npytest.importorskip('not_a_module_of_anyone')\ndef test_four(): pass\n"


def ran(folder: Path, ci: str, *options: str, **files: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    browser\n    detoxify\n    gpu\n")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    environment = os.environ | {"CI": ci, "PYTHONPATH": str(HELPERS)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["here", "xdist"])
def test_what_was_left_out_stands_in_one_line(tmp_path: Path, options: tuple[str, ...]):
    status, said = ran(tmp_path, "", *options, marked=MARKED, by_itself=BY_ITSELF)
    assert status == 0
    [line] = [line for line in said.splitlines() if line.startswith("left out:")]
    assert line.startswith("left out: 2 of detoxify (detoxify), 1 of gpu (a GPU), 1: could not import")
    assert line.endswith("; .ci/run installs what they need and runs them")
    assert "1 passed, 4 skipped" in said


def test_ci_goes_without_what_nobody_can_install(tmp_path: Path):
    status, said = ran(tmp_path, "true", marked=MARKED.replace("@pytest.mark.detoxify", ""))
    assert status == 0
    assert "browser: 1 passed; detoxify: none; gpu: 1 skipped; skipped: 1 (1 needs a GPU)" in said


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["here", "xdist"])
def test_ci_fails_for_want_of_what_can_be_installed(tmp_path: Path, options: tuple[str, ...]):
    status, said = ran(tmp_path, "true", *options, marked=MARKED)
    assert status == 1
    assert "test_two[0]: skipped, which CI does not allow: needs detoxify" in said
    assert "browser: 1 passed; detoxify: 2 error; gpu: 1 skipped; skipped: 1 (1 needs a GPU)" in said


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["here", "xdist"])
def test_ci_fails_where_a_whole_file_is_left_out(tmp_path: Path, options: tuple[str, ...]):
    status, said = ran(tmp_path, "true", *options, by_itself=BY_ITSELF)
    assert status != 0
    assert "skipped, which CI does not allow: could not import 'not_a_module_of_anyone'" in said
