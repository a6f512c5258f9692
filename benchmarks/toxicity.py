"""Toxicity scores of 2 500 continuations, against one text at a time through the classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common import Work, chosen_dtype, classifier, forward_work, in_turns, options, report, word
from unidetox.evaluation.scorers.classifier import ClassifierScorer


def random_texts(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 5 to 30 invented words; as with real continuations, some come twice."""
    generator = np.random.default_rng(seed)
    distinct = [" ".join(word(i) for i in generator.integers(0, 996, generator.integers(5, 31))) for _ in range(count)]
    return distinct[: count - count // 50] + distinct[: count // 50]


def score_ours(judge: Any, texts: list[str]) -> list[float]:
    """Our scores."""
    scorer = ClassifierScorer(judge)
    return [scorer.toxicity(row) for row in scorer.score(texts)]


def score_plainly(judge: Any, texts: list[str]) -> list[float]:
    """One text at a time."""
    result = []
    for text in texts:
        with torch.inference_mode():
            logits = judge.model(**judge.tokenizer(text, truncation=True, max_length=512, return_tensors="pt")).logits
        result.append(float((logits.sigmoid() if judge.activation == "sigmoid" else logits.softmax(-1))[0, 0]))
    return result


def work_of(judge: Any, texts: list[str]) -> Work:
    """Each distinct text once, no padding."""
    lengths = [len(ids) for ids in judge.tokenizer(list(dict.fromkeys(texts)))["input_ids"]]
    return forward_work(judge.model, sum(lengths), 1, attended=sum(n * n for n in lengths))


def agrees(ours: list[float], plain: list[float], dtype: torch.dtype) -> tuple[bool, float]:
    """Whether scores agree, and the largest difference."""
    error = float(np.abs(np.array(ours) - np.array(plain)).max())
    return error < (1e-4 if dtype == torch.float32 else 0.05), error


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)
    plain_judge = classifier(args.classifier, torch.float32, tiny=args.tiny)
    judge = plain_judge if dtype == torch.float32 else classifier(args.classifier, dtype, tiny=args.tiny)
    texts = random_texts(int(2500 * args.share))
    turns = in_turns(lambda: score_ours(judge, texts), lambda: score_plainly(plain_judge, texts), args.repeats)
    agree, error = agrees(turns.ours, turns.plain, dtype)
    report("toxicity", turns, agree, work_of(judge, texts).floor(dtype), largest_error=error)


if __name__ == "__main__":
    main()
