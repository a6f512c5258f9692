"""Try every family of causal LMs that transformers knows, and write docs/architectures.md: `make architectures`."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

from unidetox.decoding.cache import has_states
from unidetox.decoding.shrinking import shrink
from unidetox.decoding.trials import examine

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
LARGEST = 30_000_000


def _mixed(first: str, second: str) -> dict[str, Any]:
    return {"layer_types": [first, second] * 2, "num_hidden_layers": 4}


# Where a configuration's defaults describe no model that anybody made.
CHANGES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "granitemoehybrid": _mixed("mamba", "attention"),
    "lfm2": _mixed("conv", "full_attention"),
    "lfm2_moe": _mixed("conv", "full_attention"),
}


class Family(NamedTuple):
    """One row of the page."""

    name: str
    model: str
    decoding: str
    packed: str
    loss: str
    states: str
    note: str


def family(name: str) -> Family:
    """Try a family of transformers, by its name there."""
    model = NAMES[name] if isinstance(NAMES[name], str) else NAMES[name][0]
    try:
        config = CONFIG_MAPPING[name](**CHANGES.get(name, {}))
        if hasattr(config, "is_decoder"):
            config.is_decoder = True
        small = shrink(config)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(small)
        size = sum(weight.numel() for weight in built.parameters())
        if size > LARGEST:
            raise ValueError(f"it stays large: {size // 10**6} million weights")
        known = examine(built, {}, itself=False)
        states = "yes" if has_states(small) else ""
    except Exception as error:
        return Family(name, model, *["not tried"] * 3, "", _short(error))
    right = {True: "right", False: "wrong"}
    decoding = right[known.decode is not None] + (" within its window" if known.longest else "")
    loss = right[known.head and known.unmasked]
    note = known.reason or ("" if known.head else "its head is not a linear one that we know")
    return Family(name, model, decoding, right[known.packed is not None], loss, states, note)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:100].replace("|", "/")


def page(rows: list[Family]) -> str:
    """Write the page."""
    cached = sum(row.decoding.startswith("right") for row in rows)
    packed = sum(row.packed == "right" for row in rows)
    head = f"""# Architectures

Which ways are right for which family of causal LMs, each tried on a small random model of its kind against plain
forward passes ([how](../ARCHITECTURE.md#the-engine)). Made by `make architectures` with transformers
{transformers.__version__}.

{len(rows)} families: {cached} decode with a cache, {packed} pack likelihoods. *Wrong* means that the fast way is left
off and a slower one, which is right, is taken: decoding reads the whole text again at each step (the log says so),
likelihoods come from padded rows or whole texts, the loss from whole logits. *Not tried* here are families whose
default configuration makes no small model; a model of such a family is tried itself when it is loaded. *States*: layers
that keep a state of fixed size in place of keys and values.

| Family | Model | Cached decoding | Packed likelihood | Loss by pieces | States | Why |
|---|---|---|---|---|---|---|
"""
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Try all, and write the page."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    start, rows = time.time(), []
    for number, name in enumerate(sorted(NAMES), 1):
        sys.stdout.write(f"\r{number}/{len(NAMES)} {name:40}")
        sys.stdout.flush()
        rows.append(family(name))
    PAGE.write_text(page(rows))
    sys.stdout.write(f"\r{PAGE}: {len(rows)} families in {time.time() - start:.0f} s\n")


if __name__ == "__main__":
    main()
