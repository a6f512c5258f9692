"""Tiny random causal LMs of many families, each large enough to have its own quirks (see tests of the engine)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers as tf

VOCAB = 160
IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
WIDE: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 96}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "initializer_range": 0.25}
GATED: dict[str, Any] = WIDE | HEADS | {"intermediate_size": 48, "num_key_value_heads": 2} | IDS
FALCON: dict[str, Any] = WIDE | HEADS | IDS | {"hidden_dropout": 0.0, "attention_dropout": 0.0, "ffn_hidden_size": 64}

CONFIGS: dict[str, Any] = {
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCAB, n_positions=96, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25, **IDS
    ),
    "opt": lambda: tf.OPTConfig(**WIDE | IDS, ffn_dim=64, num_attention_heads=4, word_embed_proj_dim=32, init_std=0.25),
    "opt_projected": lambda: tf.OPTConfig(
        **WIDE | IDS,
        ffn_dim=64,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        init_std=0.25,
        do_layer_norm_before=False,
    ),
    "llama": lambda: tf.LlamaConfig(**GATED),
    "falcon_rotary": lambda: tf.FalconConfig(**FALCON, alibi=False),
    "falcon_alibi": lambda: tf.FalconConfig(**FALCON, alibi=True, parallel_attn=False, multi_query=False),
    "falcon_new": lambda: tf.FalconConfig(**FALCON, alibi=False, new_decoder_architecture=True, num_kv_heads=2),
    "bloom": lambda: tf.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.25, **IDS
    ),
    "mpt": lambda: tf.MptConfig(
        vocab_size=VOCAB, d_model=32, n_heads=4, n_layers=2, max_seq_len=96, initializer_range=0.25, **IDS
    ),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**WIDE | HEADS | IDS, intermediate_size=48),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=96,
        attention_types=[[["global", "local"], 1]],
        window_size=64,
        initializer_range=0.25,
        **IDS,
    ),
    "gptj": lambda: tf.GPTJConfig(
        vocab_size=VOCAB, n_positions=96, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, initializer_range=0.25, **IDS
    ),
    "mistral": lambda: tf.MistralConfig(**GATED, sliding_window=64),
    "mistral_short_window": lambda: tf.MistralConfig(**GATED, sliding_window=8),
    "qwen2": lambda: tf.Qwen2Config(**GATED),
    "qwen3": lambda: tf.Qwen3Config(**GATED, head_dim=16),
    "gemma2": lambda: tf.Gemma2Config(**GATED, head_dim=16, sliding_window=64, final_logit_softcapping=3.0),
    "gemma2_short_window": lambda: tf.Gemma2Config(**GATED, head_dim=16, sliding_window=6),
    "gemma3": lambda: tf.Gemma3TextConfig(**GATED, head_dim=16, sliding_window=64),
    "gemma3_short_window": lambda: tf.Gemma3TextConfig(
        **GATED, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **GATED,
        head_dim=16,
        sliding_window=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "phi": lambda: tf.PhiConfig(**WIDE | HEADS | IDS, intermediate_size=48),
    "cohere": lambda: tf.CohereConfig(**GATED, logit_scale=0.5),
    "mamba": lambda: tf.MambaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        initializer_range=0.25,
        use_mambapy=False,
        **IDS,
    ),
    "lfm2": lambda: tf.Lfm2Config(**GATED, layer_types=["conv", "full_attention"]),
    "jamba": lambda: tf.JambaConfig(**GATED, attn_layer_period=2, attn_layer_offset=1, num_experts=4, mamba_dt_rank=4),
    "falcon_h1": lambda: tf.FalconH1Config(
        **GATED, head_dim=8, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16
    ),
    "qwen3_next": lambda: tf.Qwen3NextConfig(
        **GATED,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    "openai_gpt": lambda: tf.OpenAIGPTConfig(
        vocab_size=VOCAB, n_positions=96, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25, **IDS
    ),
}
WITH_STATES = {"mamba", "lfm2", "jamba", "falcon_h1", "qwen3_next"}
"""Families with layers that keep a state in place of keys and values."""

BEYOND = {"mistral_short_window", "gemma2_short_window", "gemma3_short_window", "gpt_oss", *WITH_STATES}
"""Families whose texts go beyond what transformers' masks for padded rows, or keys and values alone, can serve."""

WITHOUT_CACHE = {"openai_gpt"}
"""Families for which the engine has to fall back to reading whole texts again."""


def build(config: Any, seed: int = 0) -> Any:
    """A model in eval mode with random weights and, so that positions and biases matter, no zeros among them."""
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@cache
def zoo(name: str, seed: int = 0) -> Any:
    """The model of this name; built once."""
    return build(CONFIGS[name](), seed)


@cache
def gpt2(seed: int = 0, width: int = 32, vocab: int = VOCAB, layers: int = 2, scale: float = 0.25) -> Any:
    """A GPT-2 of any width."""
    return build(
        tf.GPT2Config(
            vocab_size=vocab, n_positions=96, n_embd=width, n_layer=layers, n_head=4, initializer_range=scale, **IDS
        ),
        seed,
    )


def prompts(count: int, longest: int = 12, seed: int = 0) -> list[list[int]]:
    """Random prompts of one to ``longest`` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits ``[tokens, vocabulary]`` of one forward pass without a cache."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits
