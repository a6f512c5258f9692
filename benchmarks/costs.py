"""What `run --dry-run` expects against what a run took, stage by stage.

    python benchmarks/costs.py RECIPE-or-PRESET [--run DIR]

Without ``--run``, the recipe is run in a folder that is thrown away; with it, the seconds are read from a run of the
same recipe on this machine. What is expected is worked out before, from configurations and data alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a recipe, or the name of a preset")
    parser.add_argument("--run", type=Path, help="a finished run of it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(args.recipe, Path(args.run or Path(folder) / "run"), done=args.run is not None)


def compare(name: str, directory: Path, *, done: bool) -> None:
    from unidetox import pipeline
    from unidetox.config import load_recipe, recipe_from
    from unidetox.estimates import estimate

    recipe = load_recipe(Path(name)) if name.endswith(".toml") else recipe_from(name)
    plan = pipeline.Plan(recipe, directory)
    plan.preflight()
    found = estimate(plan)
    if not done:
        pipeline.run(recipe, directory)
    print(f"{'stage':32} {'expected':>9} {'took':>9} {'ratio':>6} {'expected':>9} {'peak':>9}")
    ratios = []
    for stage, cost in found.costs.items():
        record = directory / stage / "stage.json"
        if cost is None or not record.exists():
            continue
        took = json.loads(record.read_text("utf-8"))
        ratios.append(cost.seconds / max(took["seconds"], 0.1))
        peak = took.get("peak_bytes")
        seen = f"{peak / 1e9:7.2f} GB" if peak else ""
        print(f"{stage:32} {cost.seconds:7.1f} s {took['seconds']:7.1f} s {ratios[-1]:6.2f} "
              f"{cost.memory / 1e9:6.2f} GB {seen:>9}")  # fmt: skip
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    total = sum(json.loads((directory / s / "stage.json").read_text("utf-8"))["seconds"]
                for s, c in found.costs.items() if c and (directory / s / "stage.json").exists())  # fmt: skip
    print(f"{len(ratios)} stages: expected / took is {min(ratios):.2f} to {max(ratios):.2f}, in the mean {mean:.2f}; "
          f"all together {found.total.seconds:.0f} s / {total:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
