"""The command line itself: quick help, and every option of every verb reaches what it is for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recipes import Said, call, environment

TESTS = Path(__file__).resolve().parents[1]


def verbs() -> dict[str, set[str]]:
    """Every verb with its options, as the parser knows them."""
    import typer

    from unidetox.cli import app

    group: Any = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in group.commands.items()
    }


VERBS = verbs()
COMMON = ["--seed", "3", "--device", "cpu", "--dtype", "float32", "--limit", "5", "--trust-remote-code", "--fresh"]
COMPUTING = {"seed": 3, "device": "cpu", "dtype": "float32", "trust_remote_code": True}
RECIPE = """
name = "tiny"
base.model = "a/base"
detoxify.targets = ["a/target"]
"""


@dataclass(frozen=True)
class Use:
    """One command line, and what it must call.

    Attributes:
        arguments: The command line.
        callee: Function that is called in the end.
        positional: What it gets first.
        named: What else it gets.
    """

    arguments: list[str]
    callee: str
    positional: tuple[Any, ...]
    named: dict[str, Any]


OUT = Path("out")
USES = [
    Use(
        [
            "detoxify", "a/model", "-o", "out", "--texts", "t.csv", "--preset", "small", "--steps", "7", "--lr", "1e-4",
            "--batch-size", "2", "--max-length", "64", "--kl", "0.5", "--lora", "--merge", *COMMON,
        ],
        "unidetox.api.detoxify",
        ("a/model",),
        {
            "output": OUT, "texts": "t.csv", "preset": "small", "fresh": True, "limit": 5, "steps": 7, "lr": 1e-4,
            "batch_size": 2, "max_length": 64, "kl": 0.5, "lora": True, "merge": True, **COMPUTING,
        },
    ),
    Use(
        ["detoxify", "a/model", "--output", "out"],
        "unidetox.api.detoxify",
        ("a/model",),
        {"output": OUT, "texts": None, "preset": "paper", "fresh": False, "limit": None},
    ),
    Use(
        [
            "train-toxic", "a/base", "-o", "out", "--corpus", "c.csv", "--column", "words", "--epochs", "2.5",
            "--steps", "9", "--lr", "1e-4", "--batch-size", "2", "--max-length", "64", *COMMON,
        ],
        "unidetox.api.train_toxic",
        ("a/base",),
        {
            "output": OUT, "corpus": "c.csv", "column": "words", "epochs": 2.5, "steps": 9, "lr": 1e-4, "batch_size": 2,
            "max_length": 64, "limit": 5, "fresh": True, **COMPUTING,
        },
    ),
    Use(
        ["train-toxic", "a/base", "--output", "out"],
        "unidetox.api.train_toxic",
        ("a/base",),
        {"output": OUT, "fresh": False},
    ),
    Use(
        [
            "distill", "a/base", "-o", "out", "--toxic", "a/toxic", "--num-texts", "9", "--max-length", "64",
            "--alpha", "0.2", "--beta", "2.5", "--temperature", "0.7", "--top-p", "0.8", "--top-k", "11",
            "--batch-size", "3", "--starts", "s.csv", "--best-of", "4", *COMMON,
        ],
        "unidetox.api.distill",
        ("a/base",),
        {
            "output": OUT, "toxic": "a/toxic", "num_texts": 5, "max_length": 64, "alpha": 0.2, "beta": 2.5,
            "temperature": 0.7, "top_p": 0.8, "top_k": 11, "batch_size": 3, "starts": "s.csv",
            "best_of": 4, "fresh": True, **COMPUTING,
        },
    ),
    Use(
        ["distill", "a/base", "--output", "out", "--toxic", "a/toxic", "--beta", "inf", "--batch-size", "auto"],
        "unidetox.api.distill",
        ("a/base",),
        {"output": OUT, "toxic": "a/toxic", "beta": float("inf"), "batch_size": "auto", "fresh": False},
    ),
    Use(
        [
            "evaluate", "a/one", "a/two", "-o", "out", "--prompts", "p.csv", "--split", "test", "--num-prompts", "9",
            "--scorer", "a/scorer", "--scorer-label", "bad", "--ppl-model", "a/ppl", "--mmlu", "m", "--shots", "2",
            "--mmlu-protocol", "standard", "--samples", "4", "--max-new-tokens", "8", "--top-p", "0.8", "--seeds",
            "4, 5", "--protocol", "paper", "--perturb", "casing, swaps", "--few-shot", "t.csv", "--neutral", "builtin",
            "--batch-size", "6", *COMMON,
        ],
        "unidetox.api.evaluate",
        (["a/one", "a/two"],),
        {
            "output": OUT, "prompts": "p.csv", "split": "test", "num_prompts": 9, "scorer": "a/scorer",
            "scorer_label": "bad", "ppl_model": "a/ppl", "mmlu": "m", "shots": 2,
            "mmlu_protocol": "standard", "samples": 4, "max_new_tokens": 8,
            "perturbations": ["casing", "swaps"], "few_shot": "t.csv", "neutral": "builtin",
            "top_p": 0.8, "seeds": [4, 5], "protocol": "paper", "batch_size": 6, "limit": 5, "fresh": True,
            "device": "cpu", "dtype": "float32", "trust_remote_code": True,
        },
    ),
    Use(
        [
            "analyze", "a.csv", "b.csv", "-o", "out", "--corpus", "c.csv", "--column", "words", "--reference", "r.csv",
            "--scorer", "a/scorer", "--scorer-label", "bad", "--classifier", "a/lean", "--classifier", "a/topic",
            "--tokenizer", "a/lm", *COMMON,
        ],
        "unidetox.api.analyze",
        (["a.csv", "b.csv"],),
        {
            "output": OUT, "corpus": "c.csv", "column": "words", "reference": "r.csv", "scorer": "a/scorer",
            "scorer_label": "bad", "classifiers": ["a/lean", "a/topic"], "tokenizer": "a/lm", "limit": 5, "fresh": True,
            **COMPUTING,
        },
    ),
    Use(
        ["analyze", "a.csv", "--output", "out"],
        "unidetox.api.analyze",
        (["a.csv"],),
        {"output": OUT, "fresh": False},
    ),
    Use(
        ["evaluate", "a/one", "-o", "out", "--scorer", "a/x", "--scorer", "a/y", "--scorer", "a/z"],
        "unidetox.api.evaluate",
        (["a/one"],),
        {
            "output": OUT, "scorer": "a/x", "other_scorers": {"a/y": "toxic", "a/z": "toxic"}, "limit": None,
            "fresh": False,
        },
    ),
    Use(
        [
            "evaluate", "a/one", "-o", "out", "--scorer", "x", "--scorer-label", "a", "--scorer", "y",
            "--scorer-label", "b",
        ],
        "unidetox.api.evaluate",
        (["a/one"],),
        {"output": OUT, "scorer": "x", "scorer_label": "a", "other_scorers": {"y": "b"}, "limit": None, "fresh": False},
    ),
    Use(
        ["evaluate", "a/one", "--output", "out", "--seed", "8"],
        "unidetox.api.evaluate",
        (["a/one"],),
        {"output": OUT, "seeds": [8], "limit": None, "fresh": False},
    ),
]  # fmt: skip


def recorder(monkeypatch: pytest.MonkeyPatch, callee: str, answer: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Put something that only notes its arguments in a function's place."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(callee, lambda *args, **named: calls.append((args, named)) or answer)
    return calls


RESULTS: dict[str, Any] = {"schema_version": 2, "rows": []}


@pytest.mark.parametrize("use", USES, ids=[f"{use.arguments[0]}-{i}" for i, use in enumerate(USES)])
def test_every_option_reaches_what_it_is_for(monkeypatch: pytest.MonkeyPatch, use: Use):
    calls = recorder(monkeypatch, use.callee, RESULTS if use.arguments[0] in ("evaluate", "analyze") else OUT)
    call(*use.arguments, "--json").ok()
    assert calls == [(use.positional, use.named)]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


RUN = ["run", "--output", "out", "--set", "texts.alpha=0.3", "--set", "evaluate.seeds=[1,2]", *COMMON]


def test_every_option_of_run_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch, recipe: Path):
    calls = recorder(monkeypatch, "unidetox.pipeline.plan.run", RESULTS)
    call(*RUN, recipe, "--json").ok()
    (((given, output), named),) = calls
    assert output == OUT
    assert named["fresh"] is True
    assert (given.seed, given.device, given.dtype, given.trust_remote_code) == (3, "cpu", "float32", True)
    assert (given.texts.alpha, given.evaluate.seeds) == (0.3, (1, 2))
    assert (given.toxic.limit, given.toxic.steps, given.texts.num_texts, given.detoxify.steps) == (5, 5, 5, 5)
    assert given.evaluate.num_prompts == 5


def test_options_win_over_the_recipe_and_set_over_the_file(monkeypatch: pytest.MonkeyPatch, recipe: Path):
    calls = recorder(monkeypatch, "unidetox.pipeline.plan.run", RESULTS)
    recipe.write_text("seed = 1\ndevice = 'cuda'\n" + RECIPE)
    call("run", recipe, "-o", "out", "--set", "seed=2", "--set", "device=cpu", "--json").ok()
    call("run", recipe, "-o", "out", "--set", "seed=2", "--seed", "3", "--json").ok()
    assert [(args[0].seed, args[0].device) for args, _ in calls] == [(2, "cpu"), (3, "cuda")]


COMPARE = ["compare", "--output", "out", "--set", "texts.alpha=0.3", *COMMON]


def test_every_option_of_compare_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch, recipe: Path):
    calls = recorder(monkeypatch, "unidetox.pipeline.plan.run", RESULTS)
    call(*COMPARE, recipe, "--json").ok()
    (((given, output), named),) = calls
    assert (output, named["fresh"], given.costs) == (OUT, True, True)
    assert (given.seed, given.device, given.dtype, given.trust_remote_code) == (3, "cpu", "float32", True)
    assert (given.texts.alpha, given.texts.num_texts, given.evaluate.num_prompts) == (0.3, 5, 5)


TUNE = ["tune", "--output", "out", "--set", "texts.alpha=0.3", *COMMON]


def test_every_option_of_tune_reaches_the_search(monkeypatch: pytest.MonkeyPatch, recipe: Path):
    calls = recorder(monkeypatch, "unidetox.api.tune", RESULTS)
    call(*TUNE, recipe, "--json").ok()
    top = ["seed=3", 'device="cpu"', 'dtype="float32"', "trust_remote_code=true"]
    told = {"output": OUT, "fresh": True, "overrides": ["texts.alpha=0.3", *top], "limit": 5}
    assert calls == [((recipe,), told)]


DEMO = ["demo", "--output", "out", *COMMON]


def test_every_option_of_demo_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch):
    calls = recorder(monkeypatch, "unidetox.pipeline.plan.run", RESULTS)
    call(*DEMO, "--json").ok()
    (((given, output), named),) = calls
    assert (output, named["fresh"]) == (OUT, True)
    assert (given.seed, given.device, given.dtype, given.trust_remote_code) == (3, "cpu", "float32", True)
    assert (given.texts.num_texts, given.evaluate.num_prompts) == (5, 5)
    assert len(given.detoxify.targets) == 4


def test_init_writes_a_recipe_that_can_be_read(tmp_path: Path):
    from unidetox.config.recipe import load_recipe

    for preset in ("paper", "small", "sandbox"):
        path = tmp_path / f"{preset}.toml"
        said = call("init", "--output", path, "--preset", preset).ok()
        assert str(path) in said.out
        assert path.read_text(encoding="utf-8").count("#") > 30
        assert load_recipe(path).texts.alpha == 0.1
        assert load_recipe(path).name == preset
    path.write_text("mine")
    assert call("init", "-o", path).code == 2
    assert path.read_text() == "mine"
    assert call("init", "-o", path, "--force", "--json").ok().json == {"recipe": str(path)}
    assert path.read_text() != "mine"


def test_doctor_says_what_is_there_and_what_to_do(monkeypatch: pytest.MonkeyPatch):
    said = call("doctor").ok()
    for word in ("python", "torch", "device", "number type", "disk here", "model cache", "hub"):
        assert word in said.out
    found = call("doctor", "--json").ok().json
    assert all(set(check) == {"good", "what", "found", "advice"} for check in found)
    assert all(check["good"] or check["advice"] for check in found)
    home = os.path.expanduser("~")  # noqa: PTH111
    assert len(home) < 2 or not any(home in check["found"] for check in found)


def test_version_and_help():
    from unidetox.core.version import __version__

    assert call("--version").ok().out == f"unidetox {__version__}\n"
    bare = call()
    assert bare.code == 2
    for name in VERBS:
        assert name in call("--help").ok().out
        assert name in bare.out
        shown = call(name, "--help").ok().out
        for option in VERBS[name]:
            assert option in shown, (name, option)


@pytest.mark.parametrize(
    ("given", "verbosity"), [([], 0), (["--quiet"], -1), (["-q"], -1), (["--verbose"], 1), (["-v"], 1)]
)
@pytest.mark.parametrize("offline", [False, True])
def test_shared_options_act_before_the_verb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: list[str], verbosity: int, offline: bool
):
    from unidetox.core import console

    seen: list[int] = []
    monkeypatch.setattr(console, "configure", seen.append)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    call("report", tmp_path, *given, *(["--offline"] if offline else []))
    assert seen == [verbosity]
    assert os.environ["HF_HUB_OFFLINE"] == ("1" if offline else "0")
    assert all({"--offline", "--json", "--quiet", "--verbose"} <= options for options in VERBS.values())


def test_every_option_of_every_verb_is_used_by_a_test():
    """With its own verb: in the command lines of this file, or in another test that names both."""
    lines = [*(use.arguments for use in USES), RUN, COMPARE, TUNE, DEMO]
    used = {name: set() for name in VERBS}
    for line in lines:
        used[line[0]] |= {word for word in line if word.startswith("--")}
    shared = {"--offline", "--json", "--quiet", "--verbose"}
    elsewhere = {
        "run": {"--dry-run", "--gpu"}, "compare": {"--dry-run"}, "init": {"--output", "--preset", "--force"},
        "status": set(), "report": set(), "doctor": set(),
    }  # fmt: skip
    texts = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")}
    for name, options in VERBS.items():
        for option in options - used[name] - shared:
            assert option in elsewhere.get(name, set()), f"{name} {option} is used by no test"
            assert any(f'"{name}"' in text and f'"{option}"' in text for text in texts.values()), (name, option)
    assert all(any(f'"{option}"' in text for text in texts.values()) for option in shared)


# ---- quick ----

HELP = "from unidetox.cli import _run; _run(['--help'])"


def cpu_seconds(*arguments: str) -> float:
    """Processor time of a Python process; on a busy machine the clock on the wall measures the others."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_is_there_at_once():
    bare = min(cpu_seconds("-c", "pass") for _ in range(3))
    assert min(cpu_seconds("-c", HELP) for _ in range(5)) - bare < 0.3


def test_help_loads_nothing_heavy():
    code = f"{HELP}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"torch", "transformers", "pydantic", "numpy", "peft", "datasets", "huggingface_hub", "jinja2"}
    assert loaded & heavy == set()


def test_exit_codes_are_those_of_the_process(tmp_path: Path):
    def code(*arguments: str) -> int:
        command = [sys.executable, "-m", "unidetox", *arguments]
        return subprocess.run(command, capture_output=True, check=False, env=environment()).returncode

    assert code("--version") == 0
    assert code("status", str(tmp_path)) == 2
    assert code("status", str(tmp_path / "no")) == 3


def test_an_interrupt_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch):
    from unidetox import api

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "status", interrupted)
    said = call("status", "run")
    assert said == Said(130, "", "error: interrupted. The same command goes on where it stopped\n")
