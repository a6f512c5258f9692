"""Perplexity of 2 500 continuations of 100 prompts, against one text at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from common import Work, causal_lm, chosen_dtype, forward_work, in_turns, options, random_prompts, report
from unidetox.decoding import loglikelihood

Pairs = list[tuple[list[int], list[int]]]


def score_ours(model: Any, pairs: Pairs) -> list[float]:
    """Our summed log-probabilities."""
    scores = dict(loglikelihood(model, [prompt for prompt, _ in pairs], [text for _, text in pairs]))
    return [float(scores[i].double().sum()) for i in range(len(pairs))]


def score_plainly(model: Any, pairs: Pairs) -> list[float]:
    """One text at a time through the model, as evaluation scripts do."""
    result = []
    for prompt, text in pairs:
        ids = torch.tensor([prompt + text])
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        result.append(float(logprobs.gather(1, ids[0, len(prompt) :, None]).double().sum()))
    return result


def work_of(model: Any, pairs: Pairs) -> Work:
    """Each distinct prompt once; of each continuation all tokens but the last, which need only be predicted."""
    distinct = {tuple(prompt) for prompt, _ in pairs}
    tokens = sum(map(len, distinct)) + sum(len(text) - 1 for _, text in pairs)
    attended = sum(len(text) * (len(prompt) + len(text) / 2) for prompt, text in pairs)
    return forward_work(model, tokens, 1, sum(len(text) for _, text in pairs), attended)


def perplexities(scores: list[float], pairs: Pairs) -> np.ndarray:
    """exp(-log p / n) of each."""
    return np.array([math.exp(-score / len(text)) for score, (_, text) in zip(scores, pairs, strict=True)])


def agrees(ours: list[float], plain: list[float], pairs: Pairs, dtype: torch.dtype) -> tuple[bool, float]:
    """Whether log-likelihoods agree (float32), or each perplexity to a tenth and their mean to a hundredth."""
    error = float(np.abs(np.array(ours) - np.array(plain)).max())
    a, b = perplexities(ours, pairs), perplexities(plain, pairs)
    close = bool(np.allclose(a, b, rtol=0.1)) and abs(a.mean() / b.mean() - 1) < 0.01
    return (error < 5e-3 if dtype == torch.float32 else close), error


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)
    plain_model = causal_lm(args.model, torch.float32, tiny=args.tiny)
    model = plain_model if dtype == torch.float32 else causal_lm(args.model, dtype, tiny=args.tiny)
    prompts = random_prompts(int(100 * args.share), model.config.vocab_size)
    generator = np.random.default_rng(1)
    pairs = [(p, generator.integers(1, model.config.vocab_size, 20).tolist()) for p in prompts for _ in range(25)]
    turns = in_turns(lambda: score_ours(model, pairs), lambda: score_plainly(plain_model, pairs), args.repeats)
    agree, error = agrees(turns.ours, turns.plain, pairs, dtype)
    report("perplexity", turns, agree, work_of(model, pairs).floor(dtype), largest_error=error)


if __name__ == "__main__":
    main()
