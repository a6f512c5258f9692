"""Run every benchmark and write `benchmarks/results.md`; options go through to each."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

HERE = Path(__file__).resolve().parent
NAMES = ("distill", "sample", "perplexity", "toxicity", "multiple_choice", "finetune", "evaluate")
CLAIMS = {
    "distill": "128 texts x 256 tokens from two models",
    "sample": "25 x 20 tokens for 100 prompts",
    "perplexity": "perplexity of those 2 500 continuations",
    "toxicity": "toxicity scores of 2 500 continuations",
    "multiple_choice": "multiple choice, 5-shot, 100 questions, 2 subjects",
    "finetune": "one epoch of fine-tuning on 640 texts",
    "evaluate": "the whole evaluation",
}


def run(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run one script and return its last line."""
    print(f"== {name} {' '.join(arguments)}", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print("\n".join(lines), flush=True)
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def processor() -> str:
    """The processor's name and the units that matter."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in text]
    return f"{name}, {', '.join(units[:2])}, {torch.get_num_threads()} threads"


def table(rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Markdown of all results."""
    lines = [
        "| work | dtype | ours, s | plain, s | plain / ours | outputs agree | floor, s | floor / ours | more |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = ("name", "ours_s", "plain_s", "ratio", "agree", "floor_s", "of_floor")
    for (name, dtype), row in rows.items():
        more = ", ".join(f"{key} {value}" for key, value in row.items() if key not in shown)
        lines.append(
            f"| {CLAIMS[name]} | {dtype} | {row['ours_s']} | {row['plain_s']} | **{row['ratio']}** | "
            f"{'yes' if row['agree'] else 'NO'} | {row['floor_s']} | {row['of_floor']} | {more} |"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = sys.argv[1:]
    target = HERE / "results.md"
    if "--output" in arguments:
        place = arguments.index("--output")
        target = Path(arguments[place + 1])
        del arguments[place : place + 2]
    rows = {(name, dtype): run(name, [*arguments, "--dtype", dtype]) for dtype in ("float32", "auto") for name in NAMES}
    scaling = run("scaling", ["--size", "tiny"] if "tiny" in arguments else [])
    sizes = "\n".join(
        f"| {s['prompts']} | {s['samples']} | {s['seconds']} | {s['peak_mib']} |" for s in scaling["sizes"]
    )
    target.write_text(
        f"# Benchmarks\n\nWritten by `make bench`{' ' + ' '.join(arguments) if arguments else ''} on "
        f"{datetime.date.today().isoformat()}: {processor()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.\n\n"
        "Ours and the plain way ran by turns in one process (fine-tuning: one process each). Plain is float32, but for "
        "distillation, where both sides share the type. The floor is the time that the counted operations and bytes "
        "need at this machine's own measured matrix-product rate and copy bandwidth.\n\n"
        f"{table(rows)}\n\n## Size\n\nA small model, 20 tokens a sample; results are not kept.\n\n"
        f"| prompts | samples | seconds | peak MiB |\n|---|---|---|---|\n{sizes}\n\n"
        f"Peak of the most prompts over that of a tenth of them: {scaling['peak_ratio']}.\n"
    )
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
