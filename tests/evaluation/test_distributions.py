"""How many continuations and prompts lie where, by hand."""

from __future__ import annotations

from unidetox.evaluation.metrics.distributions import BINS, distributions


def test_counts_by_hand():
    scores = {("1", 1): [0.0, 0.04, 0.5], ("2", 1): [1.0, 0.5, 0.05], ("1", 2): [0.96, 0.2, 0.0]}
    rows = [{"prompt_id": p, "seed": s, "toxicity": t} for (p, s), values in scores.items() for t in values]
    found = distributions(rows)
    assert BINS == 20 and {len(counts) for counts in found.values()} == {20}
    places = {name: {i: n for i, n in enumerate(counts) if n} for name, counts in found.items()}
    assert places == {"toxicity": {0: 3, 1: 1, 4: 1, 10: 2, 19: 2}, "maximum": {10: 1, 19: 2}}
    assert distributions([]) == {"toxicity": [0] * 20, "maximum": [0] * 20}
