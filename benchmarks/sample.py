"""Continuations: 25 of 20 tokens for each of 100 prompts, against `generate()` one prompt at a time."""

from __future__ import annotations

from typing import Any

import torch

from common import (
    SIGNIFICANCE,
    Work,
    causal_lm,
    chosen_dtype,
    forward_work,
    in_turns,
    mean_logprobs,
    options,
    random_prompts,
    report,
    same_numbers,
    same_tokens,
)
from unidetox.decoding import SamplingSettings, lm, sample

NEW, SAMPLES = 20, 25


def sample_ours(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Our continuations, ``SAMPLES`` a prompt, in the order of the prompts."""
    rows = [row for batch in sample(lm(model), prompts, SAMPLES, SamplingSettings(NEW, top_p=0.9)) for row in batch]
    return [row.token_ids for row in sorted(rows, key=lambda row: (row.prompt_index, row.sample_index))]


def sample_plainly(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Continuations by `generate()`, one prompt at a time."""
    torch.manual_seed(0)
    result: list[list[int]] = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_p=0.9, top_k=0, max_new_tokens=NEW,
                num_return_sequences=SAMPLES, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        result += out[:, len(prompt) :].tolist()
    return result


def work_of(model: Any, prompts: list[list[int]]) -> Work:
    """Prompts once, each new token once."""
    read, new = sum(map(len, prompts)), len(prompts) * SAMPLES * NEW
    attended = sum(SAMPLES * NEW * (len(prompt) + NEW / 2) for prompt in prompts)
    return forward_work(model, read + new, NEW, new, attended)


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)
    plain_model = causal_lm(args.model, torch.float32, tiny=args.tiny)
    model = plain_model if dtype == torch.float32 else causal_lm(args.model, dtype, tiny=args.tiny)
    prompts = random_prompts(int(100 * args.share), model.config.vocab_size)
    turns = in_turns(lambda: sample_ours(model, prompts), lambda: sample_plainly(plain_model, prompts), args.repeats)
    p_tokens = same_tokens(turns.ours, turns.plain)
    few = slice(0, 10 * SAMPLES)
    owners = [prompt for prompt in prompts for _ in range(SAMPLES)][few]
    p_logprob = same_numbers(*(mean_logprobs(plain_model, owners, t[few]) for t in (turns.ours, turns.plain)))
    agree = len(turns.ours) == len(turns.plain) and min(p_tokens, p_logprob) > SIGNIFICANCE
    report("sample", turns, agree, work_of(model, prompts).floor(dtype), p_tokens=p_tokens, p_logprob=p_logprob)


if __name__ == "__main__":
    main()
