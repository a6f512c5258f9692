"""Time and memory of sampling against the number of prompts and of samples: linear, and level."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from common import causal_lm, options, random_prompts


def one_size(prompts: int, samples: int) -> None:
    """Sample in this process; results are counted, not kept, as the evaluation writes them to a file."""
    from unidetox.decoding import SamplingSettings, lm, sample

    model = causal_lm(None, torch.float32, tiny=True)
    heads = random_prompts(prompts, model.config.vocab_size)
    start = time.perf_counter()
    count = sum(map(len, sample(lm(model), heads, samples, SamplingSettings(20, top_p=0.9))))
    assert count == prompts * samples
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"prompts": prompts, "samples": samples, "seconds": round(seconds, 2), "peak_mib": round(peak, 1)}
    print(json.dumps(result))


def main() -> None:
    if "--one" in sys.argv:
        one_size(int(sys.argv[-2]), int(sys.argv[-1]))
        return
    args = options(__doc__)
    largest = 40 if args.tiny else 10_000
    sizes = [(largest // 10, 5), (largest // 2, 5), (largest, 5), (largest // 10, 50)]
    rows = []
    for prompts, samples in sizes:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(prompts), str(samples)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(rows[-1])
    first, largest_run = rows[0], rows[2]
    rates = [row["seconds"] / (row["prompts"] * row["samples"]) for row in rows]
    print(json.dumps({
        "name": "scaling",
        "sizes": rows,
        "peak_ratio": round(largest_run["peak_mib"] / first["peak_mib"], 3),
        "seconds_a_sample_spread": round(max(rates) / min(rates), 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
