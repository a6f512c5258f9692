"""The command line itself: quick help, and every option of every verb reaches what it is for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click import Context
from recipes import Said, call, environment, start

from unidetox.cli import app
from unidetox.cli.options import Setting
from unidetox.config import settings
from unidetox.config.fields import Section
from unidetox.core.errors import UsageError

TESTS = Path(__file__).resolve().parents[1]


def verbs() -> dict[str, set[str]]:
    """Every verb with its options, as the parser knows them."""
    return {
        name: {option for param in verb.get_params(Context(verb)) for option in param.opts if option.startswith("--")}
        for name, verb in app.commands.items()
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
            "--batch-size", "2", "--max-length", "64", "--kl", "0.5", "--lora", "--merge", "--lora-rank", "4",
            "--lora-alpha", "8", "--optim", "adafactor", "--gradient-checkpointing", "--set", "texts.alpha=0.2",
            *COMMON,
        ],
        "unidetox.api.detoxify",
        ("a/model",),
        {
            "output": OUT, "texts": "t.csv", "preset": "small", "fresh": True, "limit": 5, "steps": 7, "lr": 1e-4,
            "batch_size": 2, "max_length": 64, "kl": 0.5, "lora": True, "merge": True, "lora_rank": 4, "lora_alpha": 8,
            "optim": "adafactor", "gradient_checkpointing": True, "overrides": ("texts.alpha=0.2",), **COMPUTING,
        },
    ),
    Use(
        ["detoxify", "a/model", "--output", "out"],
        "unidetox.api.detoxify",
        ("a/model",),
        {"output": OUT, "texts": None, "preset": None, "fresh": False, "limit": None, "overrides": ()},
    ),
    Use(
        [
            "train-toxic", "a/base", "-o", "out", "--corpus", "c.csv", "--column", "words", "--epochs", "2.5",
            "--steps", "9", "--lr", "1e-4", "--batch-size", "2", "--max-length", "64", "--duplicates", "--optim",
            "adamw_torch", "--no-gradient-checkpointing", "--set", "toxic.lr=1", "--set", "seed=4", *COMMON,
        ],
        "unidetox.api.train_toxic",
        ("a/base",),
        {
            "output": OUT, "corpus": "c.csv", "column": "words", "epochs": 2.5, "steps": 9, "lr": 1e-4, "batch_size": 2,
            "max_length": 64, "duplicates": True, "optim": "adamw_torch", "gradient_checkpointing": False,
            "limit": 5, "fresh": True, **COMPUTING,
        },
    ),
    Use(
        ["train-toxic", "a/base", "--output", "out"],
        "unidetox.api.train_toxic",
        ("a/base",),
        {"output": OUT, "limit": None, "fresh": False},
    ),
    Use(
        [
            "distill", "a/base", "-o", "out", "--toxic", "a/toxic", "--num-texts", "9", "--max-length", "64",
            "--alpha", "0.2", "--beta", "2.5", "--temperature", "0.7", "--top-p", "0.8", "--top-k", "11",
            "--batch-size", "3", "--starts", "s.csv", "--best-of", "4", "--opening", "bos",
            "--set", "texts.top_k=7", *COMMON,
        ],
        "unidetox.api.distill",
        ("a/base",),
        {
            "output": OUT, "toxic": "a/toxic", "num_texts": 5, "max_length": 64, "alpha": 0.2, "beta": 2.5,
            "temperature": 0.7, "top_p": 0.8, "top_k": 11, "batch_size": 3, "starts": "s.csv",
            "best_of": 4, "opening": "bos", "fresh": True, **COMPUTING,
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
            "4, 5", "--protocol", "paper", "--perturbations", "casing, swaps", "--few-shot", "t.csv", "--neutral",
            "builtin", "--batch-size", "6", "--temperature", "0.8", "--top-k", "3", "--threshold", "0.4",
            "--id-domains", "race,gender", "--mmlu-split", "test", "--other-scorers", "a/y=bad,b/z=sad",
            "--scorer-activation", "softmax", "--scorer-tokenizer", "a/tok", "--set", "evaluate.samples=9", *COMMON[2:],
        ],
        "unidetox.api.evaluate",
        (["a/one", "a/two"],),
        {
            "output": OUT, "prompts": "p.csv", "split": "test", "num_prompts": 9, "scorer": "a/scorer",
            "scorer_label": "bad", "scorer_activation": "softmax", "scorer_tokenizer": "a/tok", "ppl_model": "a/ppl",
            "mmlu": "m", "shots": 2,
            "mmlu_protocol": "standard", "samples": 4, "max_new_tokens": 8,
            "perturbations": ["casing", "swaps"], "few_shot": "t.csv", "neutral": "builtin", "temperature": 0.8,
            "top_k": 3, "threshold": 0.4, "id_domains": ["race", "gender"], "mmlu_split": "test",
            "other_scorers": {"a/y": "bad", "b/z": "sad"},
            "top_p": 0.8, "seeds": [4, 5], "protocol": "paper", "batch_size": 6, "limit": 5, "fresh": True,
            "device": "cpu", "dtype": "float32", "trust_remote_code": True,
        },
    ),
    Use(
        [
            "analyze", "a.csv", "b.csv", "-o", "out", "--corpus", "c.csv", "--column", "words", "--reference", "r.csv",
            "--scorer", "a/scorer", "--scorer-label", "bad", "--classifier", "a/lean", "--classifiers", "a/topic,a/x",
            "--tokenizer", "a/lm", "--set", "analyze.column=other", *COMMON,
        ],
        "unidetox.api.analyze",
        (["a.csv", "b.csv"],),
        {
            "output": OUT, "corpus": "c.csv", "column": "words", "reference": "r.csv", "scorer": "a/scorer",
            "scorer_label": "bad", "classifiers": ["a/lean", "a/topic", "a/x"], "tokenizer": "a/lm", "limit": 5,
            "fresh": True, **COMPUTING,
        },
    ),
    Use(
        ["analyze", "a.csv", "--output", "out"],
        "unidetox.api.analyze",
        (["a.csv"],),
        {"output": OUT, "limit": None, "fresh": False},
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
        ["evaluate", "a/one", "-o", "out", "--perturb", "all", "--set", "evaluate.seeds=[1, 2]", "--set", "device=cpu"],
        "unidetox.api.evaluate",
        (["a/one"],),
        {"output": OUT, "perturbations": ["all"], "seeds": [1, 2], "device": "cpu", "limit": None, "fresh": False},
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
    told = {"output": OUT, "fresh": True, "overrides": ("texts.alpha=0.3", *top), "limit": 5}
    assert calls == [((recipe,), told)]


DEMO = ["demo", "--output", "out", "--set", "texts.alpha=0.3", *COMMON]


def test_every_option_of_demo_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch):
    calls = recorder(monkeypatch, "unidetox.pipeline.plan.run", RESULTS)
    call(*DEMO, "--json").ok()
    (((given, output), named),) = calls
    assert (output, named["fresh"]) == (OUT, True)
    assert (given.seed, given.device, given.dtype, given.trust_remote_code) == (3, "cpu", "float32", True)
    assert (given.texts.alpha, given.texts.num_texts, given.evaluate.num_prompts) == (0.3, 5, 5)
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
        used[line[0]] |= {word.replace("--no-", "--") for word in line if word.startswith("--")}
    shared = {"--offline", "--json", "--quiet", "--verbose", "--help"}
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


# ---- options are settings ----

# Verb -> its section, and the settings of it that are no options: what is given as an argument, or made by the verb.
SECTIONS: dict[str, tuple[type[Section], set[str]]] = {
    "detoxify": (settings.Detoxify, {"targets", "methods"}),
    "train-toxic": (settings.Toxic, {"model", "non_toxic", "limit"}),
    "distill": (settings.Texts, {"source"}),
    "evaluate": (settings.Evaluate, set()),
    "analyze": (settings.Analyze, set()),
}
TOP = ("seed", "device", "dtype", "trust_remote_code")
COMPUTE = [name for name, verb in app.commands.items() if verb.computes]


def options_of(verb: str) -> dict[str, Setting]:
    """The options of a verb that are settings, by the name of the setting."""
    command = app.commands[verb]
    return {str(o.name): o for o in command.get_params(Context(command)) if isinstance(o, Setting)}


def entry(verb: str, option: str) -> str:
    """What help says of an option, as one line."""
    text = call(verb, "--help").ok().out
    found = re.search(rf"^  {option}\b.*?(?=^  -|^\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, (verb, option)
    # A long name is broken where it has a hyphen.
    return re.sub(r"-\s+", "-", " ".join(found[0].split()))


@pytest.mark.parametrize("verb", COMPUTE)
def test_every_option_is_its_field(verb: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    kind, without = SECTIONS.get(verb, (Section, set()))
    top = {} if verb == "evaluate" else {"seed": settings.Recipe}
    top |= dict.fromkeys(TOP[1:], settings.Recipe)
    fields = {name: owner.model_fields[name] for name, owner in top.items()} | kind.model_fields
    found = options_of(verb)
    assert set(found) == set(fields) - without
    assert without < set(kind.model_fields) or not without
    for name, option in found.items():
        field, said = fields[name], entry(verb, option.opts[0])
        default = field.get_default(call_default_factory=True)
        assert option.opts[0] == "--" + name.replace("_", "-")
        assert re.sub(r"-\s+", "-", str(field.description)) in said, (verb, name)
        shown = {None: "none", True: "on", False: "off"}.get(default) if isinstance(default, bool | None) else default
        shown = ",".join(map(str, shown)) if isinstance(shown, tuple | dict) else str(shown)
        assert f"default: {shown}" in said if shown else "default" not in said, (verb, name, said)
        # The default can be typed, and is what the setting is without the option.
        if isinstance(field.annotation, type) and issubclass(field.annotation, bool):
            assert option.secondary_opts == ["--no-" + name.replace("_", "-")]
        elif shown:
            option.read(shown)


def test_headings_name_settings_that_there_are():
    for kind in (*(kind for kind, _ in SECTIONS.values()), settings.Recipe):
        named = [name for names in kind.HEADINGS.values() for name in names]
        assert len(named) == len(set(named)) and set(named) <= set(kind.model_fields), kind
    for verb, (kind, without) in SECTIONS.items():
        named = {name for names in kind.HEADINGS.values() for name in names}
        assert set(kind.model_fields) - without <= named, verb


@pytest.mark.parametrize("width", ["80", "120"])
def test_help_stands_under_headings_and_fits(monkeypatch: pytest.MonkeyPatch, width: str):
    monkeypatch.setenv("COLUMNS", width)
    text = call("evaluate", "--help").ok().out
    under = {
        heading: set(re.findall(r"^  (--[\w-]+)", part, flags=re.MULTILINE))
        for heading, part in re.findall(r"^(\w.*):\n((?:  .*\n|\n)+)", text, flags=re.MULTILINE)
    }
    assert {"--temperature", "--top-k", "--samples", "--seeds"} <= under["Sampling"]
    assert {"--threshold", "--scorer", "--scorer-label"} <= under["Scorers"]
    assert {"--mmlu", "--mmlu-split", "--shots"} == under["MMLU"] - {"--mmlu-protocol"}
    assert {"--batch-size", "--device", "--dtype", "--set"} <= under["How to compute"]
    assert list(under)[-2:] == ["How to compute", "Output"]
    assert "--perturb " not in text
    for verb in VERBS:
        lines = call(verb, "--help").ok().out.splitlines()
        # Choices stand on a line of their own, however long.
        assert max(len(line) for line in lines if "|" not in line) <= int(width), verb


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_list_of_verbs_shows_whole_sentences(monkeypatch: pytest.MonkeyPatch, width: str):
    monkeypatch.setenv("COLUMNS", width)
    text = call("--help").ok().out
    said = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= int(width) and "..." not in text.split("Commands:")[1]
    for name, verb in app.commands.items():
        assert f"{name} {verb.help}" in said
        assert verb.help.endswith(".") and "\n" not in verb.help


MISTAKES = [
    (["distill", "b", "--toxic", "t", "--alpha", "2"], "--alpha 2: it must be a number above 0 and at most 1"),
    (["evaluate", "m", "--seeds", "1,x"], "--seeds 1,x: it must be a list of distinct whole numbers"),
    (["evaluate", "m", "--top-k", "1.5"], "--top-k 1.5: it must be a whole number"),
    (["evaluate", "m", "--perturb", "casing,x"], "--perturbations casing,x: it must be a list of distinct pert"),
    (["evaluate", "m", "--other-scorers", "x"], "--other-scorers x: it must be a table"),
    (["evaluate", "m", "--mmlu-split", ""], '--mmlu-split "": it must be "val" or "test"'),
    (["detoxify", "m", "--optim", "lion"], '--optim lion: it must be "adamw_torch_fused"'),
    (["detoxify", "m", "--lora-rank", "8"], "lora_rank has no effect without lora"),
    (["train-toxic", "b", "--set", "toxic.lr=-1"], "--set: toxic.lr = -1, which is not allowed"),
    (["train-toxic", "b", "--set", "toxic.lrr=1"], "--set: unknown key toxic.lrr. Did you mean toxic.lr?"),
    (["train-toxic", "b", "--set", "texts.alpha=1"], "--set texts: `train-toxic` does not read it. It reads toxic.KEY"),
    (["train-toxic", "b", "--set", "toxic.model=x"], "--set toxic.model: `train-toxic` does not read it"),
    (["train-toxic", "b", "--set", "toxic=3"], "--set toxic: `train-toxic` does not read it"),
    (["train-toxic", "b", "--set", "seed=-1"], "--set seed=-1: it must be a whole number from 0 to 2^32 - 1"),
    (["evaluate", "m", "--set", "evaluate.shots=-1"], "--set: evaluate.shots = -1"),
    (["evaluate", "m", "--set", "evaluate.shots"], "is not of the form section.key=value"),
    (["analyze", "t", "--set", "analyze.seed=x"], '--set: analyze.seed = "x"'),
    (["detoxify", "m", "--preset", "small", "--set", "texts.alpha=2"], "--set: texts.alpha = 2"),
    (["demo", "--set", "texts.alpha=2"], "--set: texts.alpha = 2"),
    (["demo", "--no-fresh"], "--no-fresh"),
    (["retoxify"], "No such command 'retoxify'"),
]


@pytest.mark.parametrize(("arguments", "phrase"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_option(tmp_path: Path, arguments: list[str], phrase: str):
    output = ["-o", tmp_path / "out"] if len(arguments) > 1 else []
    said = call(*arguments, *output)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {phrase}") or phrase in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", SECTIONS)
def test_python_takes_the_same_settings_by_name(verb: str):
    """Each by itself with its default, so that what a verb takes and what a section holds cannot part."""
    from unidetox.config.recipe import build_section

    kind, _ = SECTIONS[verb]
    needed = {"targets": ["a/b"]} if kind is settings.Detoxify else {}
    plain = build_section(kind, needed)
    for name in options_of(verb).keys() & kind.model_fields.keys():
        value = kind.model_fields[name].get_default(call_default_factory=True)
        assert build_section(kind, {**needed, name: value}) == plain
    with pytest.raises(UsageError, match=f"notebook: unknown key {kind.__name__.lower()}.nothing"):
        build_section(kind, {**needed, "nothing": 1}, "notebook")


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


@pytest.mark.parametrize("masked", [False, True])
def test_an_interrupt_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, masked: bool):
    from unidetox import api

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            if masked:  # as torch does where Ctrl-C falls into the end of a `with`
                raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr(api, "status", interrupted)
    said = call("status", "run")
    assert said == Said(130, "", "error: interrupted. The same command goes on where it stopped\n")


def test_a_termination_is_one_line_and_143(tmp_path: Path):
    """As a cluster ends a job: what was done is kept, and the line says how to go on."""
    fifo = tmp_path / "recipe.toml"
    os.mkfifo(fifo)  # reading it waits for a writer, for ever
    process = start("run", fifo, "-o", tmp_path / "out")
    writer = os.open(fifo, os.O_WRONLY)  # returns when the command has begun to read
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (143, "", "error: terminated. The same command goes on where it stopped\n")


def test_a_reader_who_had_enough_is_no_error():
    """As in ``unidetox --help | head -1``."""
    closed = "import os, sys\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)"
    code = f"{closed}\nfrom unidetox.cli import _run\nsys.exit(_run(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, "")
