"""The contrast as a logits processor, for anybody's `generate()`."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import LogitsProcessor
from transformers.cache_utils import DynamicCache

from unidetox.core.errors import UsageError
from unidetox.decoding.sources import check_contrast, contrast_scores
from unidetox.decoding.ways import backbone


class ContrastiveLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Turn a base model's logits into the contrast with a toxic model.

    The toxic model keeps a cache of its own; where the sequences are not the last ones plus one token (a new call, beam
    search), they are read again. Use it with ``top_k=0``, as `generate` otherwise keeps the 50 best tokens in silence.

    Args:
        toxic_model: The toxic LM, with the vocabulary of the model that generates.
        alpha: Plausibility threshold in (0, 1].
        beta: Strength of the contrast, > 0; infinity is the paper's rule ``base - toxic``.
        attention_mask: ``[prompts, prompt tokens]`` of left-padded prompts, whatever the number of sequences or beams a
            prompt; none means no padding.

    Reference: see `unidetox.decoding.sources.contrast_scores`.
    """

    def __init__(
        self,
        toxic_model: Any,
        alpha: float = 0.1,
        beta: float = math.inf,
        attention_mask: torch.Tensor | None = None,
    ) -> None:
        check_contrast(alpha, beta)
        if not hasattr(toxic_model, "config"):
            what = f"{type(toxic_model).__name__} is no model"
            raise UsageError(what, hint="Give the loaded model: AutoModelForCausalLM.from_pretrained(...)")
        self.toxic_model, self.alpha, self.beta, self.attention_mask = (
            toxic_model,
            alpha,
            beta,
            attention_mask,
        )
        self._cache: DynamicCache | None = None
        self._seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the contrast's scores, float32 ``[rows, vocabulary]``, for the token after ``input_ids``."""
        toxic = self._next_logits(input_ids)
        if toxic.shape != scores.shape:
            raise UsageError(
                f"the vocabularies differ: {scores.shape[-1]} tokens and, of the toxic model, {toxic.shape[-1]}",
                hint="Make the toxic model from the very model that generates",
            )
        return contrast_scores(scores, toxic, alpha=self.alpha, beta=self.beta)  # type: ignore[return-value]

    @torch.inference_mode()
    def _next_logits(self, ids: torch.Tensor) -> torch.Tensor:
        reader, seen = backbone(self.toxic_model), self._seen
        takes_cache = reader.cache_name in ("past_key_values", "cache")
        goes_on = seen is not None and torch.equal(seen, ids[:, :-1]) and takes_cache
        if not goes_on:
            self._cache = DynamicCache(config=self.toxic_model.config) if takes_cache else None
        mask = self._mask(ids)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        new = slice(-1, None) if goes_on else slice(None)
        inputs = reader.inputs(ids[:, new], positions[:, new], self._cache) | {"attention_mask": mask}
        vectors = reader.select(inputs, torch.arange(len(ids), device=ids.device), torch.tensor(-1))
        self._seen = ids.clone()
        return reader.logits(vectors)

    def _mask(self, ids: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(ids)
        if self.attention_mask is not None:
            given = torch.as_tensor(self.attention_mask, device=ids.device)
            if given.dim() != 2 or not given.numel() or len(ids) % len(given) or given.shape[1] > ids.shape[1]:
                what = f"the attention mask is {list(given.shape)}, the sequences are {list(ids.shape)}"
                raise UsageError(what, hint="Give the prompts' mask, [prompts, tokens], as the tokenizer returns it")
            mask[:, : given.shape[1]] = given.repeat_interleave(len(ids) // len(given), 0)
        return mask
