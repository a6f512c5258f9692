"""What is learnt from texts, and that nothing - padding, batching, a kill - changes it."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trained import SAME, apart, length, weights
from transformers import AutoTokenizer

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.data import Text
from unidetox.decoding.kernels import fused_gelu
from unidetox.models import LoadOptions, load_lm, save_lm
from unidetox.training import TrainSettings, add_lora, detoxify_model, encode_texts, merge_lora, train_lm
from unidetox.training.batches import LengthGroupedBatches, collate, count_supervised, split_batch
from unidetox.training.checkpoints import Checkpoints
from unidetox.training.loss import TokenLoss

WORDS = [
    "the quick brown fox",
    "jumps over the lazy dog",
    "a small town by the sea",
    "she reads a book",
    "they walked home",
]


@pytest.fixture(scope="module", autouse=True)
def _old_objects_need_no_second_look():
    """The Trainer collects garbage at each start, which takes long with all of transformers in memory."""
    gc.freeze()
    yield
    gc.unfreeze()


def some_texts(n: int = 24, seed: int = 0) -> list[Text]:
    rng = random.Random(seed)
    ends = ["eos", "length", None]
    return [Text(" ".join(rng.choices(WORDS, k=rng.randint(1, 5))), ends[i % 3]) for i in range(n)]


def settings(**changes) -> TrainSettings:
    return TrainSettings(**({"steps": 6, "lr": 1e-3, "batch_size": 4, "max_length": 40, "dtype": "float32"} | changes))


def fresh(path: Path):
    return load_lm(path, LoadOptions("cpu", "float32"))


def same_weights(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- encoding ----


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "falcon"])
def test_every_real_token_after_the_first_is_learnt(tiny_models, name):
    lm = fresh(tiny_models[name])
    texts = some_texts()
    encoded = encode_texts(texts, lm.tokenizer, lm.model.config, 1000)
    assert encoded.n_truncated == encoded.n_dropped == 0
    for text, row in zip(texts, encoded.input_ids, strict=True):
        body = lm.tokenizer(text.text, add_special_tokens=False).input_ids
        assert row == [0, *body, *([0] if text.finish_reason == "eos" else [])]
    batch = collate(encoded.input_ids, pad=1 if name == "opt" else 0)
    real = sum(len(row) for row in encoded.input_ids)
    assert count_supervised(batch) == real - len(texts)
    assert int(batch["attention_mask"].sum()) == real
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert (batch["labels"] == batch["input_ids"])[batch["attention_mask"] == 1].all()
    assert int((batch["labels"][:, 1:] == 0).sum()) == 8, "each real end token is learnt, the padding never"


def test_a_cut_text_has_no_end(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    text = Text("the quick brown fox jumps over the lazy dog", "eos")
    full = encode_texts([text], lm.tokenizer, lm.model.config, 100).input_ids[0]
    exact = encode_texts([text], lm.tokenizer, lm.model.config, len(full))
    assert (exact.n_truncated, exact.input_ids[0]) == (0, full)
    cut = encode_texts([text], lm.tokenizer, lm.model.config, len(full) - 1)
    assert (cut.n_truncated, cut.input_ids[0]) == (1, full[:-1])


def test_the_models_own_limit_holds_too(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    encoded = encode_texts([Text("a b " * 200)], lm.tokenizer, lm.model.config, 10_000)
    assert len(encoded.input_ids[0]) == 128
    assert encoded.n_truncated == 1


def test_text_that_spells_a_special_token_is_text(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    row = encode_texts([Text("a <|endoftext|> b", "eos")], lm.tokenizer, lm.model.config, 100).input_ids[0]
    assert row.count(0) == 2
    assert row[0] == row[-1] == 0


def test_a_model_without_a_start_token(tiny_gpt2):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.bos_token = None
    config = fresh(tiny_gpt2).model.config
    config.bos_token_id = None
    texts = [Text("the fox", "eos"), Text("")]
    encoded = encode_texts(texts, tokenizer, config, 100)
    assert encoded.input_ids[0][0] == encoded.input_ids[0][-1] == 0, "the end token stands before a text too"
    assert encoded.n_dropped == 1
    tokenizer.eos_token = config.eos_token_id = None
    bare = encode_texts(texts, tokenizer, config, 100)
    assert bare.input_ids[0] == encoded.input_ids[0][1:-1]


@pytest.mark.parametrize("around", [False, True])
def test_weights_of_the_first_step_are_not_kept_by_an_autocast_around(tiny_llama, around):
    """Torch keeps cast weights until the outermost autocast ends; each step must be computed with its own."""
    plain, inside = (load_lm(tiny_llama, LoadOptions("cpu", "float32")) for _ in range(2))
    options = settings(dtype="bfloat16", lr=1e-2, steps=6)
    expected = train_lm(plain.model, plain.tokenizer, some_texts(), options)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
        found = train_lm(inside.model, inside.tokenizer, some_texts(), options)
    assert [entry["loss"] for entry in found.log] == [entry["loss"] for entry in expected.log]
    assert same_weights(weights(found.model), weights(expected.model))
    assert found.loss_last < 0.9 * found.loss_first


def test_nothing_to_train_on(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    for texts, message in (([], "no texts"), ([Text("", "eos"), Text("")], "no words")):
        with pytest.raises(UsageError, match=message):
            train_lm(lm.model, lm.tokenizer, texts, settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": None}, "neither steps nor epochs"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"epochs": -1.0}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 1}, "max_length is 1"),
        ({"lora_rank": 0}, "lora_rank is 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(UsageError, match=message):
        settings(**changes)


def test_steps_and_epochs():
    assert settings(steps=None, epochs=3.0).total_steps(10) == 9
    assert settings(steps=None, epochs=0.5).total_steps(10) == 2
    assert settings(steps=7, epochs=3.0).total_steps(10) == 7


# ---- batches ----


def test_each_row_once_an_epoch_in_an_order_of_its_own():
    lengths = [random.Random(1).randint(5, 200) for _ in range(301)]
    lengths = [length + i % 7 for i, length in enumerate(lengths)]
    batches = LengthGroupedBatches(lengths, 8, seed=3)
    first = list(batches)
    assert len(first) == len(batches) == 38
    assert sorted(i for batch in first for i in batch) == list(range(301))
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    assert list(LengthGroupedBatches(lengths, 8, seed=4)) != first


def test_rows_of_like_length_stand_together():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 250, 640).tolist()
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in LengthGroupedBatches(lengths, 8, 0))
    assert padded / sum(lengths) < 1.1
    widths = [max(lengths[i] for i in batch) for batch in LengthGroupedBatches(lengths, 8, 0)]
    trend = abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1])
    assert trend < 0.3, "short and long batches are mixed over the epoch"


def test_tokens_counted_ahead():
    batches = LengthGroupedBatches([3, 5, 2, 9, 4], 2, seed=0)
    assert batches.tokens_in(3) == 23 - 5
    assert batches.tokens_in(6) == 2 * (23 - 5)
    assert 0 < batches.tokens_in(4) - batches.tokens_in(3) < 14


def test_parts_of_a_batch_hold_all_of_it():
    rows = [[7] * n for n in (3, 10, 5, 8)]
    batch = collate(rows, pad=7)
    parts = split_batch(batch, 16)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(1, 10), (2, 8), (1, 3)]
    assert sum(count_supervised(part) for part in parts) == count_supervised(batch) == 22
    assert [len(part["input_ids"]) for part in split_batch(batch, 1)] == [1, 1, 1, 1]
    assert len(split_batch(batch, 1000)) == 1


# ---- loss ----


def plain_gradients(model, batch):
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_gradients(model, batch, loss):
    model.zero_grad()
    value = loss.backward(batch, count_supervised(batch)).item()
    return value, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def a_batch(lm):
    rows = encode_texts(some_texts(6), lm.tokenizer, lm.model.config, 40).input_ids
    return collate(rows, pad=1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
def test_loss_by_pieces_is_the_plain_loss(tiny_models, name, monkeypatch):
    lm = fresh(tiny_models[name])
    batch = a_batch(lm)
    # A vocabulary of 300 in pieces of 64 positions.
    monkeypatch.setattr("unidetox.training.loss.LOGITS_AT_ONCE", 1)
    loss = TokenLoss(lm.model)
    value, gradients = our_gradients(lm.model, batch, loss)
    expected, plain = plain_gradients(lm.model, batch)
    assert loss.by_pieces
    assert not loss.use_mask
    assert value == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == plain.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(gradients[key], gradient, atol=2e-6, rtol=1e-4, msg=key)


def with_kl(model, reference, weight, batch):
    """The plain loss plus weight times KL(reference || model), a mean over supervised positions."""
    model.zero_grad()
    told = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    chosen = batch["labels"][:, 1:] != -100
    ours = model(**told).logits[:, :-1][chosen].log_softmax(-1)
    with torch.no_grad():
        theirs = reference(**told).logits[:, :-1][chosen].log_softmax(-1)
    taught = -ours.gather(1, batch["labels"][:, 1:][chosen][:, None]).mean()
    loss = taught + weight * (theirs.exp() * (theirs - ours)).sum(-1).mean()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
@pytest.mark.parametrize("by_pieces", [True, False])
def test_divergence_from_the_reference_is_the_formula(tiny_models, name, by_pieces, monkeypatch):
    lm, other = fresh(tiny_models[name]), fresh(tiny_models[name])
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(0.7)
    monkeypatch.setattr("unidetox.training.loss.LOGITS_AT_ONCE", 1)
    batch = a_batch(lm)
    loss = TokenLoss(lm.model, reference=other.model, kl=0.3)
    loss.by_pieces = by_pieces
    value, gradients = our_gradients(lm.model, batch, loss)
    expected, plain = with_kl(lm.model, other.model, 0.3, batch)
    assert value == pytest.approx(expected, rel=1e-5)
    for key, gradient in plain.items():
        torch.testing.assert_close(gradients[key], gradient, atol=3e-6, rtol=1e-3, msg=key)
    assert all(weight.grad is None for weight in other.model.parameters())


@pytest.mark.parametrize("lora", [False, True])
def test_the_more_divergence_counts_the_nearer_a_model_stays(tiny_gpt2, lora):
    start = weights(fresh(tiny_gpt2).model)
    moved = []
    for kl in (0.0, 1.0, 1000.0):
        report = train_lm(*parts(fresh(tiny_gpt2)), some_texts(), settings(steps=12, lr=1e-3, kl=kl, lora=lora))
        now = weights(merge_lora(report.model))
        moved.append(length({name: now[name] - value for name, value in start.items()}))
    assert moved[0] > moved[1] > moved[2] > 0


def parts(lm):
    return lm.model, lm.tokenizer


def test_logits_that_are_scaled_are_noticed(tiny_llama):
    """Some families (Cohere, Granite) scale their logits after the head; those are trained the plain way."""
    lm = fresh(tiny_llama)
    forward = lm.model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    lm.model.forward = scaled
    loss = TokenLoss(lm.model)
    batch = a_batch(lm)
    value, gradients = our_gradients(lm.model, batch, loss)
    expected, plain = plain_gradients(lm.model, batch)
    assert loss.by_pieces is False
    assert value == pytest.approx(expected, rel=1e-5)
    for key, gradient in plain.items():
        torch.testing.assert_close(gradients[key], gradient, atol=2e-6, rtol=1e-4, msg=key)


def test_a_model_that_needs_its_mask_gets_it(tiny_llama):
    lm = fresh(tiny_llama)
    forward = lm.model.model.forward

    def looks_right(*args, attention_mask=None, input_ids=None, **kwargs):
        out = forward(*args, attention_mask=attention_mask, input_ids=input_ids, **kwargs)
        seen = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        out.last_hidden_state = out.last_hidden_state * (1 + seen.sum(1)[:, None, None] / 50)
        return out

    lm.model.model.forward = looks_right
    loss = TokenLoss(lm.model)
    batch = a_batch(lm)
    value, _ = our_gradients(lm.model, batch, loss)
    expected, _ = plain_gradients(lm.model, batch)
    assert loss.use_mask
    assert value == pytest.approx(expected, rel=1e-5)


def test_the_fused_activation_is_the_same_function(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    batch = a_batch(lm)
    expected, plain = plain_gradients(lm.model, batch)
    act, numbers = lm.model.transformer.h[0].mlp.act, torch.linspace(-6, 6, 1001)
    written_out = act(numbers)
    with fused_gelu():
        assert torch.equal(act(numbers), torch.nn.functional.gelu(numbers, approximate="tanh"))
        value, gradients = plain_gradients(lm.model, batch)
    assert torch.equal(act(numbers), written_out)
    assert value == pytest.approx(expected, rel=1e-5)
    for key, gradient in plain.items():
        torch.testing.assert_close(gradients[key], gradient, atol=2e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("changes", [{"micro_tokens": 1}, {"micro_tokens": 60}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_nothing(tiny_llama, changes):
    whole, parts = fresh(tiny_llama), fresh(tiny_llama)
    start = weights(whole.model)
    expected = train_lm(whole.model, whole.tokenizer, some_texts(), settings())
    report = train_lm(parts.model, parts.tokenizer, some_texts(), settings(**changes))
    assert report.loss_last == pytest.approx(expected.loss_last, rel=1e-5)
    assert apart(parts.model, whole.model, start) < SAME


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError, MemoryError, lambda said: RuntimeError(f"MPS backend {said}")]
)
def test_out_of_memory_goes_on_in_smaller_parts(tiny_llama, monkeypatch, error):
    whole, short = fresh(tiny_llama), fresh(tiny_llama)
    start = weights(whole.model)
    train_lm(whole.model, whole.tokenizer, some_texts(), settings())
    backward = TokenLoss.backward

    def backward_in_little_memory(self, batch, n_tokens):
        total = backward(self, batch, n_tokens)
        if batch["input_ids"].numel() > 50 and len(batch["input_ids"]) > 1:
            raise error("out of memory, after half of the gradient was added")
        return total

    monkeypatch.setattr(TokenLoss, "backward", backward_in_little_memory)
    train_lm(short.model, short.tokenizer, some_texts(), settings())
    assert apart(short.model, whole.model, start) < SAME


def test_too_little_memory_for_one_text(tiny_llama, monkeypatch):
    def backward(self, batch, n_tokens):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TokenLoss, "backward", backward)
    lm = fresh(tiny_llama)
    with pytest.raises(UniDetoxError, match="not enough memory") as caught:
        train_lm(lm.model, lm.tokenizer, some_texts(), settings())
    assert "--lora" in caught.value.hint


def test_other_errors_pass(tiny_llama, monkeypatch):
    def backward(self, batch, n_tokens):
        raise RuntimeError("something else")

    monkeypatch.setattr(TokenLoss, "backward", backward)
    lm = fresh(tiny_llama)
    with pytest.raises(RuntimeError, match="something else"):
        train_lm(lm.model, lm.tokenizer, some_texts(), settings())


# ---- the run ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
def test_training_lowers_the_loss(tiny_models, name):
    lm = fresh(tiny_models[name])
    report = train_lm(lm.model, lm.tokenizer, some_texts(), settings(steps=30, lr=3e-3))
    assert report.loss_last < report.loss_first - 1
    assert report.steps == len(report.log) == 30
    assert report.n_texts == 24
    assert report.resumed_from == 0
    assert report.dtype == "float32 (as asked)"
    assert report.model is lm.model
    assert not lm.model.training
    assert "model" not in report.as_dict()


def test_same_seed_same_weights_and_the_callers_state_is_left_alone(tiny_gpt2, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unidetox.core.console.info", lambda message: None)
    results = []
    for seed in (42, 42, 43):
        lm = fresh(tiny_gpt2)
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        state = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
        train_lm(lm.model, lm.tokenizer, some_texts(), settings(seed=seed, max_length=100))
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]
        assert lm.model.config.use_cache
        assert all(p.grad is None for p in lm.model.parameters())
        results.append(weights(lm.model))
    assert same_weights(results[0], results[1])
    assert not same_weights(results[0], results[2])
    assert list(tmp_path.iterdir()) == [], "nothing is written where nobody asked for it"
    assert "".join(capfd.readouterr()) == "", "nothing is printed"


def test_drop_out_is_as_the_model_says(tiny_gpt2):
    results = []
    for rate in (0.0, 0.3, 0.3):
        lm = fresh(tiny_gpt2)
        for module in lm.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
        train_lm(lm.model, lm.tokenizer, some_texts(), settings())
        results.append(weights(lm.model))
    assert not same_weights(results[0], results[1])
    assert same_weights(results[1], results[2])


def test_half_precision_keeps_full_masters(tiny_llama):
    lm = load_lm(tiny_llama, LoadOptions("cpu", "bfloat16"))
    report = train_lm(lm.model, lm.tokenizer, some_texts(), settings(dtype="bfloat16", lr=1e-5))
    assert report.dtype == "bfloat16 (as asked)"
    exact = fresh(tiny_llama)
    expected = train_lm(exact.model, exact.tokenizer, some_texts(), settings(lr=1e-5))
    assert report.loss_first == pytest.approx(expected.loss_first, rel=0.02)
    start = weights(load_lm(tiny_llama, LoadOptions("cpu", "bfloat16")).model.float())
    for name, weight in weights(lm.model).items():
        assert weight.dtype == torch.float32
        moved = (weight != start[name]).float().mean()
        assert moved > 0.9 or "embed" in name, "steps too small for bfloat16 are not lost"


def test_half_precision_of_sixteen_bits_with_five_of_exponent(tiny_llama):
    lm = fresh(tiny_llama)
    with pytest.raises(UsageError, match="float16 is too narrow"):
        train_lm(lm.model, lm.tokenizer, some_texts(), settings(dtype="float16"))


def test_a_loss_that_is_no_number_stops_the_run(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    with pytest.raises(UniDetoxError, match="the loss became") as caught:
        train_lm(lm.model, lm.tokenizer, some_texts(), settings(lr=1e30, steps=20))
    assert "learning rate" in caught.value.hint


def test_a_tokenizer_of_another_model(tiny_gpt2):
    lm = fresh(tiny_gpt2)
    lm.tokenizer.add_tokens(["fox"])
    with pytest.raises(UsageError, match="knows only"):
        train_lm(lm.model, lm.tokenizer, some_texts(), settings())


def test_the_user_hears_about_texts_cut_or_left_out(tiny_gpt2, monkeypatch):
    from unidetox.core import console

    said: list[str] = []
    monkeypatch.setattr(console, "info", said.append)
    monkeypatch.setattr(console, "warn", said.append)
    lm = fresh(tiny_gpt2)
    lm.tokenizer.bos_token, lm.model.config.bos_token_id = None, None
    train_lm(lm.model, lm.tokenizer, [*some_texts(6), Text("")], settings(max_length=5, steps=1))
    assert said[0] == "1 of 7 texts have no words to train on and are left out"
    assert "are longer than 5 tokens and are cut there" in said[1]


def test_by_object(tiny_opt):
    lm = fresh(tiny_opt)
    out = detoxify_model(
        lm.model, lm.tokenizer, ["the quick brown fox", "she reads"], steps=2, batch_size=2, dtype="float32"
    )
    assert out is lm.model
    again = fresh(tiny_opt)
    unknown = [Text("the quick brown fox"), Text("she reads")]
    detoxify_model(again.model, again.tokenizer, unknown, steps=2, batch_size=2, dtype="float32")
    assert same_weights(weights(lm.model), weights(again.model)), "of a string it is not known whether it ended"


# ---- LoRA ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
def test_lora_trains_an_adapter_that_merges(tiny_models, name, tmp_path):
    lm = fresh(tiny_models[name])
    start = weights(fresh(tiny_models[name]).model)
    report = train_lm(lm.model, lm.tokenizer, some_texts(), settings(lora=True, lora_rank=4, lr=2e-2, steps=12))
    assert report.loss_last < report.loss_first - 0.2
    trained = {n for n, p in report.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n and "lm_head" not in n for n in trained)
    for n, p in report.model.named_parameters():
        if "lora_" not in n:
            assert torch.equal(p, start[n.removeprefix("base_model.model.").replace(".base_layer", "")])
    probe = torch.tensor([[0, 5, 9, 33]])
    expected = report.model(probe).logits.detach()
    save_lm(report.model, lm.tokenizer, tmp_path / "adapter")
    loaded = load_lm(tmp_path / "adapter", LoadOptions("cpu", "float32"))
    torch.testing.assert_close(loaded.model(probe).logits, expected, atol=1e-4, rtol=1e-4)
    merged = merge_lora(report.model)
    assert type(merged) is type(fresh(tiny_models[name]).model)
    torch.testing.assert_close(merged(probe).logits, expected, atol=1e-4, rtol=1e-4)
    assert merge_lora(merged) is merged


def test_lora_leaves_its_base_in_half_precision(tiny_llama):
    lm = load_lm(tiny_llama, LoadOptions("cpu", "bfloat16"))
    model = add_lora(lm.model, settings(lora=True))
    assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    assert add_lora(model, settings(lora=True)) is model
    report = train_lm(model, lm.tokenizer, some_texts(), settings(dtype="bfloat16", lora=True, steps=8, lr=1e-2))
    assert report.loss_last < report.loss_first


# ---- resumption ----


class Stopped(Exception):
    pass


def stop_at(monkeypatch, step: int) -> None:
    from unidetox.training import trainer

    on_step_end = trainer.Watcher.on_step_end

    def stopping(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Stopped
        return on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(trainer.Watcher, "on_step_end", stopping)


@pytest.mark.parametrize(("stop", "lora"), [(3, False), (7, True), (13, False)])
def test_a_stopped_run_ends_with_the_same_weights(tiny_gpt2, tmp_path, stop, lora):
    told = settings(steps=16, save_steps=2, lora=lora)
    whole, part = fresh(tiny_gpt2), fresh(tiny_gpt2)
    for lm in (whole, part):
        for module in lm.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
    expected = train_lm(whole.model, whole.tokenizer, some_texts(), told)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, stop)
        train_lm(part.model, part.tokenizer, some_texts(), told, work_dir=tmp_path)

    again = fresh(tiny_gpt2)
    for module in again.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    report = train_lm(again.model, again.tokenizer, some_texts(), told, work_dir=tmp_path)
    assert report.resumed_from == (stop - 1) // 2 * 2
    assert same_weights(weights(report.model), weights(expected.model))
    assert [row["loss"] for row in report.log] == [row["loss"] for row in expected.log]
    assert report.n_tokens == expected.n_tokens


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_training import fresh, settings, some_texts
from pathlib import Path
from unidetox.training import checkpoints, train_lm
saved = 0
seal = checkpoints.Checkpoints.seal
def seal_then_die(self, path):
    global saved
    saved += 1
    if saved == 2:
        os.kill(os.getpid(), signal.SIGKILL)  # the checkpoint is written, but not yet marked as complete
    seal(self, path)
checkpoints.Checkpoints.seal = seal_then_die
lm = fresh(Path({model!r}))
train_lm(lm.model, lm.tokenizer, some_texts(), settings(steps=10, save_steps=3), work_dir=Path({work!r}))
"""


def test_a_kill_while_a_checkpoint_is_saved(tiny_gpt2, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), model=str(tiny_gpt2), work=str(tmp_path))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    half = tmp_path / "checkpoints" / "checkpoint-6"
    assert half.is_dir()
    (half / "trained.safetensors").write_bytes(b"half")

    whole, again = fresh(tiny_gpt2), fresh(tiny_gpt2)
    told = settings(steps=10, save_steps=3)
    report = train_lm(again.model, again.tokenizer, some_texts(), told, work_dir=tmp_path)
    train_lm(whole.model, whole.tokenizer, some_texts(), told)
    assert report.resumed_from == 3
    assert same_weights(weights(again.model), weights(whole.model))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-9"]


def test_checkpoints_of_another_run_are_not_resumed(tiny_gpt2, tiny_gpt2_toxic, tmp_path):
    told = settings(steps=4, save_steps=2)
    lm = fresh(tiny_gpt2)
    train_lm(lm.model, lm.tokenizer, some_texts(), told, work_dir=tmp_path)
    others = [
        (tiny_gpt2, some_texts(), settings(steps=4, save_steps=2, lr=2e-3)),
        (tiny_gpt2, some_texts(seed=1), told),
        (tiny_gpt2_toxic, some_texts(), told),
    ]
    for path, texts, changed in others:
        lm = fresh(path)
        assert train_lm(lm.model, lm.tokenizer, texts, changed, work_dir=tmp_path).resumed_from == 0
    lm = fresh(tiny_gpt2_toxic)
    same = settings(steps=4, save_steps=1, micro_tokens=30)
    assert train_lm(lm.model, lm.tokenizer, some_texts(), same, work_dir=tmp_path).resumed_from == 2


def test_short_runs_write_no_checkpoint_by_themselves(tiny_gpt2, tmp_path, monkeypatch):
    lm = fresh(tiny_gpt2)
    train_lm(lm.model, lm.tokenizer, some_texts(), settings(steps=20), work_dir=tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
    monkeypatch.setattr("unidetox.training.trainer._SECONDS_BETWEEN_SAVES", 0.0)
    sealed: list[str] = []
    seal = Checkpoints.seal
    monkeypatch.setattr(Checkpoints, "seal", lambda self, path: (sealed.append(path.name), seal(self, path))[1])
    train_lm(lm.model, lm.tokenizer, some_texts(), settings(steps=25), work_dir=tmp_path)
    assert sealed == [f"checkpoint-{n}" for n in range(3, 25, 3)]
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["checkpoint-24"]


def test_only_the_marked_checkpoint_counts(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    assert checkpoints.latest() is None
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.seal(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / "checkpoint-11" / "complete.json").write_text('{"ke')
    assert checkpoints.latest() == tmp_path / "checkpoint-10"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert Checkpoints(tmp_path, "other").latest() is None
