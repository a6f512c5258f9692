"""Hub ids: from the local Hugging Face cache without a network; code that a model brings; tokens."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hub_cache import COMMIT, OLD, lay
from recipes import Inputs, Said, call, environment, snapshot, spawn, write_corpus, write_texts

TOKEN = "hf_ThisIsASecretOfNobody123456789"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)


@pytest.fixture(scope="module")
def home(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face home with models and data sets, some in two revisions, and one model without its weights."""
    home = tmp_path_factory.mktemp("hf")
    hub = home / "hub"
    for name in ("gpt2", "opt", "llama"):
        lay(hub, "model", f"tiny/{name}", inputs.models[name].iterdir())
    lay(hub, "model", "tiny/half", (f for f in inputs.models["gpt2"].iterdir() if f.suffix == ".json"))
    lay(hub, "model", "tiny/scorer", inputs.scorer.iterdir())
    for name in ("corpus", "prompts", "texts"):
        lay(hub, "dataset", f"tiny/{name}", [Path(inputs.file(f"{name}.csv"))])
    old = {"commit": OLD, "revision": "v1"}
    lay(hub, "model", "tiny/gpt2", inputs.models["gpt2_toxic"].iterdir(), **old)
    for name, make in (("corpus", write_corpus), ("texts", write_texts)):
        lay(hub, "dataset", f"tiny/{name}", [make(home / "old" / f"{name}.csv", 12)], **old)
    return home


def outside(home: Path, **more: str) -> dict[str, str]:
    """An environment with that home, a token, nothing at the Hub's address, and offline only where asked for."""
    env = environment(HF_HOME=str(home), HF_TOKEN=TOKEN, HF_ENDPOINT="http://127.0.0.1:9", **more)
    return {name: value for name, value in env.items() if name != "HF_HUB_OFFLINE"}


def secrets(said: Said, *folders: Path) -> Iterator[str]:
    """Where the token was printed or written."""
    for name, text in (("stdout", said.out), ("stderr", said.err)):
        if TOKEN in text or TOKEN[3:] in text:
            yield name
    for folder in folders:
        yield from (name for name, content in snapshot(folder).items() if TOKEN.encode() in content)


def test_a_whole_run_by_ids_from_the_cache(inputs: Inputs, home: Path, tmp_path: Path):
    settings = inputs.small()
    settings["base"]["model"] = "tiny/gpt2"
    settings["toxic"]["corpus"] = "tiny/corpus"
    settings["detoxify"]["targets"] = ["tiny/opt"]
    settings["evaluate"] |= {"prompts": "tiny/prompts", "scorer": "tiny/scorer", "ppl_model": "tiny/llama"}
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    said = spawn("run", recipe, "-o", tmp_path / "run", "--offline", "--json", env=outside(home))
    assert said.code == 0, said.err
    assert {(row["target"], row["method"]) for row in said.json["rows"]} == {("opt", "base"), ("opt", "unidetox")}
    info = json.loads((tmp_path / "run/targets/opt-unidetox/unidetox.json").read_text(encoding="utf-8"))
    assert info["base_model"] == "tiny/opt"
    stage = json.loads((tmp_path / "run/toxic_model/stage.json").read_text(encoding="utf-8"))
    assert stage["inputs"]["base"] == f"tiny/gpt2@{COMMIT}"
    assert list(secrets(said, tmp_path)) == []


def test_a_run_by_revisions(inputs: Inputs, home: Path, tmp_path: Path):
    """Two revisions of one model are two targets; what was read stands in results, cards and keys."""
    settings = inputs.small()
    settings["base"]["model"] = "tiny/gpt2@v1"
    settings["toxic"]["corpus"] = "tiny/corpus@v1"
    settings["detoxify"]["targets"] = ["tiny/gpt2", "tiny/gpt2@v1"]
    settings["evaluate"] |= {"prompts": "tiny/prompts", "scorer": "tiny/scorer@main", "ppl_model": "tiny/gpt2@v1"}
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    said = spawn("run", recipe, "-o", tmp_path / "run", "--offline", "--json", env=outside(home))
    assert said.code == 0, said.err
    results = said.json
    targets = {(target, method) for target in ("gpt2", "gpt2-v1") for method in ("base", "unidetox")}
    assert {(row["target"], row["method"]) for row in results["rows"]} == targets
    assert results["models"]["gpt2-v1"]["base"] == "tiny/gpt2@v1"
    assert results["commits"] == {"gpt2": {"base": COMMIT}, "gpt2-v1": {"base": OLD}}
    read = {"tiny/prompts": COMMIT, "tiny/scorer@main": COMMIT, "tiny/gpt2@v1": OLD}
    assert results["settings"]["commits"] == read
    ppl = {row["target"]: row["value"] for row in results["rows"]
           if (row["metric"], row["method"], row["domain"], row["group"]) == ("ppl", "base", "all", None)}  # fmt: skip
    assert ppl["gpt2"] != ppl["gpt2-v1"]
    stages = {name: json.loads((tmp_path / f"run/{name}/stage.json").read_text(encoding="utf-8"))["inputs"]
              for name in ("toxic_model", "texts", "targets/gpt2-v1-unidetox", "targets/gpt2-unidetox")}  # fmt: skip
    assert stages["toxic_model"]["base"] == stages["texts"]["base"] == f"tiny/gpt2@{OLD}"
    assert stages["targets/gpt2-v1-unidetox"]["target"] == f"tiny/gpt2@{OLD}"
    assert stages["targets/gpt2-unidetox"]["target"] == f"tiny/gpt2@{COMMIT}"
    info = json.loads((tmp_path / "run/toxic_model/unidetox.json").read_text(encoding="utf-8"))
    assert (info["base_model"], info["base_revision"], info["base_commit"]) == ("tiny/gpt2", "v1", OLD)
    assert (info["texts"]["source"], info["texts"]["commit"]) == ("tiny/corpus@v1", OLD)
    assert info["texts"]["number"] == 12
    for name in ("toxic_model", "texts", "targets/gpt2-v1-unidetox"):
        card = (tmp_path / f"run/{name}/README.md").read_text(encoding="utf-8")
        assert f"`tiny/gpt2@v1`, commit `{OLD}`" in card
        assert "base_model: tiny/gpt2\n" in card or name == "texts"
    again = spawn("status", tmp_path / "run", env=outside(home))
    assert "stale" not in again.out + again.err


def test_two_revisions_in_one_evaluation(home: Path, tmp_path: Path):
    given = ["--prompts", "tiny/prompts", "--scorer", "tiny/scorer", "--samples", 1, "--device", "cpu"]
    models = ["tiny/gpt2", "tiny/gpt2@v1"]
    said = spawn("evaluate", *models, *given, "-o", tmp_path / "out", "--offline", "--json", env=outside(home))
    assert said.code == 0, said.err
    assert {row["target"] for row in said.json["rows"]} == {"gpt2", "gpt2@v1"}
    assert said.json["commits"] == {"gpt2": {"base": COMMIT}, "gpt2@v1": {"base": OLD}}
    assert {path.name for path in (tmp_path / "out" / "evaluation").iterdir()} == {"gpt2", "gpt2-v1"}


def test_texts_by_id_where_the_hub_does_not_answer(inputs: Inputs, home: Path, tmp_path: Path):
    """Without --offline: what is in the cache is taken from there."""
    given = ["--texts", "tiny/texts", "--steps", 2, "--max-length", 32, "--device", "cpu"]
    said = spawn("detoxify", "tiny/gpt2", *given, "-o", tmp_path / "out", "-v", env=outside(home))
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "out/unidetox.json").read_text(encoding="utf-8"))["texts"]["number"] == 16
    given[1] = "tiny/texts@v1"
    said = spawn("detoxify", "tiny/gpt2@v1", *given, "--lora", "-o", tmp_path / "lora", env=outside(home))
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "lora/unidetox.json").read_text(encoding="utf-8"))["texts"]["number"] == 12
    adapter = json.loads((tmp_path / "lora/adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("tiny/gpt2", "v1")
    assert list(secrets(said, tmp_path)) == []


def test_models_are_fetched_before_their_fingerprints_are_taken(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Fetching turns the fingerprint of an id into ID@COMMIT; a stage described before would be stale at once."""
    from unidetox import api, methods
    from unidetox.evaluation import evaluate, parts
    from unidetox.methods import distillation

    class Described(Exception):
        pass

    fetched: list[str] = []

    def described(name: str) -> str:
        assert str(name) in fetched
        raise Described

    def needs(*models: object) -> None:
        assert fetched == [str(model) for model in models]
        fetched.clear()

    monkeypatch.setattr(methods.finetuning, "check_target", lambda recipe, name: fetched.append(name))
    for module, check in ((api, "check_lm"), (evaluate, "check_target")):
        monkeypatch.setattr(module, check, lambda name, *_: fetched.append(str(name)))
    monkeypatch.setattr(evaluate, "check_helpers", lambda chosen, *_: fetched.append(chosen.scorer))
    for module in (distillation, evaluate, parts, methods.finetuning):
        monkeypatch.setattr(module, "fingerprint", described)
    monkeypatch.setattr(distillation, "toxic_corpus", lambda recipe: None)
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    with pytest.raises(Described):
        api.train_toxic("tiny/gpt2", output=tmp_path / "out")
    needs("tiny/gpt2")
    with pytest.raises(Described):
        api.distill("tiny/gpt2", toxic="tiny/toxic", output=tmp_path / "out")
    needs("tiny/gpt2", "tiny/toxic")
    with pytest.raises(Described):
        api.detoxify("tiny/opt", preset="small", output=tmp_path / "out")
    needs("tiny/opt", "gpt2")
    with pytest.raises(Described):
        evaluate.evaluate("tiny/opt", scorer="tiny/scorer", prompts=inputs.file("prompts.csv"), output=tmp_path / "o")
    needs("tiny/opt", "tiny/scorer")


MISSING = [
    (["detoxify", "tiny/nothing", "--texts", "tiny/texts"], "hf download tiny/nothing"),
    (["detoxify", "tiny/half", "--texts", "tiny/texts"], "hf download tiny/half"),
    (["train-toxic", "tiny/gpt2", "--corpus", "tiny/nothing"], "hf download tiny/nothing --repo-type dataset"),
    (["detoxify", "tiny/gpt2@v2", "--texts", "tiny/texts"], "tiny/gpt2@v2 is neither"),
    (["detoxify", "tiny/gpt2", "--texts", "tiny/texts@v2"], "hf download tiny/texts --repo-type dataset --revision v2"),
    (["detoxify", "tiny/gpt2@", "--texts", "tiny/texts"], "tiny/gpt2@ does not exist"),
    (["train-toxic", "tiny/gpt2", "--corpus", "dghs@v2"], "Hate-Speech-Dataset --repo-type dataset --revision v2"),
    (["train-toxic", "tiny/gpt2", "--corpus", "dghs"], "Hate-Speech-Dataset --repo-type dataset"),
    (["evaluate", "tiny/gpt2", "--scorer", "tiny/scorer", "--prompts", "toxigen"], "hf download toxigen/toxigen-data"),
]

MANY = """
import sys
from recipes import call
import json
for line in sys.stdin:
    said = call(*json.loads(line))
    print(json.dumps([said.code, said.out, said.err]))
"""


def test_what_is_not_in_the_cache_says_how_to_get_it(home: Path, tmp_path: Path):
    import subprocess
    import sys

    env = outside(home)
    env["PYTHONPATH"] += f":{Path(__file__).parents[1] / 'helpers'}"
    lines = "".join(json.dumps([*command, "-o", str(tmp_path / "out"), "--offline"]) + "\n" for command, _ in MISSING)
    done = subprocess.run(
        [sys.executable, "-c", MANY], input=lines, capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(MISSING)
    for (code, out, err), (command, phrase) in zip(answers, MISSING, strict=True):
        assert code == 3, (command, err)
        assert phrase in err.splitlines()[-1], command
        assert err.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in err
        assert out == ""
    assert snapshot(tmp_path) == {}
    assert list(secrets(Said(0, done.stdout, done.stderr))) == []


class Gate(BaseHTTPRequestHandler):
    """A Hub whose repositories are all gated; it notes which tokens it is shown."""

    shown: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        at_home = self.path == "/"
        self.shown.append(self.headers.get("authorization"))
        self.send_response(200 if at_home else 403)
        if not at_home:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", f"Access is restricted, {self.headers.get('authorization')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


def test_a_gated_model_says_where_to_ask_and_shows_no_token(tmp_path: Path):
    server = HTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = outside(tmp_path / "hf") | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        command = ["detoxify", "meta-llama/Llama-2-7b-hf", "--texts", "no/matter", "-o", tmp_path / "out"]
        said = spawn(*command, env=env)
    finally:
        server.shutdown()
        server.server_close()
    assert said.code == 3, said
    line = said.err.splitlines()[-1]
    assert line.startswith("error: model meta-llama/Llama-2-7b-hf is gated")
    assert "https://huggingface.co/meta-llama/Llama-2-7b-hf" in line
    assert "hf auth login" in line
    assert f"Bearer {TOKEN}" in Gate.shown  # it was used
    assert list(secrets(said, tmp_path)) == []
    assert not (tmp_path / "out").exists()


# ---- code that a model brings ----

OWN = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
Path({witness!r}).touch()
class Config(GPT2Config):
    model_type = "own"
class Model(GPT2LMHeadModel):
    config_class = Config
"""


@pytest.fixture
def own(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model that brings code, and a file that is there once the code has run."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, witness = tmp_path / "own", tmp_path / "witness"
    shutil.copytree(inputs.models["gpt2"], folder)
    (folder / "own.py").write_text(OWN.format(witness=str(witness)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, witness


def test_code_that_a_model_brings_is_not_run_unless_asked_for(inputs: Inputs, own: tuple[Path, Path], tmp_path: Path):
    model, witness = own
    given = ["--texts", inputs.file("texts.csv"), "--steps", 1, "--max-length", 16, "--device", "cpu"]
    asked = ["--prompts", inputs.file("prompts.csv"), "--scorer", inputs.scorer, "--samples", 1]
    for command in (["detoxify", model, *given], ["train-toxic", model, *given[2:]], ["evaluate", model, *asked]):
        if command[0] == "train-toxic":
            command += ["--corpus", inputs.file("corpus.csv")]
        said = call(*command, "-o", tmp_path / "out")
        assert said.code == 2, said
        assert said.err.splitlines()[-1].startswith("error: ")
        assert "--trust-remote-code" in said.err.splitlines()[-1]
        assert "Traceback" not in said.err
        assert not witness.exists()
        assert not (tmp_path / "out").exists()
    call("detoxify", model, *given, "-o", tmp_path / "out", "--trust-remote-code").ok()
    assert witness.exists()
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_recipe_may_trust_code_too(inputs: Inputs, own: tuple[Path, Path], tmp_path: Path):
    model, witness = own
    settings = inputs.small()
    settings["detoxify"]["targets"] = [str(model)]
    recipe = inputs.recipe(tmp_path / "tiny.toml", settings)
    said = call("run", recipe, "-o", tmp_path / "run", "--dry-run")
    assert said.code == 2
    assert "--trust-remote-code" in said.err
    assert not witness.exists()
    assert call("run", recipe, "-o", tmp_path / "run", "--dry-run", "--trust-remote-code").code == 0
