"""Stage: how fast a model and what was made of it write, side by side on the same work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.settings import Evaluate
from unidetox.core import console
from unidetox.core.files import read_json, write_json
from unidetox.core.stages import Stage
from unidetox.evaluation.collect import sampling_settings
from unidetox.evaluation.measure import EvalInputs
from unidetox.evaluation.prompt_encoding import encode_prompt, shared_tokens
from unidetox.methods.targets import load_target
from unidetox.models import fingerprint
from unidetox.models.memory import free_memory, model_bytes

if TYPE_CHECKING:
    from unidetox.models import LM

BASE = "base"
PROMPTS, SAMPLES, REPEATS = 16, 8, 3
"""So many prompts, continuations each, and times that all is done; the median counts."""


def speed_stage(models: Mapping[str, str], directory: Path, inputs: EvalInputs, settings: Evaluate) -> Stage:
    """Describe the stage that times one target's models.

    Args:
        models: What results call each method -> its model; `base` among them.
        directory: The stage's directory; gets ``speed.json``.
        inputs: Prompts, and where to compute.
        settings: How continuations are sampled.
    """
    hashes = {method: fingerprint(model) for method, model in models.items()} | {"prompts": inputs.prompts.sha256}
    where = inputs.load_options
    chosen = {"prompts": PROMPTS, "samples": SAMPLES, "repeats": REPEATS, "dtype": where.dtype, "device": where.device}
    return Stage(directory, "speed", settings.key("speed") | chosen, hashes)


def measure_speed(
    models: Mapping[str, str], directory: Path, inputs: EvalInputs, settings: Evaluate, *, fresh: bool = False
) -> Path:
    """Time each model on the same prompts, the base model before and after all others.

    Args:
        models: What results call each method -> its model; `base` among them.
        directory: The stage's directory.
        inputs: Prompts, and where to compute.
        settings: How continuations are sampled; none ends early here, so that all write as many tokens.
        fresh: Do it again even where it is done.

    Returns:
        ``directory``.
    """
    stage = speed_stage(models, directory, inputs, settings)

    def make(work_dir: Path) -> dict[str, float]:
        order = [BASE, *(method for method in models if method != BASE), BASE]
        seconds: dict[str, list[float]] = {}
        with console.progress("timing", len(order)) as advance:
            for method in order:
                seconds.setdefault(method, []).append(_time(models[method], inputs, settings))
                advance(1)
        base = statistics.mean(seconds[BASE])
        tokens = min(PROMPTS, len(inputs.prompts.prompts)) * SAMPLES * settings.max_new_tokens
        rows = [
            {"method": method, "tokens_per_second": tokens / statistics.mean(times),
             "slow_down": statistics.mean(times) / base}
            for method, times in seconds.items()
        ]  # fmt: skip
        drift = abs(seconds[BASE][1] - seconds[BASE][0]) / base
        write_json(stage.out_dir / "speed.json", {"tokens": tokens, "base_drift": drift, "rows": rows})
        return {"base_drift": round(drift, 3)}

    stage.run(make, fresh=fresh)
    return directory


def read_speed(directory: Path) -> dict[str, dict[str, Any]]:
    """Return method -> ``{"tokens_per_second", "slow_down"}`` of a stage; empty where there is none."""
    content = read_json(directory / "speed.json") or {"rows": []}
    return {row.pop("method"): row for row in content["rows"]}


def _time(model: str, inputs: EvalInputs, settings: Evaluate) -> float:
    """Return the seconds that a model needs for the same texts; loading it does not count."""
    lm = load_target(model, inputs.load_options)
    _write(lm, inputs, settings, 1)
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        _write(lm, inputs, settings, SAMPLES)
        taken.append(time.perf_counter() - began)
    size = sum(model_bytes(model) for model in lm.source.models)
    del lm
    free_memory(size)
    return statistics.median(taken)


def _write(lm: LM, inputs: EvalInputs, settings: Evaluate, samples: int) -> None:
    from unidetox.decoding import sample

    how = sampling_settings(lm, settings)
    prompts = [
        encode_prompt(lm, prompt.text, settings.max_new_tokens)[0] for prompt in inputs.prompts.prompts[:PROMPTS]
    ]
    for _ in sample(lm.source, prompts, samples, how, batch_size=settings.batch_size, shared=shared_tokens(lm)):
        pass
