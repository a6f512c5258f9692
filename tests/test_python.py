"""The public functions in programs of all kinds: what they are given, and that they leave everything as it was."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub.utils import are_progress_bars_disabled
from recipes import Inputs, environment
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import unidetox
from unidetox.core.errors import MissingError, UsageError
from unidetox.data import Text

TEXTS = ["the quick brown fox jumps", "she reads a book about the river"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)


def trained(inputs: Inputs, texts: Any, **settings: Any) -> dict[str, torch.Tensor]:
    """The weights after two steps on some texts."""
    folder = inputs.models["gpt2"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    told = {"steps": 2, "lr": 1e-3, "dtype": "float32"} | settings
    return unidetox.detoxify_model(model, tokenizer, texts, **told).state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def measured(inputs: Inputs, output: Path) -> list[tuple[Any, ...]]:
    """All numbers of an evaluation."""
    results = unidetox.evaluate(
        inputs.models["gpt2"], prompts=inputs.file("prompts.csv"), scorer=str(inputs.scorer), samples=2,
        max_new_tokens=4, ppl_model=str(inputs.models["llama"]), mmlu=inputs.file("mmlu"), device="cpu",
        dtype="float32", output=output,
    )  # fmt: skip
    return [tuple(row[key] for key in ("metric", "domain", "group", "value")) for row in results["rows"]]


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS), (text for text in TEXTS), pd.Series(TEXTS), np.array(TEXTS), [Text(text) for text in TEXTS],
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
    ],
    ids=["tuple", "generator", "series", "array", "ours", "column"],
)  # fmt: skip
def test_texts_in_any_list(inputs: Inputs, texts: Any):
    assert equal(trained(inputs, texts), trained(inputs, TEXTS))


@pytest.mark.parametrize(
    "texts",
    [
        "a text", "texts.csv", Path("texts.csv"), b"a text", None, 3, {"text": TEXTS}, pd.DataFrame({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS}), [b"a text"], ["a text", None], ["a text", float("nan")],
        pd.Series(["a text", pd.NA], dtype="string"), [{"text": "a text"}], [1, 2], [TEXTS], np.array([TEXTS]),
        [Path("texts.csv")], [Text(None)], ["half \ud800"], [], [""],  # type: ignore[arg-type]
    ],
    ids=lambda texts: f"{texts!r:.20}".strip(),
)  # fmt: skip
def test_what_is_no_list_of_texts(inputs: Inputs, texts: Any):
    with pytest.raises(UsageError, match="text"):
        trained(inputs, texts)


@pytest.mark.parametrize("model", ["gpt2", Path("gpt2"), None, ["gpt2"]])
def test_names_where_loaded_models_are_meant(inputs: Inputs, model: Any):
    tokenizer = AutoTokenizer.from_pretrained(inputs.models["gpt2"])
    for both in ((model, tokenizer), (tokenizer, tokenizer), (torch.nn.Linear(1, 1), tokenizer)):
        with pytest.raises(UsageError, match=r"are no model and tokenizer. .*unidetox\.detoxify"):
            unidetox.detoxify_model(*both, TEXTS)
    with pytest.raises(UsageError, match="is no model"):
        unidetox.ContrastiveLogitsProcessor(model)


ODD = [None, 3, float("nan"), b"gpt2", {"a": 1}, [None], ["gpt2", b"x"], torch.nn.Linear(1, 1)]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: f"{odd!r:.20}")
def test_what_is_no_name(tmp_path: Path, odd: Any):
    model = "sandbox:gpt2"
    calls: list[Callable[[], Any]] = [
        lambda: unidetox.evaluate(odd, output=tmp_path / "out"),
        lambda: unidetox.analyze(odd),
        lambda: unidetox.analyze("sandbox:toxic_corpus.csv", classifiers=odd),
        lambda: unidetox.train_toxic(odd, output=tmp_path / "out"),
        lambda: unidetox.distill(odd, toxic=model, output=tmp_path / "out"),
        lambda: unidetox.distill(model, toxic=odd, output=tmp_path / "out"),
        lambda: unidetox.detoxify(odd, output=tmp_path / "out"),
        lambda: unidetox.detoxify(model, texts=odd or b"", output=tmp_path / "out"),
        lambda: unidetox.detoxify(model, overrides=odd, output=tmp_path / "out"),
        lambda: unidetox.run(odd, output=tmp_path / "out"),
        lambda: unidetox.tune(odd, output=tmp_path / "out"),
        lambda: unidetox.api.compare(odd, output=tmp_path / "out"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"is no (name|list)"):
            call()
    assert not (tmp_path / "out").exists()


def test_one_name_where_several_may_be(tmp_path: Path):
    told = "texts.alpha = 7"
    for overrides in (told, [told], iter([told])):
        with pytest.raises(UsageError, match=r"texts\.alpha"):
            unidetox.detoxify("sandbox:gpt2", overrides=overrides, output=tmp_path / "out")
    with pytest.raises(MissingError, match="nowhere"):
        unidetox.api.compare(str(tmp_path / "nowhere"), output=tmp_path / "out")


def everything() -> dict[str, Any]:
    """All that a program may have set up."""
    known = {name: log for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    return {
        "environment": dict(os.environ),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": {name: (log.level, len(log.handlers)) for name, log in known.items() if log.level or log.handlers},
        "transformers": (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()),
        "downloads": are_progress_bars_disabled(),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.excepthook),
        "accelerate": [str(kind._shared_state) for kind in (AcceleratorState, GradientState, PartialState)],
        "folder": Path.cwd(),
    }


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_of_the_caller_s_is_changed(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
):
    verbosity = transformers_logging.get_verbosity()
    (transformers_logging.disable_progress_bar if quiet else transformers_logging.enable_progress_bar)()
    transformers_logging.set_verbosity_error() if quiet else transformers_logging.set_verbosity_info()
    folder = inputs.models["gpt2"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    AcceleratorState._reset_state(True)
    Accelerator(mixed_precision="bf16", cpu=True)
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher leaves it
    texts = inputs.file("texts.csv")

    def failing(call: Callable[[], Any]) -> Callable[[], Any]:
        def fails() -> None:
            with pytest.raises(UsageError):
                call()

        return fails

    calls: list[Callable[[], Any]] = [
        lambda: unidetox.detoxify_model(model, tokenizer, TEXTS, steps=1),
        failing(lambda: unidetox.detoxify_model(model, tokenizer, [""], steps=1)),
        lambda: measured(inputs, tmp_path / "evaluation"),
        failing(lambda: unidetox.evaluate(inputs.scorer, output=tmp_path / "failed")),
        lambda: unidetox.analyze(texts, scorer=inputs.scorer, tokenizer=folder),
        lambda: unidetox.train_toxic(folder, corpus=inputs.file("corpus.csv"), steps=1, output=tmp_path / "toxic"),
        lambda: unidetox.distill(
            folder, toxic=tmp_path / "toxic", num_texts=2, max_length=8, output=tmp_path / "texts"
        ),
        lambda: unidetox.detoxify(folder, texts=texts, steps=1, lora=True, output=tmp_path / "model"),
    ]
    try:
        for call in calls:
            before = everything()
            call()
            assert everything() == before
    finally:
        AcceleratorState._reset_state(True)
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


@pytest.mark.parametrize(
    "mode",
    [torch.float64, torch.bfloat16, torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta")],
)
def test_settings_of_torch_are_not_felt(inputs: Inputs, tmp_path: Path, mode: Any):
    folder = inputs.models["gpt2"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    numbers, weights = measured(inputs, tmp_path / "plain"), trained(inputs, TEXTS)
    if isinstance(mode, torch.dtype):
        torch.set_default_dtype(mode)
        try:
            found = measured(inputs, tmp_path / "other")
            model = unidetox.detoxify_model(model, tokenizer, TEXTS, steps=2, lr=1e-3, dtype="float32")
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with mode:
            found = measured(inputs, tmp_path / "other")
            model = unidetox.detoxify_model(model, tokenizer, TEXTS, steps=2, lr=1e-3, dtype="float32")
    assert found == numbers and equal(model.state_dict(), weights)


def test_variables_of_launchers_are_not_felt(inputs: Inputs, monkeypatch: pytest.MonkeyPatch):
    weights = trained(inputs, TEXTS)
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_TORCH_DEVICE": "meta", "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DYNAMO_BACKEND": "inductor", "ACCELERATE_USE_FSDP": "true", "LOCAL_RANK": "1", "RANK": "1",
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2",
        "WANDB_MODE": "online", "TRANSFORMERS_VERBOSITY": "debug",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert equal(trained(inputs, TEXTS), weights)


def test_in_a_thread_of_its_own(inputs: Inputs, tmp_path: Path):
    found: list[Any] = []

    def work() -> None:
        found.append(measured(inputs, tmp_path / "thread"))
        found.append(trained(inputs, TEXTS))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] == measured(inputs, tmp_path / "main") and equal(found[1], trained(inputs, TEXTS))


class Writes:
    """No file, only what it can do."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("stream", [None, Writes()])
def test_streams_that_are_no_files(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Any):
    folder = inputs.models["gpt2"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    assert measured(inputs, tmp_path / "out")
    unidetox.detoxify_model(model, tokenizer, TEXTS, steps=1)
    unidetox.analyze(inputs.file("texts.csv"), scorer=inputs.scorer)


def test_loading_the_package_draws_no_numbers():
    code = "import random\nbefore = random.getstate()\nfrom unidetox import run\nassert before == random.getstate()"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
