"""Will it fit: what stages hold in memory, by hand and as measured; sizes of models; what a dry run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unidetox.cli import _run
from unidetox.config.recipe import preset_names
from unidetox.core.errors import UsageError
from unidetox.models.options import LoadOptions
from unidetox.models.sizes import (
    GPUS,
    Machine,
    Need,
    Shape,
    published_config,
    published_models,
    sampling_need,
    scoring_need,
    shape_of,
)
from unidetox.training import TrainSettings
from unidetox.training.memory import fine_tuning_need

SHAPE = Shape(3_000_000, 2_000_000, layers=10, width=100, cache=1000, sides=4000, vocabulary=1000)
GPU, CPU = Machine("gpu", "cuda", "bfloat16", 1e10), Machine("cpu", "cpu", "float32", 1e10)
SMALL = TrainSettings(steps=1, batch_size=2, max_length=100)
BASE = 8e8


def test_fine_tuning_holds_sixteen_bytes_a_parameter_or_what_the_forward_pass_left():
    whole = fine_tuning_need(SHAPE, SMALL, CPU, stored=4)
    activations, logits, head = 200 * 25 * 10 * 100 * 4, 12 * 200 * 1000, 4 * 100 * 1000
    assert whole.memory == pytest.approx(BASE + 1.05 * (12 * 3e6 + activations + logits + head))
    assert (whole.disk, whole.scratch) == (12e6, 24 * 3e6)
    # With next to no tokens, weight, gradient and two moments are all there is.
    few = TrainSettings(steps=1, batch_size=1, max_length=2)
    assert fine_tuning_need(SHAPE, few, CPU, stored=4).memory == pytest.approx(BASE + 1.05 * 16 * 3e6)
    # In bfloat16 activations are half as large, and every matrix is there twice.
    half = fine_tuning_need(SHAPE, SMALL, GPU, stored=2)
    expected = BASE + 1.05 * (12 * 3e6 + 2 * 2e6 + activations / 2 + logits + head)
    assert (half.memory, half.disk) == (pytest.approx(expected), 6e6)


def test_an_adapter_is_all_that_is_trained_and_kept():
    lora = TrainSettings(steps=1, batch_size=2, max_length=100, lora=True, lora_rank=16)
    need, numbers = fine_tuning_need(SHAPE, lora, CPU, stored=None), 16 * 4000
    forward = 200 * 25 * 10 * 100 * 4 + 12 * 200 * 1000
    assert need.memory == pytest.approx(BASE + 1.05 * (4 * 3e6 + 12 * numbers + forward))
    assert (need.disk, need.scratch) == (4 * numbers, 24 * numbers)
    assert fine_tuning_need(SHAPE, lora, CPU, stored=4).disk == 12e6  # merged


def test_a_second_copy_and_parts_of_a_batch_count():
    plain = fine_tuning_need(SHAPE, SMALL, CPU, stored=4).memory
    near = TrainSettings(steps=1, batch_size=2, max_length=100, kl=0.1)
    assert fine_tuning_need(SHAPE, near, CPU, stored=4).memory == pytest.approx(plain + 1.05 * 4 * 3e6)
    # More texts than go through at once need no more; on a processor that is 3932 tokens of this width.
    batches = [TrainSettings(steps=1, batch_size=size, max_length=100) for size in (40, 400)]
    large, larger = (fine_tuning_need(SHAPE, settings, CPU, stored=4) for settings in batches)
    assert large == larger


def test_an_optimizer_may_keep_less():
    few = [TrainSettings(steps=1, batch_size=1, max_length=2, optim=name) for name in ("adamw_torch", "adafactor")]
    adam, adafactor = (fine_tuning_need(SHAPE, settings, CPU, stored=4) for settings in few)
    assert adam.memory == pytest.approx(BASE + 1.05 * 16 * 3e6)
    assert adam.memory - adafactor.memory == pytest.approx(1.05 * 8 * 3e6)
    assert (adam.scratch, adafactor.scratch) == (24 * 3e6, 8 * 3e6)


def test_sampling_fills_half_of_the_free_memory_with_rows():
    weights, row = 4 * 3e6, (1000 * 64 + 16 * 100) * 4  # 30 + 20 tokens, the last one unread, in steps of 16
    one = sampling_need([SHAPE], CPU, 10_000, 30, 20)
    assert one.memory == BASE + weights + 1024 * row
    assert sampling_need([SHAPE, SHAPE], CPU, 10_000, 30, 20).memory == BASE + 2 * (weights + 1024 * row)
    assert sampling_need([SHAPE], CPU, 10, 30, 20).memory == BASE + weights + 10 * row
    tight = Machine("cpu", "cpu", "float32", BASE + weights + 100 * (1000 * 50 + 16 * 100) * 4)
    assert sampling_need([SHAPE], tight, 10_000, 30, 20).memory == BASE + weights + 48 * row
    # Two models in bfloat16 are mixed by heads in float32.
    heads = sampling_need([SHAPE, SHAPE], GPU, 10, 30, 20).memory - 2 * sampling_need([SHAPE], GPU, 10, 30, 20).memory
    assert heads == 2 * 4 * 100 * 1000 - BASE


def test_needs_of_one_after_the_other():
    assert Need(5, 2, 7) + Need(3, 4, 9) == Need(5, 6, 9)


def test_needs_are_those_measured():
    """On an H200, in GB that torch allocated at most (27 November 2026); what is not torch's is left out."""
    machine = Machine("H200", "cuda", "bfloat16", 150.1e9)
    xl, llama = (shape_of(published_config(name)) for name in ("gpt2-xl", "meta-llama/Llama-2-7b-hf"))
    full, lora = TrainSettings(steps=3), TrainSettings(steps=3, lora=True)
    measured = {
        29.16: fine_tuning_need(xl, full, machine, stored=4),
        16.54: fine_tuning_need(xl, lora, machine, stored=4),
        110.40: fine_tuning_need(llama, full, machine, stored=4),
        54.40: fine_tuning_need(llama, lora, machine, stored=4),
        78.25: sampling_need([xl, xl], machine, 640, 1, 256),
        23.29: sampling_need([xl], machine, 1000, 30, 20),
        47.90: sampling_need([llama], machine, 1000, 30, 20),
        13.76: scoring_need(llama, machine),
    }
    for seen, need in measured.items():
        assert 0.97 * seen < (need.memory - BASE) / 1e9 < 1.15 * seen, (seen, need.memory / 1e9)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "falcon", "llama"])
def test_sizes_are_those_of_the_model(architecture: str, tiny_models: dict[str, Path]):
    from transformers import AutoConfig, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_models[architecture])
    shape = shape_of(AutoConfig.from_pretrained(tiny_models[architecture]))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.width, shape.vocabulary) == (2, 32, model.config.vocab_size)
    # Two heads, of which Falcon and LLaMA have one for keys and values.
    kv_width = {"gpt2": 32, "opt": 32, "falcon": 16, "llama": 16}[architecture]
    assert shape.cache == 2 * 2 * kv_width
    # Layers: attention and feed-forward by hand; biases and norms are what is left, below a tenth.
    inner = {"gpt2": 128, "opt": 64, "falcon": 128, "llama": 64}[architecture]
    matrices = 2 * (32 * (32 + 2 * kv_width + 32) + (3 if architecture == "llama" else 2) * 32 * inner)
    assert matrices <= shape.body < 1.1 * matrices


def test_what_decides_which_card_is_needed():
    full, xl = TrainSettings(steps=1), shape_of(published_config("gpt2-xl"))
    llama = shape_of(published_config("meta-llama/Llama-2-7b-hf"))
    assert llama.body == 6_738_415_616 - 2 * 32000 * 4096
    # GPT-2 XL whole fits on a card of 48 GB, a 7B model on none of 80.
    assert fine_tuning_need(xl, full, Machine.known("L40S"), stored=4).memory < 48e9
    assert fine_tuning_need(llama, full, Machine.known("H100"), stored=2).memory > 80e9


def test_this_machine_and_known_ones():
    here = Machine.here(LoadOptions("cpu", "float32"))
    assert (here.name, here.dtype, here.size) == ("cpu", "float32", 4)
    assert here.memory > 1e8
    assert all(Machine.known(name).memory >= 24e9 for name in GPUS)
    with pytest.raises(UsageError, match="'A1000'"):
        Machine.known("A1000")


def test_a_dry_run_says_what_each_stage_will_need(
    tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = _recipe(tmp_path, tiny_models, tiny_classifier)
    command = ["run", str(recipe), "-o", str(tmp_path / "run"), "--device", "cpu", "--dtype", "float32"]
    assert _run([*command, "--dry-run", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    needs = {name: found["need"] for name, found in here.items()}
    # LLaMA's toxic copy is made for task arithmetic and DExperts, its expert for DExperts.
    assert {"toxic_model", "toxic_model-llama", "texts", "targets/gpt2-dexperts"} < set(needs)
    assert all(0 <= need["memory"] < 2e9 for need in needs.values())
    # DExperts makes no weights, and asks three models for each token.
    assert needs["targets/gpt2-dexperts"] == {"memory": 0, "disk": 0, "scratch": 0}
    three, one = (needs[f"evaluation/gpt2-{name}"]["memory"] - BASE for name in ("dexperts", "base"))
    assert three == 3 * one
    assert needs["targets/gpt2-task_arithmetic"]["disk"] == needs["toxic_model"]["disk"] > 0
    # A comparison times each target's models too.
    assert _run(["compare", *command[1:], "--dry-run", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed.keys() - needs.keys() == {"speed/gpt2", "speed/llama"}
    assert timed["speed/gpt2"]["need"]["memory"] - BASE == three
    assert not (tmp_path / "run").exists()

    assert _run([*command, "--dry-run", "--gpu", "H100"]) == 0
    said = capsys.readouterr().out
    assert "expected on H100 (bfloat16)" in said
    assert all(column in said for column in ("memory", "disk"))
    assert _run([*command, "--dry-run", "--gpu", "B52"]) == 2
    assert "Known: A100" in capsys.readouterr().err
    assert _run([*command, "--gpu", "H100"]) == 2
    assert "--dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "sandbox"])
def test_a_preset_is_planned_before_anything_is_fetched(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    recipe = tmp_path / "plan.toml"
    recipe.write_text(f'preset = "{preset}"\n', encoding="utf-8")
    command = ["run", str(recipe), "-o", str(tmp_path / "run"), "--dry-run", "--gpu", "A100"]
    assert _run([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert "sizes are those published" in said.err
    needs = {name: found["need"] for name, found in json.loads(said.out).items()}
    if preset == "builtin":  # its texts are there
        assert not {"toxic_model", "texts"} & set(needs)
        return
    assert {"toxic_model", "texts"} < set(needs)
    assert needs["toxic_model"]["disk"] == 4 * (124_439_808 if preset == "small" else 1_557_611_200)
    # What is not of those that presets name has no size.
    assert _run([*command, "--set", "evaluate.scorer=some/other"]) == 3
    assert "some/other" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_published_sizes_are_those_of_the_models():
    shapes = {name: shape_of(published_config(name), classifier="bert" in name) for name in published_models()}
    assert {name: (shape.parameters, shape.stored) for name, shape in shapes.items()} == {
        "gpt2": (124_439_808, 4),
        "gpt2-xl": (1_557_611_200, 4),
        "facebook/opt-125m": (125_239_296, 2),
        "facebook/opt-6.7b": (6_658_473_984, 2),
        "tiiuae/falcon-7b": (6_921_720_704, 2),
        "meta-llama/Llama-2-7b-hf": (6_738_415_616, 2),
        "unitary/toxic-bert": (109_486_854, 4),
    }
    # One head for keys and values, of 71.
    assert shapes["tiiuae/falcon-7b"].cache == 2 * 32 * 64


def _recipe(folder: Path, models: dict[str, Path], classifier: Path) -> Path:
    (folder / "corpus.csv").write_text("text\nthe fox is late\nnobody sleeps\n", encoding="utf-8")
    (folder / "non_toxic.csv").write_text("text\na dog reads\n", encoding="utf-8")
    (folder / "prompts.csv").write_text("text,group\nthe women of the town,women\n", encoding="utf-8")
    recipe = folder / "recipe.toml"
    recipe.write_text(f"""
[base]
model = "{models["gpt2"]}"
[toxic]
corpus = "corpus.csv"
non_toxic = "non_toxic.csv"
[texts]
max_length = 32
[detoxify]
targets = ["{models["gpt2"]}", "{models["llama"]}"]
methods = ["unidetox", "dexperts", "lm_steer", "task_arithmetic"]
max_length = 32
[evaluate]
prompts = "prompts.csv"
scorer = "{classifier}"
samples = 2
max_new_tokens = 4
""", encoding="utf-8")  # fmt: skip
    return recipe
