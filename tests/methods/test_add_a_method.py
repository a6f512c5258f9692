"""docs/add-a-method.md, done: the file and the line of the document, in a package of its own, and a comparison."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from recipes import Inputs, call

from unidetox.config import methods
from unidetox.config.methods import GROUP, METHODS, method_names

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "add-a-method.md"


def block(name: str) -> str:
    """The block of the document that is marked with two words: its language and what it is."""
    return DOCUMENT.read_text("utf-8").split(f"```{name}\n")[1].split("\n```")[0]


@pytest.fixture
def flatten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that holds the file and declares the method."""
    declared = tomllib.loads(block("toml entry-point"))["project"]["entry-points"]
    about = tmp_path / "site" / "flatten-0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flatten\nVersion: 0.1\n", encoding="utf-8")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in declared[GROUP].items())]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (about.parent / "flatten.py").write_text(block("python method"), encoding="utf-8")
    monkeypatch.syspath_prepend(about.parent)
    methods._plugins.cache_clear()
    assert set(method_names()) - set(METHODS) == {"flatten"}
    yield
    methods._plugins.cache_clear()


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
