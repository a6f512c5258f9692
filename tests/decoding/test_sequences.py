"""The longest context of a model, whatever its configuration calls it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf

from unidetox.decoding import SamplingSettings, lm, sample
from unidetox.decoding.memory import is_out_of_memory
from unidetox.decoding.sequences import max_positions


def images() -> Any:
    text = tf.Gemma3TextConfig(max_position_embeddings=640)
    return tf.Gemma3Config(text_config=text)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (tf.GPT2Config(n_positions=64), 64),
        (tf.LlamaConfig(max_position_embeddings=77), 77),
        (tf.OPTConfig(max_position_embeddings=33), 33),
        (tf.MptConfig(max_seq_len=96), 96),
        (tf.BloomConfig(), None),
        (tf.MambaConfig(), None),
        (images(), 640),
        (tf.BertConfig(max_position_embeddings=512), 512),
        (SimpleNamespace(n_ctx=50), 50),
        (SimpleNamespace(max_position_embeddings=-1), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_rule_for_every_configuration(config: Any, longest: int | None) -> None:
    assert max_positions(config) == longest


@pytest.mark.parametrize(
    "kind",
    ["Roberta", "MPNet", "XLMRoberta", "Camembert", "Longformer", "Data2VecText", "IBert", "Bert", "Electra",
     "Nystromformer", "DistilBert", "Bart", "GPT2", "OPT"],
)  # fmt: skip
def test_positions_are_counted_as_the_model_does(kind: str) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    if kind in ("DistilBert", "Bart"):
        sizes = {"dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "d_model": 16, "encoder_layers": 1}
        sizes |= {"decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    if kind == "OPT":
        sizes |= {"word_embed_proj_dim": 16, "ffn_dim": 16}
    more: dict[str, Any] = {"attention_window": 4} if kind == "Longformer" else {}
    config = getattr(tf, f"{kind}Config")(vocab_size=50, max_position_embeddings=24, pad_token_id=1, **sizes, **more)
    model = getattr(tf, f"{kind}ForSequenceClassification")(config).eval()
    longest = max_positions(model)
    assert longest in (24, 22)
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 2))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 2))


def test_a_prompt_for_mpt_is_cut_to_what_it_reads(tiny_gpt2: Any) -> None:
    from unidetox.evaluation.prompt_encoding import encode_prompt
    from unidetox.models import LM, load_tokenizer

    tokenizer = load_tokenizer(tiny_gpt2)
    config = tf.MptConfig(vocab_size=len(tokenizer), d_model=16, n_heads=2, n_layers=1, max_seq_len=32)
    model = tf.MptForCausalLM(config).eval()
    mpt = LM(model, tokenizer, "mpt", torch.device("cpu"), torch.float32)
    ids, cut = encode_prompt(mpt, "a small town by the sea " * 40, 20)
    assert (len(ids), cut) == (12, True)
    ((made,),) = sample(lm(model), [ids], 1, SamplingSettings(max_new_tokens=20))
    assert len(made.token_ids) == 20


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, max allowed: 6 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("something else"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
