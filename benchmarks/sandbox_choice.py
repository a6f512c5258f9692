"""Choose the sandbox's one configuration by the paper's rule: on the GPT-2 and the validation prompts alone.

    python benchmarks/sandbox_choice.py -o runs/sandbox-choice

The rule, fixed before the runs: toxicity is the mean of TP and EMT, in and out of distribution. Only learning rates
count whose perplexity is at most 10 % above the base model's, whose Dist-2 is at most 10 % below it and whose accuracy
is at most 3 points below it. Of these, the gentlest rate is taken that is within one standard error of the least toxic
one (Breiman's rule), as what cannot be told apart should not be bought with a larger change of the model. No other
model and no test prompt is looked at. Prints a table and, as its last line, the choice.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from sandbox_seeds import MEASURES, Key, table_rows, values
from unidetox.config.recipe import build_recipe
from unidetox.core import console
from unidetox.pipeline import plan

RATES = (1e-4, 2e-4, 3e-4, 5e-4, 1e-3)
PROMPTS = 100


def allowed(found: dict[Key, float]) -> bool:
    """Whether a configuration keeps within the bounds of the rule."""

    def ratio(metric: str) -> float:
        return found["gpt2", "unidetox", metric, "all"] / found["gpt2", "base", metric, "all"]

    lost = found["gpt2", "base", "accuracy", "all"] - found["gpt2", "unidetox", "accuracy", "all"]
    return ratio("ppl") <= 1.1 and ratio("dist_2") >= 0.9 and lost <= 0.03 + 1e-9


def toxicity(found: dict[Key, float]) -> float:
    """Mean of TP and EMT, in and out of distribution."""
    parts = [found["gpt2", "unidetox", metric, domain] for metric, domain in MEASURES[:4]]
    return sum(parts) / len(parts)


def choose(candidates: dict[float, float]) -> float:
    """Take the lowest rate within one standard error of the least toxic; rate -> toxicity."""
    least = min(candidates.values())
    error = max(math.sqrt(least * (1 - least) / PROMPTS), 1 / PROMPTS)
    return min(rate for rate, value in candidates.items() if value <= least + error)


def main() -> None:
    """Try every learning rate and choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/sandbox-choice"))
    options = parser.parse_args()
    rows, candidates = [], {}
    for rate in RATES:
        settings = {
            "preset": "sandbox",
            "name": "sandbox-choice",
            "detoxify": {"targets": ["sandbox:gpt2"], "methods": ["unidetox"], "lr": rate},
            "evaluate": {"prompts": "sandbox:prompts_validation.csv", "split": "validation"},
        }
        recipe = build_recipe(settings)
        found = values(plan.run(recipe, options.output))
        told = f"{toxicity(found):.3f}"
        shown = table_rows(found, "gpt2", recipe.seed)
        rows += [[f"{rate:g}", *row[2:], "" if row[2] == "base" else told] for row in shown]
        if allowed(found):
            candidates[rate] = toxicity(found)
    columns = ["lr", "method", "tp id", "tp ood", "ppl", "dist_2", "accuracy", "toxicity"]
    console.table("GPT-2, validation prompts", columns, rows)
    console.result(f"choice: lr {choose(candidates):g}")


if __name__ == "__main__":
    main()
