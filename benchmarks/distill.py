"""Distillation: 128 texts of 256 tokens from two models, against `generate()` with a second stock cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessorList

from common import (
    SIGNIFICANCE,
    Work,
    causal_lm,
    chosen_dtype,
    forward_work,
    in_turns,
    mean_logprobs,
    options,
    report,
    same_numbers,
    same_tokens,
)
from unidetox.decoding import SamplingSettings, contrast, contrast_scores, sample


class PlainContrast:
    """What a careful user writes: the second model has a stock cache of its own; arithmetic in float32."""

    def __init__(self, toxic: Any) -> None:
        self.toxic, self.cache = toxic, DynamicCache()

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        new = ids if self.cache.get_seq_length() == 0 else ids[:, -1:]
        with torch.inference_mode():
            logits = self.toxic(input_ids=new, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        return contrast_scores(scores, logits[:, -1], alpha=0.1)


def main() -> None:
    args = options(__doc__)
    dtype = chosen_dtype(args.dtype)  # plain and ours share it, as the published code distils in bfloat16
    texts, length = (16, 24) if args.tiny else (int(128 * args.share), 256)
    base = causal_lm(args.model, dtype, tiny=args.tiny)
    toxic = causal_lm(args.toxic or args.model, dtype, tiny=args.tiny, seed=1)
    bos = base.config.bos_token_id

    def ours() -> list[list[int]]:
        settings = SamplingSettings(length, seed=3)
        batches = sample(contrast(base, toxic), [[bos]], texts, settings)
        return [row.token_ids for batch in batches for row in batch]

    def plain() -> list[list[int]]:
        torch.manual_seed(3)
        ids = torch.full((texts, 1), bos)
        with torch.inference_mode():
            out = base.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=length,
                eos_token_id=None, pad_token_id=bos, logits_processor=LogitsProcessorList([PlainContrast(toxic)]),
            )  # fmt: skip
        return out[:, 1:].tolist()  # type: ignore[no-any-return]

    turns = in_turns(ours, plain, args.repeats)
    p_tokens = same_tokens(turns.ours, turns.plain)
    p_logprob = same_numbers(*(mean_logprobs(base, [[bos]] * texts, t) for t in (turns.ours, turns.plain)))
    tokens = texts * length
    work = Work()
    for model in (base, toxic):
        work += forward_work(model, tokens, length, tokens, attended=tokens * length / 2)
        # Each step reads the keys and values of all tokens before it.
        kept = 2 * model.config.num_hidden_layers * model.config.hidden_size * dtype.itemsize
        work.bytes += kept * tokens * length / 2
    agree = len(turns.ours) == texts and min(p_tokens, p_logprob) > SIGNIFICANCE
    rate = round(tokens / turns.ours_s, 1)
    report("distill", turns, agree, work.floor(dtype), p_tokens=p_tokens, p_logprob=p_logprob, tokens_per_second=rate)


if __name__ == "__main__":
    main()
