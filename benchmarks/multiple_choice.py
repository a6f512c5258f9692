"""Multiple choice, 5-shot: 100 questions of 4 choices in 2 subjects, against one choice at a time."""

from __future__ import annotations

import numpy as np
import torch

from common import causal_lm, chosen_dtype, forward_work, in_turns, options, report
from perplexity import Pairs, score_ours, score_plainly


def questions(count: int, vocabulary: int, shots: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of few-shot prompt and choice, four a question, of the lengths that MMLU has with GPT-2's tokenizer."""
    generator = np.random.default_rng(0)
    pairs: Pairs = []
    for _ in range(2):
        examples = generator.integers(1, vocabulary, shots * 60).tolist()
        for _ in range(count // 2):
            prompt = examples + generator.integers(1, vocabulary, generator.integers(25, 60)).tolist()
            pairs += [(prompt, generator.integers(1, vocabulary, generator.integers(1, 12)).tolist()) for _ in range(4)]
    return pairs


def choices(scores: list[float]) -> list[int]:
    """The most likely choice of each question."""
    return np.array(scores).reshape(-1, 4).argmax(1).tolist()  # type: ignore[no-any-return]


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)
    plain_model = causal_lm(args.model, torch.float32, tiny=args.tiny)
    model = plain_model if dtype == torch.float32 else causal_lm(args.model, dtype, tiny=args.tiny)
    pairs = questions(8 if args.tiny else int(100 * args.share), model.config.vocab_size, 1 if args.tiny else 5)
    turns = in_turns(lambda: score_ours(model, pairs), lambda: score_plainly(plain_model, pairs), args.repeats)
    same = float(np.mean(np.array(choices(turns.ours)) == np.array(choices(turns.plain))))
    error = float(np.abs(np.array(turns.ours) - np.array(turns.plain)).max())
    agree = error < 5e-3 if dtype == torch.float32 else same >= 0.97
    shots = 1 if args.tiny else 5
    prompts = {tuple(prompt) for prompt, _ in pairs}
    tokens = 2 * shots * 60 + sum(len(p) - shots * 60 for p in prompts) + sum(len(t) - 1 for _, t in pairs)
    logits = len(prompts) + sum(len(t) - 1 for _, t in pairs)
    attended = sum(len(p) * (len(p) - shots * 60) for p in prompts) + sum(len(p) * len(t) for p, t in pairs)
    work = forward_work(model, tokens, 1, logits, attended)
    report("multiple_choice", turns, agree, work.floor(dtype), largest_error=error, same_answers=same)


if __name__ == "__main__":
    main()
