"""From scores and one uniform number a row to one token a row, without sorting the vocabulary."""

from __future__ import annotations

import torch

from unidetox.core.errors import UniDetoxError
from unidetox.decoding.random_streams import again

BLOCK = 128


def draw(scores: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Draw one token a row; what a row draws depends on its own scores and number alone.

    Args:
        scores: float32 ``[rows, vocabulary]``; ``-inf`` marks what cannot be drawn.
        uniform: float64 ``[rows]`` in [0, 1).
        temperature: Divides the scores; > 0.
        top_k: Keep this many best tokens; 0 keeps all.
        top_p: Keep the smallest set of best tokens that holds this much probability; in (0, 1].

    Returns:
        int64 ``[rows]``.

    Raises:
        UniDetoxError: Where a row's best score is not a finite number.
    """
    # 1. The best k tokens, where asked for: columns are then places among them, and `tokens` says which they are.
    tokens = None
    if 0 < top_k < scores.shape[-1]:
        scores, tokens = scores.topk(top_k)  # both [rows, k]
    # 2. Weights, [rows, columns].
    weights = _weights(scores, temperature)
    # 3. The column at which the cumulative weight passes the uniform number, [rows].
    columns = _invert(weights, uniform)[0] if top_p >= 1 else _invert_nucleus(weights, uniform, top_p)
    return columns if tokens is None else tokens.gather(1, columns[:, None])[:, 0]


def _weights(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Unnormalised probabilities, the best token's being 1."""
    best = scores.amax(-1, keepdim=True)  # [rows, 1]
    if not bool(best.isfinite().all()):
        raise not_numbers()
    weights = scores - best
    return (weights if temperature == 1.0 else weights.div_(temperature)).exp_()


def _invert_nucleus(weights: torch.Tensor, uniform: torch.Tensor, top_p: float) -> torch.Tensor:
    """`_invert` within the nucleus, which is never written down.

    A token is in it while the mass of better ones (of equals, those with a lower number) is below ``top_p`` of the
    whole, as in transformers' `TopPLogitsWarper`. So a token is drawn from the whole and tested; if it is outside, all
    worse ones are too: they are struck out and the row draws again, with a new number made from the old one.
    """
    # 1. Draw from the whole; `limit` [rows] is the nucleus' mass.
    result, total = _invert(weights, uniform)  # int64 [rows], float64 [rows]
    limit = top_p * total
    rows, columns = torch.arange(weights.shape[0], device=weights.device), result
    while True:
        # 2. Keep the rows whose token is outside: `rows`, `columns`, `limit`, `weights`, `uniform` shrink alike.
        outside = ~_inside(weights, columns, limit)
        if not bool(outside.any()):
            return result
        rows, columns, limit = rows[outside], columns[outside], limit[outside]
        # 3. Strike out that token and all worse ones, and draw again.
        weights = _strike_out(weights[outside], columns)
        uniform = again(uniform[outside])
        columns, _ = _invert(weights, uniform)
        result[rows] = columns


def _inside(weights: torch.Tensor, columns: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Whether these tokens ``[rows]`` are in the nucleus."""
    own = weights.gather(1, columns[:, None])  # [rows, 1]
    # With all its equals counted as better, a token that is inside still is: that settles nearly all rows in one pass.
    inside = (weights * (weights >= own)).sum(-1).double() - own[:, 0] < limit
    unclear = (~inside).nonzero()[:, 0]
    if len(unclear):
        weights, own, columns = weights[unclear], own[unclear], columns[unclear]
        before = torch.arange(weights.shape[1], device=weights.device) < columns[:, None]  # [unclear, vocabulary]
        better = (weights > own) | ((weights == own) & before)
        inside[unclear] = (weights * better).sum(-1).double() < limit[unclear]
    return inside


def _strike_out(weights: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Zero these tokens and all worse ones."""
    own = weights.gather(1, columns[:, None])
    behind = torch.arange(weights.shape[1], device=weights.device) >= columns[:, None]
    return weights.masked_fill((weights < own) | ((weights == own) & behind), 0.0)


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first token ``[rows]`` at which the cumulative weight exceeds ``uniform`` of the whole, and the whole.

    First the block of tokens, from the blocks' sums, then the token within the block.
    """
    # 1. Which block: float64 [rows, blocks], in float64 as 50,000 float32 additions would lose small weights.
    cumulative = _block_sums(weights).double().cumsum(-1)
    total = cumulative[:, -1]  # [rows]
    block = _first_above(cumulative, uniform * total)  # [rows]
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, block[:, None])  # [rows, 1], mass of earlier blocks
    # 2. Which token of it: [rows, BLOCK]; the last block may be short, what lies behind weighs nothing.
    columns = block[:, None] * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, columns.clamp_max(weights.shape[1] - 1)).double()
    inside = inside.masked_fill_(columns >= weights.shape[1], 0.0).cumsum(-1)
    return block * BLOCK + _first_above(inside, uniform * total - before[:, 0]), total


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sum each block of columns, the last of which may be short, ``[rows, vocabulary] -> [rows, blocks]``."""
    whole = weights.shape[1] // BLOCK * BLOCK
    sums = weights[:, :whole].view(len(weights), whole // BLOCK, BLOCK).sum(-1)
    return torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], 1) if whole < weights.shape[1] else sums


def _first_above(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the first column whose value exceeds the target; it has weight, and the last is never passed."""
    below = torch.nextafter(cumulative[:, -1], torch.zeros_like(target))  # [rows], the largest number below the whole
    return torch.searchsorted(cumulative, torch.minimum(target, below)[:, None], right=True)[:, 0]


def not_numbers() -> UniDetoxError:
    """What to raise where a model's logits are NaN or infinite."""
    return UniDetoxError("the model's logits are not numbers", hint="The checkpoint is broken, or try --dtype float32")
