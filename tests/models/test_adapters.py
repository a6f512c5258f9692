"""Adapters are what their files say, or one line says why not before anything long begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)  # fmt: skip
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import unidetox
from unidetox.core.errors import MissingError, UniDetoxError, UsageError
from unidetox.models import LoadOptions, check_lm, load_lm, save_lm
from unidetox.training import TrainSettings, add_lora, detoxify_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")
CPU = LoadOptions("cpu", "float32")
TASK = "CAUSAL_LM"


def make(base: Path, to: Path, config: object, grow: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Save an adapter that does something; returns some ids and the logits of PEFT's own model, not merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0] + grow
    if grow:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(model, config).eval()
    torch.manual_seed(1)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) * 0.1)
    adapted.save_pretrained(to)
    AutoTokenizer.from_pretrained(base).save_pretrained(to)
    edit(to, base_model_name_or_path=str(base))
    ids = torch.tensor([[5, 17, 40, 8, rows - 1]])
    with torch.no_grad():
        return ids, adapted(ids).logits


def edit(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def lora(*modules: str, **more: object) -> LoraConfig:
    return LoraConfig(task_type=TASK, r=4, target_modules=list(modules), **more)


def reweigh(adapter: Path, change) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in map(change, load_file(file).items()) if v is not None}, file, {"format": "pt"})


RIGHT = {
    "head": ("gpt2", lambda: lora("lm_head"), 0),
    "embeddings": ("gpt2", lambda: lora("wte"), 0),
    "head and embeddings": ("gpt2", lambda: lora("wte", "lm_head"), 0),
    "whole head": ("gpt2", lambda: lora("c_attn", modules_to_save=["lm_head"]), 0),
    "whole embeddings": ("gpt2", lambda: lora("c_attn", modules_to_save=["wte"]), 0),
    "rows, tied": ("gpt2", lambda: lora("c_attn", trainable_token_indices=[5, 9]), 0),
    "rows": ("llama", lambda: lora("q_proj", trainable_token_indices={"embed_tokens": [5]}), 0),
    "DoRA": ("llama", lambda: lora("q_proj", use_dora=True), 0),
    "rsLoRA": ("llama", lambda: lora("q_proj", use_rslora=True), 0),
    "IA3": ("gpt2", lambda: IA3Config(task_type=TASK), 0),
    "LoHa": ("llama", lambda: LoHaConfig(task_type=TASK, r=4, target_modules=["q_proj"]), 0),
    "no task": ("gpt2", lambda: LoraConfig(r=4, target_modules=["c_attn"]), 0),
    "grown": ("gpt2", lambda: lora("c_attn"), 2),
    "grown, untied": ("llama", lambda: lora("q_proj"), 3),
    "grown, both adapted": ("gpt2", lambda: lora("wte", "lm_head"), 3),
    "grown, whole": ("llama", lambda: lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]), 3),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_an_adapter_is_what_peft_makes_of_it_also_saved_and_can_be_trained(tiny_models, tmp_path, kind):
    base, config, grow = RIGHT[kind]
    ids, wanted = make(tiny_models[base], tmp_path / "adapter", config(), grow)
    check_lm(tmp_path / "adapter", CPU)
    lm = load_lm(tmp_path / "adapter", CPU)
    save_lm(lm.model, lm.tokenizer, tmp_path / "whole")
    for model in (lm.model, load_lm(tmp_path / "whole", CPU).model):
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, wanted, atol=1e-3, rtol=1e-3)
    assert all(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module"])
def test_names_of_what_wrapped_the_model_in_training_do_not_count(tiny_llama, tmp_path, wrapper):
    ids, wanted = make(tiny_llama, tmp_path / "a", lora("q_proj", "v_proj"))
    reweigh(tmp_path / "a", lambda kv: (kv[0].replace("model.model.", f"model.{wrapper}.model.", 1), kv[1]))
    with torch.no_grad():
        torch.testing.assert_close(load_lm(tmp_path / "a", CPU).model(ids).logits, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kv: (kv[0], None), "missing"),
        (lambda kv: (kv[0], kv[1] if "layers.0" in kv[0] else None), "missing"),
        (lambda kv: (kv[0], kv[1] if "lora_B" in kv[0] else None), "missing"),
        (lambda kv: (kv[0].replace("layers", "blocks"), kv[1]), "no place"),
        (lambda kv: (kv[0], kv[1][:2].contiguous()), "does not fit"),
    ],
)
def test_weights_that_do_not_find_their_place_are_refused_before_any_work(tiny_llama, tmp_path, change, said):
    make(tiny_llama, tmp_path / "a", lora("q_proj"))
    reweigh(tmp_path / "a", change)
    for look in (check_lm, load_lm):
        with pytest.raises(UsageError, match=said) as caught:
            look(tmp_path / "a", CPU)
        assert str(tmp_path / "a") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_beside_the_adapter_that_have_no_place_are_named(tiny_llama, tmp_path, capsys):
    make(tiny_llama, tmp_path / "a", lora("q_proj"))
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors") | {"base_model.model.score.weight": torch.ones(2)}
    save_file(weights, tmp_path / "a" / "adapter_model.safetensors", {"format": "pt"})
    load_lm(tmp_path / "a", CPU)
    assert "no place for them: score.weight" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["other architecture", "no file", "cut off", "task", "kind", "itself"])
def test_what_is_no_adapter_of_its_base_is_refused_in_one_line(tiny_models, tmp_path, spoil):
    adapter = tmp_path / "a"
    make(tiny_models["llama"], adapter, lora("q_proj"))
    weights = adapter / "adapter_model.safetensors"
    if spoil == "other architecture":
        edit(adapter, base_model_name_or_path=str(tiny_models["gpt2"]))
    elif spoil == "no file":
        weights.unlink()
    elif spoil == "cut off":
        weights.write_bytes(weights.read_bytes()[:200])
    elif spoil == "task":
        edit(adapter, task_type="SEQ_CLS")
    elif spoil == "kind":
        edit(adapter, peft_type="OF_TOMORROW")
    else:
        edit(adapter, base_model_name_or_path=".")
    with pytest.raises(UniDetoxError, match="adapter") as caught:
        check_lm(adapter, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_prompts_that_were_learnt_cannot_be_merged(tiny_gpt2, tmp_path, config):
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    get_peft_model(model, config(task_type=TASK, num_virtual_tokens=3)).save_pretrained(tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path=str(tiny_gpt2))
    with pytest.raises(UsageError, match="cannot be merged"):
        check_lm(tmp_path / "a", CPU)


def test_a_vocabulary_that_grew_without_its_embeddings_is_refused(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "a", lora("lm_head"), 3)
    with pytest.raises(UsageError, match="vocabulary of"):
        check_lm(tmp_path / "a", CPU)


def test_a_base_is_found_beside_its_adapter_and_an_adapter_on_an_adapter_is_their_sum(tiny_gpt2, tmp_path, monkeypatch):
    shutil.copytree(tiny_gpt2, tmp_path / "here" / "base")
    make(tmp_path / "here" / "base", tmp_path / "here" / "one", lora("c_attn"))
    edit(tmp_path / "here" / "one", base_model_name_or_path="../base")
    (tmp_path / "here").rename(tmp_path / "there")
    first = load_lm(tmp_path / "there" / "one", CPU)
    ids = torch.tensor([[5, 17, 40]])
    second = add_lora(first.model, TrainSettings(steps=1, lora=True))
    for name, weight in second.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    wanted = second.eval()(ids).logits
    save_lm(second, first.tokenizer, tmp_path / "there" / "two")
    assert json.loads((tmp_path / "there/two/adapter_config.json").read_text())["base_model_name_or_path"].endswith(
        "one"
    )
    for base in ("../one", str(tmp_path / "there" / "one")):
        edit(tmp_path / "there" / "two", base_model_name_or_path=base)
        check_lm(tmp_path / "there" / "two", CPU)
        torch.testing.assert_close(load_lm(tmp_path / "there/two", CPU).model(ids).logits, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("base", ["/nowhere/base", "../gone", "nobody/nothing-cached"])
def test_a_base_that_is_not_there_is_named_with_the_file_that_names_it(tiny_gpt2, tmp_path, base):
    make(tiny_gpt2, tmp_path / "a", lora("c_attn"))
    edit(tmp_path / "a", base_model_name_or_path=base)
    with pytest.raises(MissingError, match="base model of the adapter") as caught:
        check_lm(tmp_path / "a", CPU)
    assert "base_model_name_or_path" in str(caught.value)
    assert "adapter_config.json" in str(caught.value)


def test_lora_on_an_adapter_asks_for_merge_before_texts_are_read(tiny_gpt2, tmp_path):
    make(tiny_gpt2, tmp_path / "a", lora("c_attn"))
    with pytest.raises(UsageError, match="is an adapter") as caught:
        unidetox.detoxify(tmp_path / "a", output=tmp_path / "out", texts=tmp_path / "none", lora=True, device="cpu")
    assert "--merge" in str(caught.value)


def test_lora_for_a_model_that_peft_refuses_is_said_before_texts_are_read(tiny_llama, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    MambaForCausalLM(
        MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match="no low-rank adapter"):
        unidetox.detoxify(tmp_path / "m", output=tmp_path / "out", texts=tmp_path / "none", lora=True, device="cpu")


@pytest.mark.parametrize("merged", [True, False])
def test_what_peft_left_frozen_is_trained(tiny_gpt2, tmp_path, merged):
    from peft import PeftModel

    make(tiny_gpt2, tmp_path / "a", lora("c_attn", fan_in_fan_out=True))
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_gpt2), tmp_path / "a")
    model = model.merge_and_unload() if merged else model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    detoxify_model(model, tokenizer, ["the people are kind"] * 4, steps=1, lr=1e-2, lora=not merged)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert merged or all("lora_" in name for name in changed)
