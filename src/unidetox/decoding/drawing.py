"""From scores and one uniform number a row to one token a row, without sorting the vocabulary."""

from __future__ import annotations

import torch

BLOCK = 128


def draw(scores: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution at a given number.

    Args:
        scores: float32 ``[rows, vocabulary]``; ``-inf`` marks what cannot be drawn.
        uniform: float64 ``[rows]`` in [0, 1).
        temperature: Divides the scores; > 0.
        top_k: Keep this many best tokens; 0 keeps all.
        top_p: Keep the smallest set of best tokens that holds this much probability; in (0, 1].

    Returns:
        int64 ``[rows]``.
    """
    if temperature != 1.0:
        scores = scores / temperature
    top_k = min(top_k, scores.shape[-1])
    if top_k:
        values, tokens = scores.topk(top_k, sorted=True)
        return _gather(tokens, _invert(_nucleus(_weights(values), top_p), uniform))
    if top_p < 1:
        values, tokens = _candidates(scores, top_p)
        return _gather(tokens, _invert(_nucleus(_weights(values), top_p), uniform))
    return _invert_blocks(_weights(scores), uniform)


def _weights(scores: torch.Tensor) -> torch.Tensor:
    """Unnormalised probabilities, the best token's being 1."""
    return (scores - scores.amax(-1, keepdim=True)).exp_()


def _gather(tokens: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, column[:, None])[:, 0]


def _nucleus(weights: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero what lies outside the nucleus; weights ``[rows, n]`` are sorted downwards and hold all mass that counts.

    A token stays while the mass before it is below ``top_p`` of the whole, as in transformers' `TopPLogitsWarper`.
    """
    if top_p >= 1:
        return weights
    cumulative = weights.double().cumsum(-1)
    before = cumulative - weights
    return weights.masked_fill(before >= top_p * cumulative[:, -1:], 0.0)


def _candidates(scores: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sorted scores and tokens ``[rows, n]`` that contain the nucleus, and the rest as one last column.

    Tokens above any threshold are a set of best tokens, so if they hold ``top_p`` of the mass the nucleus is within
    them; only they are sorted. The threshold falls until that is so in every row.
    """
    best = scores.amax(-1, keepdim=True)
    weights = (scores - best).exp_()
    total = weights.sum(-1, dtype=torch.float64)
    for reach in (4.0, 7.0, 11.0):
        kept = scores >= best - reach
        if bool(((weights * kept).sum(-1, dtype=torch.float64) >= top_p * total).all()):
            break
    else:
        return torch.sort(scores, stable=True, dim=-1, descending=True)
    width = int(kept.sum(-1).max())
    values, tokens = scores.topk(width, sorted=True)
    inside = (values - best).exp().sum(-1, dtype=torch.float64)
    # The last column stands for all that was left out: it completes the mass and lies outside every nucleus.
    rest = ((total - inside).clamp_min(0).log() + best[:, 0]).float()
    return torch.cat([values, rest[:, None]], 1), torch.nn.functional.pad(tokens, (0, 1))


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the first column ``[rows]`` at which the cumulative weight exceeds ``uniform`` of the whole."""
    cumulative = weights.double().cumsum(-1)
    return _first_above(cumulative, uniform * cumulative[:, -1])


def _first_above(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the first column whose value exceeds the target; it has weight, and the last is never passed."""
    below = torch.nextafter(cumulative[:, -1], torch.zeros_like(target))
    return torch.searchsorted(cumulative, torch.minimum(target, below)[:, None], right=True)[:, 0]


def _invert_blocks(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """`_invert` for a whole vocabulary: first the block, from the blocks' sums, then the token within it."""
    rows, size = weights.shape
    weights = torch.nn.functional.pad(weights, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    cumulative = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform * cumulative[:, -1]
    block = _first_above(cumulative, target)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, block[:, None])[:, 0]
    inside = weights[torch.arange(rows, device=weights.device), block].double().cumsum(-1)
    return block * BLOCK + _first_above(inside, target - before)
