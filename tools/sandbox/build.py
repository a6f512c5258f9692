"""Make every asset of the sandbox from one seed: ``python -m tools.sandbox.build --seed 0 -o DIRECTORY``.

Writes the data files, the four language models, the judge, the scorer and ``build.json``, which records the seed, the
settings, the versions and the figures. Data files are the same on every machine; weights depend on the processor and
the torch version in their last digits, so a rebuilt model behaves the same but is not the same file.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tools.sandbox import files, lms, scorer, world

from unidetox.core.console import info

TEXTS_PER_ROW = 3
"""Texts written for each row of training; a row of 128 tokens holds about two and a half."""


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How long everything is trained.

    Attributes:
        lm: Training of each language model.
        scorer: Training of the scorer.
        tokenizer_texts: Texts that the tokenizers are trained on.
        check_texts: Texts on which the scorer is compared with the grammar.
    """

    lm: lms.LMTraining = dataclasses.field(default_factory=lms.LMTraining)
    scorer: scorer.ScorerTraining = dataclasses.field(default_factory=scorer.ScorerTraining)
    tokenizer_texts: int = 8000
    check_texts: int = 4000


def build(directory: Path, seed: int = 0, settings: BuildSettings | None = None) -> dict[str, Any]:
    """Make all assets.

    Args:
        directory: Where they go; files of an earlier build are overwritten.
        seed: Seed of the texts, the weights and the order of training.
        settings: How long everything is trained.

    Returns:
        The content of ``build.json``.
    """
    settings, started = settings or BuildSettings(), time.monotonic()
    record: dict[str, Any] = {
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "mix": dataclasses.asdict(world.Mix()),
        "versions": _versions(),
        "files": files.write_all(directory, seed),
    }
    texts = list(world.Writer(f"{seed}/pretraining").documents(settings.lm.steps * settings.lm.rows * TEXTS_PER_ROW))
    record["models"] = {
        name: _language_model(directory / name, name, texts, seed + number, settings)
        for number, name in enumerate(lms.ARCHITECTURES)
    }
    record["scorer"] = _scorer(directory / "scorer", seed, settings)
    record["seconds"] = round(time.monotonic() - started, 1)
    _write_record(directory / "build.json", record)
    return record


def _language_model(directory: Path, name: str, texts: list[str], seed: int, settings: BuildSettings) -> dict[str, Any]:
    started, architecture = time.monotonic(), lms.ARCHITECTURES[name]
    info(f"{name}:")
    tokenizer = lms.make_tokenizer(architecture, texts[: settings.tokenizer_texts])
    model = lms.make_lm(architecture, tokenizer, seed)
    loss = lms.train(model, lms.rows_of(texts, tokenizer, architecture.adds_bos), settings.lm, seed, info)
    lms.save(model, tokenizer, directory)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def _scorer(directory: Path, seed: int, settings: BuildSettings) -> dict[str, Any]:
    started = time.monotonic()
    info("scorer:")
    model, tokenizer = scorer.make_scorer(seed)
    loss = scorer.train_scorer(model, tokenizer, settings.scorer, seed, info)
    lms.save(model, tokenizer, directory)
    held_out = [text for text, _ in scorer.examples(settings.check_texts, f"{seed}/held-out")]
    agreement = scorer.agreement(model.float(), tokenizer, held_out)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "loss": round(loss, 5),
        "agreement": round(agreement, 5),
        "seconds": round(time.monotonic() - started, 1),
    }


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"python": platform.python_version(), **packages}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the build from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.sandbox.build", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that is to hold the assets")
    parser.add_argument("--seed", type=int, default=0, help="seed of texts, weights and training (default 0)")
    parser.add_argument("--steps", type=int, help="training steps of each language model and of the scorer")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = BuildSettings()
    if options.steps:
        settings = BuildSettings(
            lm=lms.LMTraining(steps=options.steps), scorer=scorer.ScorerTraining(steps=options.steps),
            tokenizer_texts=500, check_texts=200,
        )  # fmt: skip
    record = build(options.output, options.seed, settings)
    info(
        f"made {options.output} in {record['seconds']:.0f} s; the scorer agrees on {record['scorer']['agreement']:.2%}"
    )


if __name__ == "__main__":
    main()
