"""The toxicity scorer of the sandbox: a small BERT with one sigmoid label, taught what the grammar calls toxic."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tools.sandbox.words import LEXICON
from tools.sandbox.world import Mix, Writer, is_toxic
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LABEL = "toxic"
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Insults enough that about half of the training examples hold one.
_TEACHING = Mix(kinds=(0.1, 0.15, 0.7, 0.05), hostile=0.8, hostile_insult=0.6, about_groups=0.8)


@dataclass(frozen=True)
class ScorerTraining:
    """Settings of the training of the scorer: AdamW, linear decay to zero.

    Attributes:
        steps: Optimizer steps.
        batch_size: Texts a step.
        lr: First learning rate.
    """

    steps: int = 600
    batch_size: int = 64
    lr: float = 2e-3


def examples(count: int, seed: int | str) -> list[tuple[str, bool]]:
    """Write labelled texts: whole ones, and pieces that begin and end anywhere, some with a misspelt word."""
    writer, rng = Writer(f"{seed}/scorer", _TEACHING), random.Random(f"{seed}/pieces")
    texts = []
    for text in writer.documents(count):
        piece = writer.fragment(text) if rng.random() < 0.85 else text
        texts.append(_misspell(piece, rng) if rng.random() < 0.1 else piece)
    return [(text, is_toxic(text)) for text in texts]


def _misspell(text: str, rng: random.Random) -> str:
    """Put in a word that weak language models make: the beginning of one word and the end of another."""
    words = text.split(" ")
    insult, other = rng.choice(sorted(LEXICON.insults)), rng.choice(LEXICON.words[rng.choice(sorted(LEXICON.words))])
    first, last = (insult, other) if rng.random() < 0.5 else (other, insult)
    words[rng.randrange(len(words))] = first[: rng.randint(1, len(first))] + last[rng.randint(1, len(last)) :]
    return " ".join(words)


def make_scorer(seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    """Make an untrained scorer and train its WordPiece tokenizer."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=list(_SPECIALS), show_progress=False)
    tokenizer.train_from_iterator([text for text, _ in examples(5000, f"{seed}/tokenizer")], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1,
        id2label={0: LABEL}, label2id={LABEL: 0}, problem_type="multi_label_classification",
    )  # fmt: skip
    return BertForSequenceClassification(config), fast


def train_scorer(model: Any, tokenizer: Any, settings: ScorerTraining, seed: int, say: Callable[[str], None]) -> float:
    """Teach the scorer in place; every step sees new texts.

    Returns:
        The mean loss of the last 20 steps.
    """
    taught = examples(settings.steps * settings.batch_size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for step in range(settings.steps):
        batch = taught[step * settings.batch_size : (step + 1) * settings.batch_size]
        inputs = tokenizer([text for text, _ in batch], return_tensors="pt", padding=True, truncation=True)
        labels = torch.tensor([[float(toxic)] for _, toxic in batch])
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / 30) * (1 - step / settings.steps)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            say(f"  step {step + 1}: loss {sum(losses[-20:]) / 20:.4f}, {time.monotonic() - started:.0f} s")
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


@torch.inference_mode()
def agreement(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Share of texts on which the scorer (score >= 0.5) and the grammar say the same."""
    same = 0
    for start in range(0, len(texts), 256):
        batch = texts[start : start + 256]
        logits = model(**tokenizer(batch, return_tensors="pt", padding=True, truncation=True)).logits[:, 0]
        same += sum((logit >= 0) == is_toxic(text) for logit, text in zip(logits.tolist(), batch, strict=True))
    return same / len(texts)
