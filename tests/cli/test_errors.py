"""Every kind of bad input: one line that says what to do, an exit code, and nothing half-written left behind."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes import Inputs, Said, call, environment, snapshot, spawn, start, write_csv

Case = tuple[int, str, list[Any]]  # exit code, what the line must hold, the command line


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    """Good inputs, and beside them one bad one of each kind."""
    made = Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)
    folder = made.folder
    (folder / "empty.csv").write_bytes(b"")
    (folder / "header.csv").write_text("text\n")
    write_csv(folder / "no_column.csv", [("id", "words"), ("1", "the fox")])
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 40)
    (folder / "latin.csv").write_bytes("text\nun caf\xe9 cr\xe8me\n".encode("latin-1"))
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "broken.toml").write_text('[base]\nmodel = "gpt2\n')
    (folder / "empty_folder").mkdir()
    for name, gone in (("no_tokenizer", "tokenizer*"), ("no_weights", "*.safetensors"), ("no_config", "config.json")):
        shutil.copytree(tiny_models["gpt2"], folder / name)
        for file in (folder / name).glob(gone):
            file.unlink()
    shutil.copytree(tiny_models["gpt2"], folder / "cut_weights")
    weights = folder / "cut_weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    (folder / "mmlu_bad" / "val").mkdir(parents=True)
    (folder / "mmlu_bad" / "val" / "animals_val.csv").write_text("who jumps,a,b,c,d,E\n")
    return made


def is_one_error(said: Said, code: int, *phrases: str) -> None:
    """The contract of a user's mistake."""
    lines = said.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert said.code == code, said
    assert len(errors) == 1, said
    assert lines[-1] == errors[0], said
    assert "Traceback" not in said.err
    for phrase in phrases:
        assert phrase in errors[0], said
    assert 20 < len(errors[0]) < 600, said


def train(inputs: Inputs, **change: Any) -> list[Any]:
    given = {"base": inputs.models["gpt2"], "corpus": inputs.file("corpus.csv")} | change
    return ["train-toxic", given["base"], "--corpus", given["corpus"], "--steps", 2, "--device", "cpu"]


def distill(inputs: Inputs, **change: Any) -> list[Any]:
    given = {"base": inputs.models["gpt2"], "toxic": inputs.models["gpt2_toxic"], "max_length": 20} | change
    command = ["distill", given.pop("base")]
    for name, value in given.items():
        command += [f"--{name.replace('_', '-')}", value]
    return command


def detoxify(inputs: Inputs, **change: Any) -> list[Any]:
    given = {"model": inputs.models["gpt2"], "texts": inputs.file("texts.csv"), "steps": 2} | change
    command = ["detoxify", given.pop("model")]
    for name, value in given.items():
        command += [f"--{name.replace('_', '-')}", value]
    return command


def evaluate(inputs: Inputs, **change: Any) -> list[Any]:
    given = {"model": inputs.models["gpt2"], "prompts": inputs.file("prompts.csv"), "scorer": inputs.scorer} | change
    command = ["evaluate", given.pop("model")]
    for name, value in given.items():
        command += [f"--{name.replace('_', '-')}", value]
    return command


CASES: dict[str, Callable[[Inputs], Case]] = {
    # data
    "corpus is missing": lambda i: (3, "no-such.csv does not exist", train(i, corpus="no-such.csv")),
    "corpus is empty": lambda i: (2, "empty.csv is empty", train(i, corpus=i.file("empty.csv"))),
    "corpus has no rows": lambda i: (2, "nothing to use", train(i, corpus=i.file("header.csv"))),
    "corpus has no text column": lambda i: (2, "no text column", train(i, corpus=i.file("no_column.csv"))),
    "corpus lacks the column": lambda i: (2, "no column 'words2'", [*train(i), "--column", "words2"]),
    "corpus is binary": lambda i: (2, "is a binary file", train(i, corpus=i.file("binary.csv"))),
    "corpus is not UTF-8": lambda i: (2, "line 2: not UTF-8", train(i, corpus=i.file("latin.csv"))),
    "corpus is broken": lambda i: (2, "line 2: not valid JSON", train(i, corpus=i.file("broken.jsonl"))),
    "corpus is no data file": lambda i: (2, "no data file", train(i, corpus=i.models["gpt2"] / "model.safetensors")),
    "corpus is an empty folder": lambda i: (2, "no data file in this folder", train(i, corpus=i.file("empty_folder"))),
    "texts are missing": lambda i: (3, "no-such.csv does not exist", detoxify(i, texts="no-such.csv")),
    "texts are empty": lambda i: (2, "empty.csv is empty", detoxify(i, texts=i.file("empty.csv"))),
    "texts have no text column": lambda i: (2, "no text column", detoxify(i, texts=i.file("no_column.csv"))),
    "texts are binary": lambda i: (2, "is a binary file", detoxify(i, texts=i.file("binary.csv"))),
    "texts are not UTF-8": lambda i: (2, "not UTF-8", detoxify(i, texts=i.file("latin.csv"))),
    "prompts are missing": lambda i: (3, "no-such.csv does not exist", evaluate(i, prompts="no-such.csv")),
    "prompts are empty": lambda i: (2, "empty.csv is empty", evaluate(i, prompts=i.file("empty.csv"))),
    "prompts have no text column": lambda i: (2, "'text' or 'prompt'", evaluate(i, prompts=i.file("no_column.csv"))),
    "prompts are binary": lambda i: (2, "is a binary file", evaluate(i, prompts=i.file("binary.csv"))),
    "questions are missing": lambda i: (3, "./no-such does not exist", evaluate(i, mmlu="./no-such")),
    "questions have a bad answer": lambda i: (2, "'E' is not a letter", evaluate(i, mmlu=i.file("mmlu_bad"))),
    "questions of an empty folder": lambda i: (3, "no questions", evaluate(i, mmlu=i.file("empty_folder"))),
    "more shots than examples": lambda i: (2, "3 solved examples", [*evaluate(i, mmlu=i.file("mmlu")), "--shots", 4]),
    # models
    "base is missing": lambda i: (3, "./no-such", train(i, base="./no-such")),
    "base is a file": lambda i: (3, "is a file, not a directory", train(i, base=i.file("corpus.csv"))),
    "base is a folder without a model": lambda i: (3, "no config.json", train(i, base=i.file("empty_folder"))),
    "base has no configuration": lambda i: (3, "no config.json", train(i, base=i.file("no_config"))),
    "base has no tokenizer": lambda i: (3, "no tokenizer in", train(i, base=i.file("no_tokenizer"))),
    "base has no weights": lambda i: (3, "no weights", train(i, base=i.file("no_weights"))),
    "base's weights are cut off": lambda i: (3, "is cut off", train(i, base=i.file("cut_weights"))),
    "base is a classifier": lambda i: (2, "causal language model", train(i, base=i.scorer)),
    "target has no tokenizer": lambda i: (3, "no tokenizer in", detoxify(i, model=i.file("no_tokenizer"))),
    "target has no weights": lambda i: (3, "no weights", detoxify(i, model=i.file("no_weights"))),
    "toxic model is missing": lambda i: (3, "./no-such", distill(i, toxic="./no-such")),
    "toxic model has no tokenizer": lambda i: (3, "no tokenizer in", distill(i, toxic=i.file("no_tokenizer"))),
    "toxic model is of another vocabulary": lambda i: (2, "different vocabularies", distill(i, toxic=i.models["opt"])),
    "base has too few positions": lambda i: (2, "exceed the 128 positions", distill(i, max_length=256)),
    "scorer is missing": lambda i: (3, "./no-such", evaluate(i, scorer="./no-such")),
    "scorer has no such label": lambda i: (2, "no label 'nice'", evaluate(i, scorer_label="nice")),
    "scorer is a language model": lambda i: (2, "sequence classifier", evaluate(i, scorer=i.models["gpt2"])),
    "perplexity model is missing": lambda i: (3, "./no-such", evaluate(i, ppl_model="./no-such")),
    "perplexity model has no weights": lambda i: (3, "no weights", evaluate(i, ppl_model=i.file("no_weights"))),
    "evaluated model is missing": lambda i: (3, "./no-such", evaluate(i, model="./no-such")),
    "evaluated model has no weights": lambda i: (3, "no weights", evaluate(i, model=i.file("no_weights"))),
    "no room for a continuation": lambda i: (2, "no room", evaluate(i, max_new_tokens=500)),
    # the Hub
    "base cannot be reached": lambda i: (3, "hf download nobody/nothing", train(i, base="nobody/nothing")),
    "toxic model cannot be reached": lambda i: (3, "hf download nobody/nothing", distill(i, toxic="nobody/nothing")),
    "corpus cannot be reached": lambda i: (3, "--repo-type dataset", train(i, corpus="nobody/nothing")),
    "texts cannot be reached": lambda i: (3, "--repo-type dataset", detoxify(i, texts="nobody/nothing")),
    "target cannot be reached": lambda i: (3, "hf download nobody/nothing", detoxify(i, model="nobody/nothing")),
    "scorer cannot be reached": lambda i: (3, "hf download nobody/nothing", evaluate(i, scorer="nobody/nothing")),
    "ToxiGen is not in the cache": lambda i: (3, "hf download toxigen", evaluate(i, prompts="toxigen")),
    # numbers
    "alpha is 0": lambda i: (2, "--alpha 0: it must be", distill(i, alpha=0)),
    "alpha is 2": lambda i: (2, "above 0 and at most 1", distill(i, alpha=2)),
    "alpha is a word": lambda i: (2, "--alpha much: it must be", distill(i, alpha="much")),
    "beta is 0": lambda i: (2, "--beta 0:", distill(i, beta=0)),
    "top-p is 0": lambda i: (2, "--top-p 0:", distill(i, top_p=0)),
    "top-k is negative": lambda i: (2, "--top-k -1:", distill(i, top_k=-1)),
    "temperature is 0": lambda i: (2, "--temperature 0:", distill(i, temperature=0)),
    "temperature is nan": lambda i: (2, "--temperature nan:", distill(i, temperature="nan")),
    "batch size is a word": lambda i: (2, "--batch-size many:", distill(i, batch_size="many")),
    "batch size is 0": lambda i: (2, "--batch-size 0:", distill(i, batch_size=0)),
    "no texts": lambda i: (2, "--num-texts 0:", distill(i, num_texts=0)),
    "steps are 0": lambda i: (2, "--steps 0:", detoxify(i, steps=0)),
    "learning rate is negative": lambda i: (2, "--lr -1:", detoxify(i, lr=-1)),
    "max length is 1": lambda i: (2, "--max-length 1:", detoxify(i, max_length=1)),
    "merge without lora": lambda i: (2, "lora", [*detoxify(i), "--merge"]),
    "epochs are 0": lambda i: (2, "--epochs 0:", [*train(i), "--epochs", 0]),
    "seeds are words": lambda i: (
        2,
        "--seeds a,b: it must be a list of distinct whole",
        evaluate(i, seeds="a,b"),
    ),
    "seeds are empty": lambda i: (2, "seeds", evaluate(i, seeds="")),
    "seeds repeat": lambda i: (2, "distinct whole numbers", evaluate(i, seeds="42,42")),
    "protocol is unknown": lambda i: (2, '"default" or "paper"', evaluate(i, protocol="mine")),
    "split is unknown": lambda i: (2, "split", evaluate(i, split="mine")),
    "seed is negative": lambda i: (2, "--seed -1:", [*train(i), "--seed", -1]),
    "seed is too large": lambda i: (2, "from 0 to 2^32 - 1", [*train(i), "--seed", 2**32]),
    "a seed of a list is too large": lambda i: (2, "from 0 to 2^32 - 1", evaluate(i, seeds=f"1,{2**32}")),
    "limit is 0": lambda i: (2, "--limit", [*train(i), "--limit", 0]),
    "device is not there": lambda i: (3, "'cuda' is not in this machine", [*train(i), "--device", "cuda"]),
    "device is unknown": lambda i: (2, "no such device", [*train(i), "--device", "abacus"]),
    "dtype is unknown": lambda i: (2, "dtype", [*train(i), "--dtype", "float1"]),
    "dtype is too narrow": lambda i: (2, "float16 is too narrow", [*train(i), "--dtype", "float16"]),
    # the command line itself
    "preset is unknown": lambda i: (2, "'papper'. Did you mean paper?", ["detoxify", "gpt2", "--preset", "papper"]),
    "option is unknown": lambda i: (2, "--stepps", [*detoxify(i), "--stepps", 3]),
    "verb has no argument": lambda i: (2, "argument", ["detoxify"]),
    "verb lacks an option": lambda i: (2, "--toxic", ["distill", i.models["gpt2"]]),
    "a label too many": lambda i: (
        2,
        "1 --scorer and 2 --scorer-label",
        [*evaluate(i, scorer_label="a"), "--scorer-label", "b"],
    ),
    "a scorer twice": lambda i: (2, "--scorer is given twice", [*evaluate(i), "--scorer", i.scorer]),
    "directories are not planned": lambda i: (2, "--dry-run is for recipes", ["compare", i.folder, "--dry-run"]),
}

OUTPUT = ("train-toxic", "distill", "detoxify", "evaluate", "run", "compare")


def with_output(command: list[Any], output: Path) -> list[Any]:
    return [*command, "-o", output] if command[0] in OUTPUT else command


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_gives_one_line_and_leaves_nothing(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    if "not in this machine" in CASES[name](inputs)[1]:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    code, phrase, command = CASES[name](inputs)
    before = snapshot(inputs.folder)
    started = time.monotonic()
    said = call(*with_output(command, tmp_path / "out"))
    assert time.monotonic() - started < 10
    is_one_error(said, code, phrase)
    assert said.out == ""
    assert snapshot(tmp_path) == {}
    assert snapshot(inputs.folder) == before


RECIPES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "unknown key": (2, "unknown key texts.aplha", {"texts": {"aplha": 0.2}}),
    "unknown section": (2, "unknown key text", {"text": {"alpha": 0.2}}),
    "unknown preset": (2, "no preset 'papper'", {"preset": "papper"}),
    "alpha is 0": (2, "texts.alpha = 0", {"texts": {"alpha": 0}}),
    "corpus is missing": (3, "no-such.csv does not exist", {"toxic": {"corpus": "no-such.csv"}}),
    "corpus has no text column": (2, "no text column", {"toxic": {"corpus": "no_column.csv"}}),
    "prompts are empty": (2, "is empty", {"evaluate": {"prompts": "empty.csv"}}),
    "base has no tokenizer": (3, "no tokenizer in", {"base": {"model": "no_tokenizer"}}),
    "base has no weights": (3, "no weights", {"base": {"model": "no_weights"}}),
    "base has too few positions": (2, "exceed the 128 positions", {"texts": {"max_length": 256}}),
    "a target has no weights": (3, "no weights", {"detoxify": {"targets": ["no_weights"]}}),
    "a target is a classifier": (2, "another kind of model", {"detoxify": {"targets": ["SCORER"]}}),
    "toxic model is of another vocabulary": (2, "different vocabularies", {"toxic": {"model": "OPT"}}),
    "scorer has no such label": (2, "no label 'nice'", {"evaluate": {"scorer_label": "nice"}}),
    "scorer is not cached": (3, "hf download nobody/nothing", {"evaluate": {"scorer": "nobody/nothing"}}),
    "perplexity model has no weights": (3, "no weights", {"evaluate": {"ppl_model": "no_weights"}}),
    "questions are bad": (2, "'E' is not a letter", {"evaluate": {"mmlu": "mmlu_bad"}}),
    "no room for a continuation": (2, "no room", {"evaluate": {"max_new_tokens": 500}}),
    "device is not there": (3, "'cuda:7' is not in this machine", {"device": "cuda:7"}),
    "device is unknown": (2, "no such device", {"device": "abacus"}),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
def test_a_mistake_in_a_recipe_shows_before_anything_is_made(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dry: bool
):
    from unidetox.methods import distillation

    monkeypatch.setattr(distillation, "train_toxic", lambda *a, **k: pytest.fail("too late: a model is being trained"))
    code, phrase, change = RECIPES[name]
    settings = inputs.small()
    for key, value in change.items():
        settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
    words = {"SCORER": str(inputs.scorer), "OPT": str(inputs.models["opt"])}
    text = json.dumps(settings)
    for word, path in words.items():
        text = text.replace(f'"{word}"', json.dumps(path))
    recipe = inputs.recipe(inputs.folder / "tiny.toml", json.loads(text))
    said = call("run", recipe, "-o", tmp_path / "out", *(["--dry-run"] if dry else []))
    recipe.unlink()
    is_one_error(said, code, phrase)
    assert snapshot(tmp_path) == {}


def test_a_mistake_leaves_an_earlier_run_as_it_was(inputs: Inputs, tmp_path: Path):
    from unidetox.config.recipe import load_recipe
    from unidetox.core.directories import DirectoryLock
    from unidetox.pipeline.run_directory import Run

    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    run = tmp_path / "run"
    with Run(run).session(load_recipe(recipe), ["unidetox"]):
        pass
    before = snapshot(tmp_path)
    command = ["run", recipe, "-o", run, "--set", "evaluate.scorer_label=nice"]
    is_one_error(call(*command), 2, "no label 'nice'")
    assert snapshot(tmp_path) == before
    lock = DirectoryLock(run)
    lock.acquire()
    try:
        is_one_error(call(*command), 4, str(run))
    finally:
        lock.release()
    assert snapshot(tmp_path) == before


OVERRIDES = [
    ("texts.aplha=0.2", "--set: unknown key texts.aplha"),
    ("texts.alpha=2", "--set: texts.alpha = 2"),
    ("texts.alpha", "not of the form section.key=value"),
    ("seed.alpha=2", "seed is not a section"),
    ("evaluate.seeds=[1, 1]", "distinct"),
]


@pytest.mark.parametrize(("override", "phrase"), OVERRIDES)
def test_a_mistake_in_set(inputs: Inputs, tmp_path: Path, override: str, phrase: str):
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    is_one_error(call("run", recipe, "-o", tmp_path / "out", "--set", override), 2, phrase)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_read(inputs: Inputs, tmp_path: Path):
    is_one_error(
        call("run", tmp_path / "no.toml", "-o", tmp_path / "out"), 3, "no.toml does not exist", "unidetox init"
    )
    is_one_error(call("run", tmp_path, "-o", tmp_path / "out"), 2, "cannot be read")
    is_one_error(call("run", inputs.file("broken.toml"), "-o", tmp_path / "out"), 2, "is not valid TOML", "line 2")
    is_one_error(call("run", inputs.file("binary.csv"), "-o", tmp_path / "out"), 2, "is not valid TOML")
    assert snapshot(tmp_path) == {}


# ---- outputs that are taken ----


def commands(inputs: Inputs, recipe: Path) -> dict[str, list[Any]]:
    made_of_presets = ["detoxify", inputs.models["gpt2"], "--preset", "small"]
    return {
        "run": ["run", recipe], "dry run": ["run", recipe, "--dry-run"], "train": train(inputs),
        "distill": distill(inputs), "detoxify": detoxify(inputs), "evaluate": evaluate(inputs),
        "detoxify without texts": made_of_presets,
    }  # fmt: skip


VERBS = ["run", "dry run", "train", "distill", "detoxify", "detoxify without texts", "evaluate"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("taken", ["other files", "a file", "below a file", "another run", "another command"])
def test_an_output_that_is_taken_is_left_alone(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, taken: str
):
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    out = output = tmp_path / "out"
    if taken in ("a file", "below a file"):
        out.write_text("my thesis")
        output = out / "deep" / "er" if taken == "below a file" else out
    elif taken == "other files":
        out.mkdir()
        (out / "thesis.txt").write_text("my thesis")
    elif taken == "another run":
        out.mkdir()
        (out / "manifest.json").write_text('{"name": "another", "outcome": "done"}')
        (out / "recipe.toml").write_text('name = "another"')
    else:
        out.mkdir()
        (out / "stage.json").write_text('{"stage": "another", "key": "1", "outputs": {"a.txt": {"bytes": 2}}}')
        (out / "a.txt").write_text("ab")
    before = snapshot(tmp_path)
    said = call(*commands(inputs, recipe)[verb], "-o", output)
    is_one_error(said, 2, "out")
    assert "-o" in said.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "dry run"])  # which writes nothing
def test_an_output_in_use_is_code_four(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str):
    from unidetox.core.directories import DirectoryLock

    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    (tmp_path / "out").mkdir()
    lock = DirectoryLock(tmp_path / "out")
    lock.acquire()
    try:
        said = call(*commands(inputs, recipe)[verb], "-o", tmp_path / "out")
    finally:
        lock.release()
    is_one_error(said, 4, "out", str(os.getpid()))
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_looking_at_what_is_no_run(inputs: Inputs, tmp_path: Path):
    is_one_error(call("status", tmp_path / "no-such"), 3, "does not exist")
    is_one_error(call("status", tmp_path), 2, "is not a run")
    is_one_error(call("status", inputs.file("corpus.csv")), 3, "corpus.csv")
    is_one_error(call("report", tmp_path / "no-such"), 3, "no results.json")
    is_one_error(call("report", tmp_path), 3, "no results.json")
    (tmp_path / "results.json").write_text("{")
    is_one_error(call("report", tmp_path), 3, "results.json")
    (tmp_path / "results.json").unlink()
    is_one_error(call("init", "-o", inputs.file("corpus.csv")), 2, "exists", "--force")
    is_one_error(call("init", "-o", Path(inputs.file("corpus.csv")) / "recipe.toml"), 2, "corpus.csv")
    is_one_error(call("init", "-o", tmp_path, "--force"), 2, str(tmp_path))
    is_one_error(call("init", "--preset", "none", "-o", tmp_path / "recipe.toml"), 2, "no preset 'none'")
    assert snapshot(tmp_path) == {}


# ---- the same from outside ----


def test_a_mistake_as_a_user_sees_it(inputs: Inputs, tmp_path: Path):
    """In processes of their own, side by side: what a user types, imports included."""
    mistakes: list[Case] = [
        (2, "different vocabularies", [*distill(inputs, toxic=inputs.models["opt"]), "-o", tmp_path / "a"]),
        (3, "no-such.csv does not exist", [*train(inputs, corpus="no-such.csv"), "-o", tmp_path / "b"]),
    ]
    processes = [start(*command, cwd=tmp_path) for _, _, command in mistakes]
    for process, (code, phrase, _) in zip(processes, mistakes, strict=True):
        out, err = process.communicate(timeout=100)
        is_one_error(Said(process.returncode, out, err), code, phrase)
        assert out == ""
    assert snapshot(tmp_path) == {}


def test_the_hub_that_cannot_be_reached_is_said_soon(inputs: Inputs, tmp_path: Path):
    """Without --offline, where nothing answers at the Hub's address."""
    env = environment(HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"))
    env["HF_HUB_OFFLINE"] = "0"
    said = spawn(*train(inputs, base="nobody/nothing"), "-o", tmp_path / "out", env=env)
    is_one_error(said, 3, "nobody/nothing", "cannot be reached", "hf download")
    assert not (tmp_path / "out").exists()


def test_a_bug_of_ours_is_not_hidden(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from unidetox import api

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "status", broken)
    with pytest.raises(ZeroDivisionError):
        call("status", tmp_path)


def test_verbose_shows_where_an_error_arose(inputs: Inputs, tmp_path: Path):
    said = call(*train(inputs, corpus=inputs.file("empty.csv")), "-o", tmp_path / "out", "-v")
    assert said.code == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("error: ")


def test_no_token_is_shown_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from unidetox import api
    from unidetox.core import console
    from unidetox.core.errors import MissingError

    token = "hf_" + "aB3" * 12

    def refused(*_: object) -> None:
        raise MissingError(f"https://me:{token}@example.org/x does not answer")

    monkeypatch.setattr(api, "status", refused)
    with console.logged(tmp_path / "run.log"):
        said = call("status", "run", "-v")
        console.detail(f"Authorization: Bearer {token}")
    assert said.code == 3
    assert "https://me:***@example.org" in said.err.splitlines()[-1]
    kept = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "Bearer ***" in kept
    assert token not in said.err + kept


def test_a_full_disk_is_one_line(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from unidetox import api

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/data/model.safetensors")

    monkeypatch.setattr(api, "train_toxic", full)
    is_one_error(call(*train(inputs), "-o", tmp_path / "out"), 1, "No space left on device", "/data/model.safetensors")
