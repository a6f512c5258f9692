"""The whole evaluation: sample, score toxicity, perplexity; against the plain way of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common import (
    SIGNIFICANCE,
    causal_lm,
    chosen_dtype,
    classifier,
    in_turns,
    options,
    random_prompts,
    report,
    same_numbers,
    word,
)
from perplexity import perplexities
from perplexity import score_ours as perplexity_ours
from perplexity import score_plainly as perplexity_plainly
from perplexity import work_of as perplexity_work
from sample import SAMPLES, sample_ours, sample_plainly
from sample import work_of as sample_work
from toxicity import score_ours as toxicity_ours
from toxicity import score_plainly as toxicity_plainly
from toxicity import work_of as toxicity_work
from unidetox.evaluation.metrics.toxicity import toxicity_by_prompt


def spoken(tokens: list[int]) -> str:
    """A text for the classifier; random models have no words of their own."""
    return " ".join(word(token) for token in tokens)


def evaluate(model: Any, judge: Any, prompts: list[list[int]], steps: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Sample, score and measure with one side's functions."""
    draw, score, likelihood = steps
    texts = draw(model, prompts)
    toxicity = score(judge, [spoken(text) for text in texts])
    pairs = list(zip([prompt for prompt in prompts for _ in range(SAMPLES)], texts, strict=True))
    ppl = perplexities(likelihood(model, pairs), pairs)
    return {"texts": texts, "pairs": pairs, "ppl": ppl, "emt": np.array(toxicity).reshape(-1, SAMPLES)}


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)
    plain_model = causal_lm(args.model, torch.float32, tiny=args.tiny)
    plain_judge = classifier(args.classifier, torch.float32, tiny=args.tiny)
    model, judge = plain_model, plain_judge
    if dtype != torch.float32:
        model = causal_lm(args.model, dtype, tiny=args.tiny)
        judge = classifier(args.classifier, dtype, tiny=args.tiny)
    prompts = random_prompts(int(100 * args.share), model.config.vocab_size)
    turns = in_turns(
        lambda: evaluate(model, judge, prompts, (sample_ours, toxicity_ours, perplexity_ours)),
        lambda: evaluate(plain_model, plain_judge, prompts, (sample_plainly, toxicity_plainly, perplexity_plainly)),
        args.repeats,
    )
    p_toxicity = same_numbers(turns.ours["emt"].max(1), turns.plain["emt"].max(1))
    p_ppl = same_numbers(turns.ours["ppl"], turns.plain["ppl"])
    emt = [round(float(toxicity_by_prompt(side["emt"])["emt"].mean()), 4) for side in (turns.ours, turns.plain)]
    ppl = [round(float(side["ppl"].mean()), 2) for side in (turns.ours, turns.plain)]
    texts = [spoken(text) for text in turns.ours["texts"]]
    floor = sum(
        work.floor(dtype)
        for work in (
            sample_work(model, prompts),
            perplexity_work(model, turns.ours["pairs"]),
            toxicity_work(judge, texts),
        )
    )
    agree = min(p_toxicity, p_ppl) > SIGNIFICANCE
    report("evaluate", turns, agree, floor, emt=emt, ppl=ppl, p_toxicity=p_toxicity, p_ppl=p_ppl)


if __name__ == "__main__":
    main()
