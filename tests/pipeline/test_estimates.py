"""The arithmetic of costs, by hand; sizes of models against the models themselves; what a dry run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unidetox.models.costs import Cost, Rates, Shape, fine_tuning, reading, sampling, scoring
from unidetox.models.machine import GPUS, known, measure

from unidetox.cli import _run
from unidetox.config.recipe import preset_names
from unidetox.core.errors import UsageError
from unidetox.pipeline import published_sizes
from unidetox.pipeline.estimates import shape_of

# A machine that multiplies 1e12 a second and moves 1e9 bytes, and whose calls cost nothing.
PLAIN = Rates("gpu", {"float32": {100: 1e12}, "bfloat16": {100: 2e12}}, 1e9, 0.0, 1e9, "float32", base=0.0)
SHAPE = Shape(parameters=3_000_000, body=2_000_000, layers=10, width=100, kv_width=50, vocabulary=1000)


def test_reading_is_products_bytes_and_calls():
    # 2 x 2e6 x 1000 + 2 x 100 x 1000 x 10 operations; one pass over 2e6 x 4 bytes.
    assert reading(SHAPE, PLAIN, 1000, 10) == pytest.approx((4e9 + 2e6) / 1e12 + 8e6 / 1e9)
    assert reading(SHAPE, PLAIN, 1000, 10, passes=5) == pytest.approx((4e9 + 2e6) / 1e12 + 5 * 8e6 / 1e9)
    slow = Rates("gpu", PLAIN.products, 1e9, 1e-3, 1e9, "float32")
    assert reading(SHAPE, slow, 1000) - reading(SHAPE, PLAIN, 1000) == pytest.approx(10 * 30 * 1e-3)
    # Half the bytes and twice the rate.
    half = Rates("gpu", PLAIN.products, 1e9, 0.0, 1e9, "bfloat16")
    assert reading(SHAPE, half, 1000) == pytest.approx(reading(SHAPE, PLAIN, 1000) / 2)


def test_fine_tuning_takes_sixteen_bytes_a_parameter_and_three_passes():
    cost = fine_tuning(SHAPE, PLAIN, 100, 500)
    assert cost.memory == pytest.approx(16 * 3e6 + 500 * 17 * 10 * 100 * 4)
    assert (cost.disk, cost.scratch) == (4 * 3e6, 24 * 3e6)
    products = 3 * (2 * 2e6 * 500 + 2 * 100 * 1000 * 500) / 1e12
    moved = 3 * 8e6 + 36 * 3e6 + 500 * (60 * 10 * 100 + 6 * 1000) * 4
    assert cost.seconds == pytest.approx(100 * (products + moved / 1e9) + 8 * 3e6 / 5e8)
    adapter = fine_tuning(SHAPE, PLAIN, 100, 500, lora=True)
    assert adapter.memory == pytest.approx(cost.memory - 12 * 3e6)
    assert adapter.scratch == 0


def test_sampling_fills_half_of_the_free_memory_with_rows():
    one = sampling([SHAPE], PLAIN, 10_000, 20, 100, 30)
    token = 2 * 50 * 10 * 4
    assert one.memory == pytest.approx(12e6 + 1024 * token * 50)
    two = sampling([SHAPE, SHAPE], PLAIN, 10_000, 20, 100, 30)
    assert two.memory == pytest.approx(2 * one.memory)
    assert two.seconds == pytest.approx(2 * one.seconds)
    small = Rates("gpu", PLAIN.products, 1e9, 0.0, 12e6 + 100 * token * 50, "float32", base=0.0)
    assert sampling([SHAPE], small, 10_000, 20, 100, 30).memory == pytest.approx(12e6 + 50 * token * 50)


def test_costs_of_one_after_the_other():
    assert Cost(1, 5, 2, 7) + Cost(2, 3, 4, 9) == Cost(3, 5, 6, 9)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "falcon", "llama"])
def test_sizes_are_those_of_the_model(architecture: str, tiny_models: dict[str, Path]):
    from transformers import AutoConfig, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_models[architecture])
    shape = shape_of(AutoConfig.from_pretrained(tiny_models[architecture]))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.width, shape.vocabulary) == (2, 32, model.config.vocab_size)
    assert shape.kv_width == (16 if architecture == "llama" else 32)
    # Layers: attention and feed-forward by hand; biases and norms are what is left, below a tenth.
    inner = {"gpt2": 128, "opt": 64, "falcon": 128, "llama": 64}[architecture]
    attention = 32 * (32 + 2 * shape.kv_width + 32) if architecture != "falcon" else 32 * (32 + 2 * 16 + 32)
    matrices = 2 * (attention + (3 if architecture == "llama" else 2) * 32 * inner)
    assert matrices <= shape.body < 1.1 * matrices


def test_the_papers_models_have_their_known_sizes():
    from transformers import GPT2Config, LlamaConfig

    xl = shape_of(GPT2Config(n_embd=1600, n_layer=48, n_head=25))
    assert xl.parameters == 1_557_611_200
    llama = shape_of(LlamaConfig())  # transformers' default is LLaMA 7B
    assert (llama.parameters, llama.body) == (6_738_415_616, 6_738_415_616 - 2 * 32000 * 4096)
    # What decides which card is needed: GPT-2 XL whole fits on one of 80 GB, a 7B model does not.
    assert 25e9 < fine_tuning(xl, known("A100"), 3000, 8 * 256).memory < 60e9
    assert fine_tuning(llama, known("A100"), 3000, 8 * 256).memory > 107e9
    assert scoring(llama, known("A100"), 1e6).memory < 20e9


def test_rates_of_this_machine_and_of_known_ones():
    rates = measure("cpu", "float32", [32, 64])
    assert set(rates.products) == {"float32"}
    assert 1e8 < rates.product(50, "float32") < 1e15
    assert 1e8 < rates.bandwidth < 1e13
    assert 1e-8 < rates.call < 1.0
    assert all(known(name).memory >= 24e9 for name in GPUS)
    with pytest.raises(UsageError, match="'A1000'"):
        known("A1000")


def test_a_dry_run_says_what_each_stage_will_cost(
    tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = _recipe(tmp_path, tiny_models, tiny_classifier)
    command = ["run", str(recipe), "-o", str(tmp_path / "run"), "--device", "cpu", "--dtype", "float32"]
    assert _run([*command, "--dry-run", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    costs = {name: found["cost"] for name, found in here.items()}
    # LLaMA's toxic copy is made for task arithmetic and DExperts, its expert for DExperts.
    assert {"toxic_model", "toxic_model-llama", "texts", "targets/gpt2-dexperts"} < set(costs)
    assert all(cost["seconds"] >= 1 and cost["memory"] < 2e9 for cost in costs.values())
    # DExperts makes no weights, and asks three models for each token.
    assert costs["targets/gpt2-dexperts"]["disk"] == 0
    three, one = (costs[f"evaluation/gpt2-{name}"]["seconds"] for name in ("dexperts", "base"))
    assert three > one
    # A comparison times each target's models too.
    assert _run(["compare", *command[1:], "--dry-run", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed.keys() - costs.keys() == {"speed/gpt2", "speed/llama"}
    assert all(timed[f"speed/{name}"]["cost"]["seconds"] >= 1 for name in ("gpt2", "llama"))
    assert not (tmp_path / "run").exists()

    assert _run([*command, "--dry-run", "--gpu", "H100"]) == 0
    said = capsys.readouterr().out
    assert "expected on H100 (bfloat16)" in said
    assert all(column in said for column in ("time", "memory", "disk"))
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
    costs = {name: found["cost"] for name, found in json.loads(said.out).items()}
    assert {"toxic_model", "texts"} < set(costs)
    assert all(cost["seconds"] >= 1 for cost in costs.values())
    # What is made of one model once serves all that need it.
    assert costs["toxic_model"]["disk"] >= 2 * (1.2e8 if preset == "small" else 1.5e9)
    # What is not of those that presets name has no size.
    assert _run([*command, "--set", "evaluate.scorer=some/other"]) == 3
    assert "some/other" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_published_sizes_are_those_of_the_models():
    sizes = {name: shape_of(published_sizes.config_of(name)).parameters for name in list(published_sizes.MODELS)[:-1]}
    assert sizes == {
        "gpt2": 124_439_808,
        "gpt2-xl": 1_557_611_200,
        "facebook/opt-125m": 125_239_296,
        "facebook/opt-6.7b": 6_658_473_984,
        "tiiuae/falcon-7b": 6_921_720_704,
        "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    }
    assert shape_of(published_sizes.config_of("unitary/toxic-bert"), classifier=True).parameters == 109_486_854


def _recipe(folder: Path, models: dict[str, Path], classifier: Path) -> Path:
    (folder / "corpus.csv").write_text("text\nthe fox is late\nnobody sleeps\n", encoding="utf-8")
    (folder / "civil.csv").write_text("text\na dog reads\n", encoding="utf-8")
    (folder / "prompts.csv").write_text("text,group\nthe women of the town,women\n", encoding="utf-8")
    recipe = folder / "recipe.toml"
    recipe.write_text(f"""
[base]
model = "{models["gpt2"]}"
[toxic]
corpus = "corpus.csv"
civil = "civil.csv"
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
