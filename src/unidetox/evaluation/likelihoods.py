"""How likely a language model finds continuations that another one wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unidetox.evaluation.prompt_encoding import encode_pairs, start_of

if TYPE_CHECKING:
    from unidetox.models import LM


@dataclass(frozen=True)
class Nll:
    """The negative log-likelihood of one continuation, given its prompt or alone.

    Attributes:
        index: Which continuation.
        nll: Summed over its tokens, in nats.
        n_tokens: How many tokens of the scoring model it is; 0 for an empty one, and for one that alone is longer than
            the model's context (then ``cut`` is true).
        cut: Whether tokens were lost to fit the model's context.
    """

    index: int
    nll: float
    n_tokens: int
    cut: bool = False


def continuation_nll(
    lm: LM,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    alone: bool = False,
    batch_size: int | Literal["auto"] = "auto",
) -> Iterator[Nll]:
    """Yield the negative log-likelihood of each continuation given its prompt, in no particular order.

    Prompt and continuation are encoded together, so that a token at their boundary is the one that the model would
    see. A prompt that does not fit the context is cut on the left, and the result says so.

    Args:
        lm: The scoring model.
        prompts: ``[n]`` prompts; equal ones go through the model once.
        continuations: ``[n]`` continuations.
        alone: Let the model read its start token only in place of each prompt; the continuation's tokens stay the same.
        batch_size: How many rows go through the model at once.

    Raises:
        UniDetoxError: If the model answers NaN.
    """
    from unidetox.decoding.likelihood import loglikelihood

    pairs = encode_pairs(lm, prompts, continuations)
    filled = [i for i, pair in enumerate(pairs) if pair.continuation]
    yield from (Nll(i, 0.0, 0, pair.cut) for i, pair in enumerate(pairs) if not pair.continuation)
    start = start_of(lm) if alone and filled else []
    contexts, targets = [start or pairs[i].context for i in filled], [pairs[i].continuation for i in filled]
    for k, logprobs in loglikelihood(lm.model, contexts, targets, batch_size=batch_size):
        nll = -float(logprobs.double().sum())
        yield Nll(filled[k], nll, len(targets[k]), pairs[filled[k]].cut)
