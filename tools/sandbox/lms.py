"""The five small language models of the sandbox: their architectures, tokenizers and training.

Ordinary Hugging Face classes with about a million parameters each. No two share a tokenizer or its special tokens,
so that whatever works here across models does not do so by accident.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM as AutoLM
from transformers import (
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

WIDTH, LAYERS, HEADS, POSITIONS = 144, 3, 3, 128

_NO_DROPOUT: dict[str, Any] = {"attention_dropout": 0.0, "hidden_dropout": 0.0}


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one of the models.

    Attributes:
        vocab_size: Size of its tokenizer's vocabulary, special tokens included.
        bos: Beginning-of-text token.
        eos: End-of-text token; may be the same as ``bos``.
        specials: All special tokens in order of their ids.
        pad: Padding token, if it has one of its own.
        adds_bos: Whether its tokenizer puts ``bos`` before every text, as the real one does.
        byte_level: Byte-level BPE as of GPT-2; otherwise BPE on words marked with U+2581 as of LLaMA.
        config: Makes the model's configuration from the vocabulary size and the ids of the special tokens.
    """

    vocab_size: int
    bos: str
    eos: str
    specials: tuple[str, ...]
    config: Callable[..., Any]
    pad: str | None = None
    adds_bos: bool = False
    byte_level: bool = True


def _gpt2(**common: Any) -> GPT2Config:
    return GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS,
                      attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **common)  # fmt: skip


def _opt(**common: Any) -> OPTConfig:
    return OPTConfig(hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=4 * WIDTH, num_hidden_layers=LAYERS,
                     num_attention_heads=HEADS, max_position_embeddings=POSITIONS, dropout=0.0, **common)  # fmt: skip


def _falcon(**common: Any) -> FalconConfig:
    return FalconConfig(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, alibi=False, bias=False,
                        max_position_embeddings=POSITIONS, **_NO_DROPOUT, **common)  # fmt: skip


def _llama(**common: Any) -> LlamaConfig:
    return LlamaConfig(hidden_size=WIDTH, intermediate_size=384, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                       num_key_value_heads=1, max_position_embeddings=POSITIONS, **common)  # fmt: skip


def _gpt_neox(**common: Any) -> GPTNeoXConfig:
    return GPTNeoXConfig(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, **_NO_DROPOUT,
                         num_attention_heads=HEADS, max_position_embeddings=POSITIONS, **common)  # fmt: skip


_END = "<|endoftext|>"
ARCHITECTURES = {
    "gpt2": Architecture(1024, _END, _END, (_END,), _gpt2),
    "judge": Architecture(896, _END, _END, (_END, "<|padding|>"), _gpt_neox, pad="<|padding|>"),
    "llama": Architecture(640, "<s>", "</s>", ("<unk>", "<s>", "</s>"), _llama, adds_bos=True, byte_level=False),
    "opt": Architecture(768, "</s>", "</s>", ("<s>", "<pad>", "</s>", "<unk>"), _opt, pad="<pad>", adds_bos=True),
    "falcon": Architecture(1280, _END, _END, (">>TITLE<<", ">>ABSTRACT<<", _END), _falcon),
}
"""Name of the asset -> what it is; the judge is a GPT-NeoX and only says how probable other models' texts are."""


def make_tokenizer(architecture: Architecture, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a model on texts; deterministic."""
    specials = list(architecture.specials)
    if architecture.byte_level:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
        )
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=architecture.vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if architecture.adds_bos:
        bos = (architecture.bos, tokenizer.token_to_id(architecture.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    names = {"bos_token": architecture.bos, "eos_token": architecture.eos}
    names |= {"pad_token": architecture.pad} if architecture.pad else {}
    names |= {"unk_token": "<unk>"} if "<unk>" in specials else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, clean_up_tokenization_spaces=False, **names
    )


def make_lm(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """Make a model with random weights drawn from the seed."""
    torch.manual_seed(seed)
    config = architecture.config(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if architecture.pad else None,
    )
    return AutoLM.from_config(config)


@dataclass(frozen=True)
class LMTraining:
    """Settings of the training of a model from scratch: AdamW, linear warm-up, cosine decay, gradient norm at most 1.

    Attributes:
        steps: Optimizer steps.
        rows: Rows of 128 tokens a step, each the beginning of a text and what follows it.
        lr: Highest learning rate.
        warmup: Steps of warm-up.
        weight_decay: AdamW weight decay.
        autocast: Compute in bf16 (weights stay float32); half the time where the processor has AVX512-BF16 or AMX.
    """

    steps: int = 450
    rows: int = 16
    lr: float = 4e-3
    warmup: int = 30
    weight_decay: float = 0.01
    autocast: bool = True

    def lr_at(self, step: int) -> float:
        """Learning rate of a step (counted from 0)."""
        done = min(1.0, step / max(1, self.steps))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def rows_of(texts: Sequence[str], tokenizer: Any, adds_bos: bool, length: int = POSITIONS) -> torch.Tensor:
    """Pack texts into rows ``BOS text EOS [BOS] text EOS ...`` that begin with a text and are cut at ``length``.

    Args:
        texts: Texts of the world.
        tokenizer: The model's tokenizer.
        adds_bos: Whether prompts of this model begin with BOS. If not, every other row begins without one, as the model
            would otherwise never have seen a bare prompt.
        length: Tokens a row.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    between = [eos] if bos == eos else [eos, bos]
    rows: list[list[int]] = []
    row = [bos]
    for ids in encoded:
        row += [*ids, *between]
        if len(row) >= length:
            rows.append(row[:length])
            row = [bos] if adds_bos or len(rows) % 2 == 0 else []
    return torch.tensor(rows)


def train(model: Any, rows: torch.Tensor, settings: LMTraining, seed: int, say: Callable[[str], None]) -> float:
    """Train a model on rows of token ids in place.

    Returns:
        The mean loss of the last 20 steps, in nats a token.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for step in range(settings.steps):
        picked = [order[(step * settings.rows + i) % len(order)] for i in range(settings.rows)]
        batch = rows[torch.stack(picked)]
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            say(f"  step {step + 1}: loss {sum(losses[-20:]) / 20:.3f}, {time.monotonic() - started:.0f} s")
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def save(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write an ordinary Hugging Face directory with bf16 weights."""
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
