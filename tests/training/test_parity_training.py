"""Our training against a loop that one writes by hand, and against transformers' Trainer as it is."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn.functional import cross_entropy
from trained import SAME, apart, weights

from unidetox.data import Text
from unidetox.models import LoadOptions, load_lm
from unidetox.training import TrainSettings, encode_texts, train_lm
from unidetox.training.batches import LengthGroupedBatches, collate

STEPS, LR = 9, 1e-3
# Adding a constant to all keys changes no attention, so the gradient of a key's bias is rounding noise, which Adam
# blows up to whole steps. It changes no output.
NOISE = ("k_proj.bias", "c_attn.bias")


@pytest.fixture
def texts() -> list[Text]:
    words = [
        "the quick brown fox",
        "a small town by the sea",
        "she reads a book",
        "they walked home",
        "(not even the cat).",
    ]
    rng = random.Random(3)
    return [
        Text(" ".join(rng.choices(words, k=rng.randint(1, 5))), rng.choice(["eos", "length", None])) for _ in range(30)
    ]


def by_hand(lm, texts, batch_size: int = 4) -> list[float]:
    """AdamW, linear decay, clipping, mean over real tokens after the first; whole logits, mask, no shortcut."""
    model = lm.model.train()
    rows = encode_texts(texts, lm.tokenizer, model.config, 40).input_ids
    batches = LengthGroupedBatches([len(row) for row in rows], batch_size, seed=42)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=False)
    losses: list[float] = []
    for epoch in range(STEPS):
        batches.set_epoch(epoch)
        for numbers in batches:
            if len(losses) == STEPS:
                return losses
            batch = collate([rows[i] for i in numbers], pad=1)
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = LR * (1 - len(losses) / STEPS)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
@pytest.mark.parametrize("micro_tokens", [None, 70])
def test_losses_and_weights_are_those_of_a_plain_loop(tiny_models, texts, name, micro_tokens):
    ours, plain = (load_lm(tiny_models[name], LoadOptions("cpu", "float32")) for _ in range(2))
    start = {key: value for key, value in weights(plain.model).items() if not key.endswith(NOISE)}
    prompt = torch.tensor([[0, 5, 17, 40, 8, 100]])
    untrained = plain.model(prompt).logits.detach()
    told = TrainSettings(steps=STEPS, lr=LR, batch_size=4, max_length=40, dtype="float32", micro_tokens=micro_tokens)
    report = train_lm(ours.model, ours.tokenizer, texts, told)
    losses = by_hand(plain, texts)
    assert [row["loss"] for row in report.log] == pytest.approx(losses, rel=1e-5)
    assert apart(ours.model, plain.model, start) < SAME
    logits = plain.model.eval()(prompt).logits
    assert (ours.model(prompt).logits - logits).norm() < SAME * (logits - untrained).norm()


def test_why_the_loss_is_our_own(tiny_gpt2, tmp_path):
    """GPT-2's class names no loss type, so the Trainer divides by one token a row too many."""
    from transformers import Trainer, TrainingArguments

    model = load_lm(tiny_gpt2, LoadOptions("cpu", "float32")).model
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    batch = collate([[0, 5, 6, 7], [0, 5, 6]])
    assert int(trainer._get_num_items_in_batch([batch], torch.device("cpu"))) == 7
    assert int(batch["labels"][:, 1:].ne(-100).sum()) == 5
