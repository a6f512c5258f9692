"""One epoch of detox fine-tuning on 640 texts, against padding to the maximum in float32; each in its own process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import Turns, Work, causal_lm, chosen_dtype, classifier, forward_work, options, report, word

BATCH, LENGTH, RATE = 8, 256, 5e-5


def texts_of(count: int, longest: int) -> list[str]:
    """Three of four texts run to the limit, as the published ones do; the others end before."""
    generator = np.random.default_rng(0)
    lengths = [longest if generator.random() < 0.75 else int(generator.integers(8, longest)) for _ in range(count)]
    return [" ".join(word(i) for i in generator.integers(0, 996, length)) for length in lengths]


def setting(args: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """Model, tokenizer and texts of either side."""
    from unidetox.data import Text
    from unidetox.models import load_tokenizer

    model = causal_lm(args.model, torch.float32, tiny=args.tiny)
    tokenizer = load_tokenizer(args.model) if args.model else classifier(None, torch.float32, tiny=True).tokenizer
    count, longest = (24, 40) if args.tiny else (int(640 * args.share), LENGTH - 2)
    return model, tokenizer, [Text(text, "length") for text in texts_of(count, longest)]


def rows_of(model: Any, tokenizer: Any, texts: list[Any]) -> list[list[int]]:
    """Token ids of the texts, as our training encodes them."""
    from unidetox.training import encode_texts

    return encode_texts(texts, tokenizer, model.config, LENGTH).input_ids


def train_ours(model: Any, tokenizer: Any, texts: list[Any], dtype: str) -> None:
    """Our fine-tuning."""
    from unidetox.training import TrainSettings, train_lm

    settings = TrainSettings(lr=RATE, batch_size=BATCH, max_length=LENGTH, epochs=1.0, dtype=dtype)
    train_lm(model, tokenizer, texts, settings)


def train_plainly(model: Any, rows: list[list[int]]) -> None:
    """A plain loop: everything padded to the longest text, labels masked, float32."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    order = torch.split(torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)), BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    model.train()
    for batch in order:
        loss = model(input_ids=ids[batch], attention_mask=(labels[batch] >= 0).long(), labels=labels[batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def mean_loss(model: Any, rows: list[list[int]]) -> float:
    """Loss a token over some texts."""
    from unidetox.decoding import loglikelihood

    scored = loglikelihood(model, [row[:1] for row in rows], [row[1:] for row in rows])
    return -float(torch.cat([values for _, values in scored]).double().mean())


def one_side(args: argparse.Namespace) -> None:
    """Train in this process and print seconds, peak memory above what was there before, and the loss reached."""
    model, tokenizer, texts = setting(args)
    rows = rows_of(model, tokenizer, texts)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if args.side == "ours":
        train_ours(model, tokenizer, texts, args.dtype)
    else:
        train_plainly(model, rows)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = mean_loss(model, rows[:64])
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "added_mib": (peak - before) / 1024, "loss": loss}))


def run_side(side: str) -> dict[str, float]:
    """Run one side in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--side", side]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(side, result.stdout.splitlines()[-1])
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    side = None
    if "--side" in sys.argv:  # this process is a child; `run_side` puts the option last
        side = sys.argv.pop()
        sys.argv.pop()
    args = options(__doc__)
    args.side = side
    if side:
        one_side(args)
        return
    sides = [(run_side("plain"), run_side("ours")) for _ in range(args.repeats)]
    plain, ours = (min((pair[i] for pair in sides), key=lambda result: result["seconds"]) for i in (0, 1))
    model, tokenizer, texts = setting(args)
    rows = rows_of(model, tokenizer, texts)
    tokens, steps = sum(map(len, rows)), -(-len(rows) // BATCH)
    forward = forward_work(model, tokens, steps, tokens, sum(len(row) ** 2 for row in rows) / 2)
    # Backwards is twice the products; the optimizer reads and writes weights, gradients and two moments.
    weights = sum(p.numel() for p in model.parameters())
    work = Work(3 * forward.flops, 3 * forward.bytes + steps * 7 * 4 * weights)
    turns = Turns(ours["seconds"], plain["seconds"], None, None)
    agree = abs(ours["loss"] / plain["loss"] - 1) < 0.02
    both, keys = {"ours": ours, "plain": plain}, ("peak_mib", "added_mib")
    memory = {f"{name}_{key}": round(both[name][key], 1) for name in both for key in keys}
    losses = {"ours_loss": round(ours["loss"], 4), "plain_loss": round(plain["loss"], 4)}
    report("finetune", turns, agree, work.floor(chosen_dtype(args.dtype)), **memory, **losses)


if __name__ == "__main__":
    main()
