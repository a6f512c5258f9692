"""docs/add-a-method.md, done: the file of the document and the line of the document, and a comparison with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import Inputs, call

from unidetox import methods
from unidetox.registry import METHODS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "add-a-method.md"


def block(name: str) -> str:
    """The code of the document that is marked with a word after its language."""
    return DOCUMENT.read_text("utf-8").split(f"```python {name}\n")[1].split("\n```")[0]


@pytest.fixture
def flatten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with one more file and one more line."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "flatten.py").write_text(block("method"), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    with monkeypatch.context():
        before = dict(METHODS)
        exec(block("registry"), {"METHODS": METHODS})
        assert set(METHODS) - set(before) == {"flatten"}
        yield
        METHODS.clear()
        METHODS.update(before)


@pytest.mark.usefixtures("flatten")
def test_a_method_is_one_file_and_one_line(tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path) -> None:
    inputs = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)
    settings = inputs.small()
    del settings["detoxify"]["methods"]
    listed = (
        '[[method]]\nname = "flatten"\nfactor = 1.0\n[[method]]\nname = "flatten"\nlabel = "flatten-8"\nfactor = 0.8\n'
    )
    recipe = inputs.recipe(tmp_path / "new.toml", settings)
    recipe.write_text(recipe.read_text("utf-8") + listed, encoding="utf-8")
    said = call("compare", recipe, "-o", tmp_path / "run").ok()
    assert "flatten (8)" in said.out
    rows = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))["rows"]
    emt = {row["method"]: row["value"] for row in rows if (row["metric"], row["domain"]) == ("emt", "all")}
    assert emt["flatten"] == emt["base"] != emt["flatten (8)"]
    for setting, words in (("factor=-1", "a number above 0"), ("faktor=1", "Did you mean method.flatten.factor?")):
        wrong = call("run", recipe, "-o", tmp_path / "run", "--set", f"method.flatten.{setting}", "--dry-run")
        assert (wrong.code, words in wrong.err) == (2, True)
    assert call("status", tmp_path / "run", "--json").ok().json["targets/gpt2-flatten"]["state"] == "fresh"
