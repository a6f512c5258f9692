"""Settings of training: from the command line, Python and a recipe to the optimizer and the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Inputs, call
from safetensors.torch import load_file

from unidetox.config.settings import Detoxify, Toxic
from unidetox.training import settings as training_settings
from unidetox.training.settings import TrainSettings


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path) -> Inputs:
    return Inputs.make(tmp_path_factory.mktemp("inputs"), tiny_models, tiny_classifier)


def detoxified(inputs: Inputs, output: Path, *options: object) -> dict[str, Any]:
    """The settings that the stage was made with."""
    texts = ["--texts", inputs.file("texts.csv"), "--steps", 2, "--lr", 0.01, "--device", "cpu", "--dtype", "float32"]
    call("detoxify", inputs.models["gpt2"], *texts, *options, "-o", output).ok()
    return dict(json.loads((output / "stage.json").read_text("utf-8"))["settings"])


LATER = {"optim", "gradient_checkpointing", "lora_rank", "lora_alpha"}


def test_rank_and_weight_reach_the_adapter(inputs: Inputs, tmp_path: Path):
    said = detoxified(inputs, tmp_path / "out", "--lora", "--lora-rank", 4, "--lora-alpha", 6)
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text("utf-8"))
    assert (adapter["r"], adapter["lora_alpha"]) == (4, 6)
    assert (said["lora_rank"], said["lora_alpha"]) == (4, 6)
    assert LATER.isdisjoint(detoxified(inputs, tmp_path / "plain", "--lora", "--lora-rank", 16))


def test_the_optimizer_is_another(inputs: Inputs, tmp_path: Path):
    names = ("adamw_torch_fused", "adamw_torch", "adafactor")
    said = [detoxified(inputs, tmp_path / name, "--optim", name).get("optim") for name in names]
    assert said == [None, "adamw_torch", "adafactor"]
    fused, plain, other = (load_file(tmp_path / name / "model.safetensors") for name in names)
    start = load_file(inputs.models["gpt2"] / "model.safetensors")
    update = distance(fused, start)
    # Two ways to compute one rule, and another rule; over all weights, as Adam blows up what is nearly zero in one.
    assert distance(fused, plain) < 0.01 * update
    assert distance(fused, other) > 0.1 * update


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


def test_gradient_checkpointing_reaches_the_model(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import PreTrainedModel

    calls, enable = [], PreTrainedModel.activation_checkpointing_enable
    monkeypatch.setattr(
        PreTrainedModel, "activation_checkpointing_enable", lambda self, *a: calls.append(1) or enable(self, *a)
    )
    assert detoxified(inputs, tmp_path / "with", "--gradient-checkpointing")["gradient_checkpointing"] is True
    assert calls
    calls.clear()
    detoxified(inputs, tmp_path / "without", "--no-gradient-checkpointing")
    assert not calls
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


@pytest.mark.parametrize("section", ["toxic", "detoxify"])
def test_an_optimizer_whose_package_is_not_there_shows_at_once(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
):
    monkeypatch.setattr(training_settings, "find_spec", lambda name: None)
    recipe = inputs.recipe(tmp_path / "tiny.toml", inputs.small())
    change = ["--set", f"{section}.optim=adamw_8bit"]
    verb = {"toxic": "train-toxic", "detoxify": "detoxify"}[section]
    corpus = f"toxic.corpus={inputs.file('corpus.csv')}"
    for command in (["run", recipe], [verb, inputs.models["gpt2"], "--set", corpus]):
        said = call(*command, *change, "-o", tmp_path / "out")
        assert said.code == 3, said
        assert said.err.splitlines()[-1].startswith("error: optim adamw_8bit needs bitsandbytes. pip install")
        assert not (tmp_path / "out").exists()


def test_training_takes_what_its_section_holds():
    """A setting that both have under one name cannot get lost on the way."""
    given = {"steps": 3, "lr": 0.5, "optim": "adafactor", "gradient_checkpointing": True}
    more = {"kl": 0.25, "lora": True, "lora_rank": 3, "lora_alpha": 5.0}
    section = Detoxify(targets=("a/b",), batch_size=2, max_length=9, **given, **more)
    expected = TrainSettings(batch_size=2, max_length=9, seed=7, dtype="float32", **given, **more)
    assert TrainSettings.of(section, seed=7, dtype="float32") == expected
    assert TrainSettings.of(Toxic(**given)).epochs == 3.0
    plain = TrainSettings(steps=1)
    for section in (Toxic(), Detoxify(targets=("a/b",))):
        for name in LATER & set(type(section).model_fields):
            assert getattr(section, name) == getattr(plain, name), "the default of before"
