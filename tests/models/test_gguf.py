"""A GGUF file is a model like any other: read as transformers reads it, measured, trained, saved as an ordinary one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recipes import call
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from unidetox.core.errors import UniDetoxError
from unidetox.models import LoadOptions, check_lm, fingerprint, load_lm

pytestmark = pytest.mark.gguf

OPTIONS = LoadOptions("cpu", "float32")
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm", "model.layers.": "blk.",
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two layers as a GGUF file, written by the format's own package."""
    import gguf

    source, path = tiny_models["llama"], tmp_path_factory.mktemp("gguf") / "model.gguf"
    config = json.loads((source / "config.json").read_text())
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    words = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word == "<|endoftext|>" else 1 for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in load_file(source / "model.safetensors").items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_its_logits_are_those_of_transformers_own_reader(file: Path):
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    for name in (file, file.parent):  # a folder that holds nothing else
        check_lm(name, OPTIONS)
        ours = load_lm(name, OPTIONS)
        ids = ours.tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
        assert torch.equal(ours.model(ids).logits, theirs(ids).logits)
        assert not hasattr(ours.model.config, "quantization_config")
    assert len(fingerprint(file)) == 64


def test_it_is_measured_and_trained(file: Path, tiny_classifier: Path, tmp_path: Path):
    (tmp_path / "p.csv").write_text("text\nthe quick\n")
    options = ["--prompts", tmp_path / "p.csv", "--samples", 2, "--max-new-tokens", 4, "--scorer", tiny_classifier]
    said = call("evaluate", file, *options, "--ppl-model", file, "-o", tmp_path / "e")
    assert said.code == 0, said.err
    said = call("detoxify", file, "--steps", 1, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file() and not hasattr(made.config, "quantization_config")


def test_one_that_is_cut_off_is_one_line(file: Path, tmp_path: Path):
    for size in (3, 200, file.stat().st_size // 2):
        cut = tmp_path / f"cut-{size}.gguf"
        cut.write_bytes(file.read_bytes()[:size])
        with pytest.raises(UniDetoxError, match=cut.name) as caught:
            load_lm(cut, OPTIONS)
        assert "\n" not in str(caught.value)


def test_of_several_one_must_be_named(file: Path, tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(UniDetoxError, match=r"holds 2 GGUF files .a.gguf"):
        check_lm(tmp_path, OPTIONS)
