"""A small float32 model of the same kind as a given one: every sort of layer, the same ratio of heads, tiny sizes."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch

HEADS, HEAD_WIDTH = 4, 16
WINDOW = 6
"""Window or chunk of attention: short, so that a few tokens reach beyond it."""

POSITIONS = 64

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
_QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "encoder_attention_heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_global_key_value_heads")
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "attention_window_size")

_SIZES: list[tuple[int, str]] = [
    (128, "vocab_size vocab_size_per_layer_input mamba_d_ssm pad_vocab_size"),
    (HEADS * HEAD_WIDTH, "hidden_size n_embd d_model dim emb_dim embed_dim model_dim lru_width word_embed_proj_dim"),
    (HEADS * HEAD_WIDTH, "embedding_size attention_hidden_size time_mix_hidden_size"),
    (HEAD_WIDTH, "head_dim attention_head_dim global_head_dim kv_channels kv_lora_rank qk_nope_head_dim v_head_dim"),
    (HEAD_WIDTH, "qk_rope_head_dim mamba_d_state mamba_d_head mamba_head_dim mamba_headdim ssm_state_size state_size"),
    (HEAD_WIDTH, "linear_key_head_dim linear_value_head_dim linear_head_dim hidden_size_per_layer_input"),
    (HEAD_WIDTH, "swa_head_dim swa_v_head_dim"),
    (96, "intermediate_size ffn_dim ffn_hidden_size d_ff inner_dim mlp_dim block_ff_dim shared_intermediate_size"),
    (32, "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size qk_head_dim"),
    (32, "expert_hidden_size n_inner"),
    (24, "q_lora_rank"),
    (8, "rotary_dim mamba_n_heads mamba_num_heads n_mamba_heads mamba_dt_rank"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts num_heads"),
    (4, "linear_num_value_heads linear_num_heads"),
    (2, "num_experts_per_tok moe_top_k top_k_experts num_experts_per_token linear_num_key_heads mamba_expand"),
    (1, "n_group topk_group num_expert_group mamba_n_groups n_groups mamba_ngroups first_k_dense_replace"),
    (1, "num_dense_layers"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions"),
]
"""Sizes, and the names of what gets them where a configuration has it as a positive number."""


def shrink(config: Any, window: int = WINDOW) -> Any:
    """Return a small configuration of the same class.

    Args:
        config: A transformers configuration of a causal LM.
        window: Of attention, where it has one.
    """
    small = copy.deepcopy(config)
    for name in ("quantization_config", "_name_or_path"):
        small.__dict__.pop(name, None)
    for part in _parts(small):
        _shrink_part(part, window)
    return small


def _parts(config: Any) -> list[Any]:
    """The configuration and those within it (text, vision, audio)."""
    inner = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [config, *(part for one in inner if hasattr(one, "to_dict") for part in _parts(one))]


def _shrink_part(config: Any, window: int) -> None:
    # What some layers have otherwise than others is put aside meanwhile.
    overrides = getattr(getattr(config, "_heterogeneity_spec", None), "per_layer_overrides", {})
    if overrides:
        config.per_layer_config = None
    layers = _shrink_layers(config)
    _shrink_heads(config)
    for size, names in _SIZES:
        _put(config, names.split(), size)
    _put(config, _WINDOWS, window)
    if _number(config, "state_size"):  # Mamba 2: its heads share twice the width
        _put(config, ["num_heads"], 8)
    for name, value in list(config.__dict__.items()):
        if name.endswith(("token_id", "token_ids")):  # special tokens are none of those that are drawn
            setattr(config, name, 1 if isinstance(value, int) and name != "pad_token_id" else value and 0)
        elif isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
        elif name.startswith("rope") and isinstance(value, dict):
            setattr(config, name, _short_factors(value))
    if overrides:
        config.per_layer_config = {
            number: {name: 1 if name in _KEY_HEADS else 2 * HEAD_WIDTH for name in own if own[name]}
            for number, own in overrides.items()
            if number < layers and set(own) <= {"head_dim", *_KEY_HEADS}
        }


def _number(config: Any, name: str) -> int:
    """A positive number of a configuration, 0 where that is none."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _put(config: Any, names: Sequence[str], value: int) -> None:
    """Set what is there as a positive number and can be set."""
    for name in names:
        if _number(config, name) and getattr(getattr(type(config), name, None), "fset", True):
            setattr(config, name, value)


def _shrink_layers(config: Any) -> int:
    """Keep the shortest beginning that has every kind, of every list with one entry a layer; return its length."""
    layers = next((n for n in (_number(config, name) for name in _LAYERS) if n), 2)
    lists = _lists_of_layers(config, layers)
    cover = max([2, *map(_first_cover, lists.values())])
    fewer = min(layers, 2 * cover if _number(config, "num_kv_shared_layers") else cover)
    _put(config, ["num_kv_shared_layers"], fewer - cover)  # each kind of layer reads what one before it keeps
    for name, entries in lists.items():
        if name in config.__dict__:
            setattr(config, name, entries[:fewer])
    _put(config, _LAYERS, fewer)
    return fewer


def _lists_of_layers(config: Any, layers: int) -> dict[str, Any]:
    """Attributes with one entry a layer, of at most four kinds, by name."""
    found = {}
    for name in {*config.__dict__, "layers_block_type", "layer_types", "block_types"}:
        value: Any = getattr(config, name, None)
        listed = isinstance(value, list | tuple | str) and len(value) == layers
        if listed and all(isinstance(entry, str | int | float) for entry in value) and len(set(value)) <= 4:
            found[name] = value
    return found


def _first_cover(entries: Sequence[Any]) -> int:
    """Length of the shortest beginning that has all kinds of entries."""
    return max(entries.index(kind) for kind in set(entries)) + 1


def _shrink_heads(config: Any) -> None:
    """Give four query heads one, two or four key heads, as there was one, some or as many."""
    queries = next((n for n in (_number(config, name) for name in _QUERY_HEADS) if n), HEADS)
    keys = next((n for n in (_number(config, name) for name in _KEY_HEADS) if n), queries)
    _put(config, _QUERY_HEADS, HEADS)
    _put(config, _KEY_HEADS, HEADS if keys >= queries else 1 if keys == 1 else 2)
    for name, value in (("head_dim", HEAD_WIDTH), ("num_key_value_heads", HEADS)):
        if name in config.__dict__ and getattr(config, name) is None:  # it follows from other sizes
            setattr(config, name, value)


def _short_factors(rope: dict[str, Any]) -> dict[str, Any]:
    """Cut the factors of longrope, one for each pair of a head's numbers."""
    short = HEAD_WIDTH // 2
    return {k: v[:short] if k.endswith("_factor") and isinstance(v, list) else v for k, v in rope.items()}


def shrunken(model: Any, small: Any) -> Any:
    """Build the small model of a configuration from `shrink`, in eval mode on the CPU.

    Its weights make every part count: attention that is neither uniform nor on one token, biases that are not zero.

    Args:
        model: The model that it stands for.
        small: The configuration.
    """
    implementation = getattr(model.config, "_attn_implementation", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = type(model)._from_config(small, dtype=torch.float32, attn_implementation=implementation).eval()
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if weight.dim() >= 2:
                    inputs = weight.shape[-1] if weight.dim() == 2 else weight[0].numel() // weight.shape[-1]
                    weight.copy_(torch.randn_like(weight) * 1.5 / max(inputs, 1) ** 0.5)
                elif "A_log" not in name and "dt_bias" not in name:  # decay rates: theirs are made with care
                    weight.add_(torch.randn_like(weight) * (0.1 if "norm" in name or "ln_" in name else 0.3))
    return made


def fingerprint(model: Any, small: Any) -> str:
    """Name a kind of model: all that shares it is built alike but for sizes."""
    kind = type(model)
    implementation = getattr(model.config, "_attn_implementation", None)
    settings = {name: value for name, value in small.to_dict().items() if name not in ("dtype", "torch_dtype")}
    return json.dumps([kind.__module__, kind.__qualname__, str(implementation), settings], default=str, sort_keys=True)
