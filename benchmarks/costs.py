"""What `run --dry-run` expects against what a run took, stage by stage.

    python benchmarks/costs.py RECIPE-or-PRESET [--run DIR]
    python benchmarks/costs.py paper-all --gpu A100 --shared ../shared

Without ``--run``, the recipe is run in a folder that is thrown away; with it, the seconds are read from a run of the
same recipe on this machine. What is expected is worked out before, from configurations and data alone.
The second form needs no Hub: the sizes of the paper's models stand for the models, and a local folder's data for the
Hub's.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a recipe, or the name of a preset")
    parser.add_argument("--run", type=Path, help="a finished run of it")
    parser.add_argument("--gpu", help="print what a preset of the paper is expected to take on this GPU")
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="with --gpu: folder of data and tokenizer"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.gpu:
            expect(args.recipe, args.gpu, args.shared.absolute(), Path(folder))
            return
        compare(args.recipe, Path(args.run or Path(folder) / "run"), done=args.run is not None)


def compare(name: str, directory: Path, *, done: bool) -> None:
    from unidetox.config.recipe import load_recipe, recipe_from
    from unidetox.pipeline.estimates import estimate
    from unidetox.pipeline.plan import Plan, run

    recipe = load_recipe(Path(name)) if name.endswith(".toml") else recipe_from(name)
    plan = Plan(recipe, directory)
    plan.preflight()
    found = estimate(plan)
    if not done:
        run(recipe, directory)
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


def expect(preset: str, gpu: str, shared: Path, folder: Path) -> None:
    from unidetox.config.recipe import recipe_from
    from unidetox.pipeline.estimates import estimate
    from unidetox.pipeline.plan import Plan

    models = {
        hub: str(stand_in(shared, folder / hub.split("/")[-1], config)) for hub, config in configurations().items()
    }
    chosen = recipe_from(preset).detoxify.targets
    recipe = recipe_from(
        preset,
        base={"model": models["gpt2-xl"]},
        toxic={"corpus": str(shared / "data/dghs_hate.csv"), "civil": str(shared / "data/surge_toxicity.csv")},
        detoxify={"targets": [models[hub] for hub in chosen]},
        evaluate={
            "prompts": str(shared / "data/toxigen_annotated_train.csv"), "split": "all", "num_prompts": 940,
            "scorer": models["unitary/toxic-bert"], "ppl_model": models["meta-llama/Llama-2-7b-hf"],
            "mmlu": str(shared / "data/mmlu"),
        },
    )  # fmt: skip
    found = estimate(Plan(recipe, folder / "run"), gpu)
    for name, cost in found.costs.items():
        print(
            f"{name:42} {cost.seconds / 60:8.0f} min {cost.memory / 1e9:6.0f} GB {cost.disk / 1e9:6.0f} GB"
            if cost
            else name
        )
    print(found.summary())


def configurations() -> dict[str, object]:
    """The paper's models as their published configurations have them."""
    from transformers import BertConfig, FalconConfig, GPT2Config, LlamaConfig, OPTConfig

    return {
        "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        "facebook/opt-6.7b": OPTConfig(
            hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, ffn_dim=16384, word_embed_proj_dim=4096
        ),
        "tiiuae/falcon-7b": FalconConfig(
            hidden_size=4544, num_hidden_layers=32, num_attention_heads=71, vocab_size=65024, multi_query=True,
            parallel_attn=True, alibi=False, bias=False, new_decoder_architecture=False, max_position_embeddings=2048,
        ),
        "meta-llama/Llama-2-7b-hf": LlamaConfig(max_position_embeddings=4096),
        "unitary/toxic-bert": BertConfig(num_labels=1, id2label={0: "toxic"}, label2id={"toxic": 0}),
    }  # fmt: skip


def stand_in(shared: Path, folder: Path, config: Any) -> Path:
    """A folder that looks like a model to whoever reads no weights."""
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "models/gpt2" / name, folder / name)
    (folder / "model.safetensors").touch()
    return folder


if __name__ == "__main__":
    main()
