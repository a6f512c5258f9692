"""The benchmarks run, agree with the plain way and end with one JSON object (tiny sizes: no claim about speed)."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KEYS = ["name", "ours_s", "plain_s", "ratio", "agree", "floor_s", "of_floor"]


@pytest.mark.parametrize("name", ["distill", "sample", "perplexity", "toxicity", "multiple_choice", "evaluate"])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_benchmark(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [name, "--size", "tiny", "--threads", "1", "--dtype", dtype])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result)[:7] == KEYS
    assert result["name"] == name
    assert result["agree"] is True
    assert 0 < result["of_floor"] < 1.2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_them_write_one_page(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "run_all.py"), "--size", "tiny", "--threads", "1"]
    subprocess.run([*command, "--output", str(tmp_path / "results.md")], check=True)
    page = (tmp_path / "results.md").read_text()
    assert page.count("| yes |") == 14
    assert "| NO |" not in page
