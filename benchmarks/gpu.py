"""Engine and training on a GPU: time, memory, and whether the numbers are those of plain forward passes.

At most nine minutes on an H100: random weights of real shapes, so nothing is downloaded. One JSON line a section, and
all of them in ``--output``. Sections after the time limit are left out and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import classifier, random_prompts
from finetune import texts_of
from unidetox.decoding import SamplingSettings, contrast, lm, loglikelihood, sample

NEW, SAMPLES = 20, 25
GIB = 1024**3


def config_of(name: str, *, tiny: bool) -> Any:
    """The configuration of GPT-2 XL (1.6B) or LLaMA-2-7B, or a tiny one of the same kind."""
    from transformers import GPT2Config, LlamaConfig

    ids = {"bos_token_id": 0, "eos_token_id": 0}
    if name == "gpt2-xl":
        shape = {"n_layer": 2, "n_embd": 64, "n_head": 2} if tiny else {"n_layer": 48, "n_embd": 1600, "n_head": 25}
        drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(vocab_size=1000 if tiny else 50257, **shape, **drop, **ids)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaConfig(**(shape | {"vocab_size": 1000} if tiny else {}), **ids)  # its defaults are the 7B's


def model_of(config: Any, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """A model with random weights, made on the device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


class Sections:
    """Runs sections one after the other; each starts with an empty device."""

    def __init__(self, device: torch.device, minutes: float) -> None:
        self.device, self.end, self.done = device, time.monotonic() + 60 * minutes, list[dict[str, Any]]()

    def run(self, name: str, section: Callable[[], dict[str, Any]]) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        record: dict[str, Any]
        if time.monotonic() > self.end:
            record = {"section": name, "left_out": "no time"}
        else:
            start = time.perf_counter()
            try:
                record = {"section": name, **section()}
            except Exception as exc:  # the next section has something to say all the same
                record = {"section": name, "failed": f"{type(exc).__name__}: {exc}"[:500]}
            record["section_seconds"] = round(time.perf_counter() - start, 2)
            if self.device.type == "cuda":
                record["peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        self.done.append(record)
        print(json.dumps(record), flush=True)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds and result of some work, the device's queue included."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        return time.perf_counter() - start, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def sampled(model: Any, prompts: list[list[int]], samples: int, new: int, batch_size: Any = "auto") -> list[list[int]]:
    """Our continuations in the order of the prompts."""
    settings = SamplingSettings(new, top_p=0.9)
    rows = [row for batch in sample(lm(model), prompts, samples, settings, batch_size=batch_size) for row in batch]
    return [row.token_ids for row in sorted(rows, key=lambda row: (row.prompt_index, row.sample_index))]


def generated(model: Any, prompts: list[list[int]], new: int, batch_size: int) -> int:
    """`generate()` with the stock cache, prompts padded on the left, as a user would; returns how many tokens."""
    width, count = max(map(len, prompts)), 0
    rows = [prompt for prompt in prompts for _ in range(SAMPLES)]
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, top_p=0.9, top_k=0, max_new_tokens=new, min_new_tokens=new,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        count += out[:, width:].numel()
    return count


def plain_loglikelihood(model: Any, context: list[int], continuation: list[int]) -> torch.Tensor:
    """Log-probabilities of a continuation by one whole forward pass, float32 soft-max."""
    ids = torch.tensor([context + continuation], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, len(context) - 1 : -1].float()  # (continuation, vocabulary)
    found: torch.Tensor = logits.log_softmax(-1).gather(1, ids[0, len(context) :, None])[:, 0].cpu()
    return found


def distances(model: Any, prompts: list[list[int]], texts: list[list[int]], few: int = 32) -> dict[str, float]:
    """How far our likelihoods are from plain passes, and how far these are from themselves read in other company."""
    contexts = [prompt for prompt in prompts for _ in range(len(texts) // len(prompts))]
    chosen = np.random.default_rng(0).choice(len(texts), min(few, len(texts)), replace=False).tolist()
    ours = dict(loglikelihood(model, [contexts[i] for i in chosen], [texts[i] for i in chosen]))
    worst, noise = 0.0, 0.0
    for place, index in enumerate(chosen):
        plain = plain_loglikelihood(model, contexts[index], texts[index])
        worst = max(worst, float((ours[place].cpu() - plain).abs().max()))
        longer = plain_loglikelihood(model, contexts[index], texts[index] + texts[index])[: len(texts[index])]
        noise = max(noise, float((longer - plain).abs().max()))
    return {"largest_difference": round(worst, 6), "noise_of_plain_passes": round(noise, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="file for the JSON of all sections")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no section after that")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it runs (also on a CPU)")
    args = parser.parse_args()
    device, tiny = torch.device(args.device), args.tiny
    torch.backends.cuda.matmul.allow_tf32 = False
    sections = Sections(device, args.minutes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    versions = {"torch": torch.__version__, "device": name, "date": time.strftime("%Y-%m-%d")}
    print(json.dumps(versions), flush=True)
    prompts = random_prompts(4 if tiny else 41, 1000)
    half = torch.bfloat16

    def exact() -> dict[str, Any]:
        model = model_of(config_of("gpt2-xl", tiny=True), torch.float32, device)
        texts = sampled(model, prompts[:4], SAMPLES, NEW)
        same = sampled(model, prompts[:4], SAMPLES, NEW, batch_size=24) == texts
        return {**distances(model, prompts[:4], texts), "same_texts_in_other_batches": same}

    def sampling(kind: str) -> Callable[[], dict[str, Any]]:
        def section() -> dict[str, Any]:
            model = model_of(config_of(kind, tiny=tiny), half, device)
            sampled(model, prompts[:2], 4, 4)  # kernels are loaded
            seconds, texts = sections.timed(lambda: sampled(model, prompts, SAMPLES, NEW))
            tokens = sum(map(len, texts))
            plain = {}
            for rows in (64, 256, 1025):
                try:
                    plain_seconds, count = sections.timed(partial(generated, model, prompts, NEW, rows))
                    plain[rows] = round(count / plain_seconds)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
            rate = round(tokens / seconds)
            contexts = [prompt for prompt in prompts for _ in range(SAMPLES)]
            scoring, found = sections.timed(lambda: dict(loglikelihood(model, contexts, texts)))
            return {
                "model": kind, "rows": len(texts), "tokens_per_second": rate, "generate_tokens_per_second": plain,
                "ratio_to_best_generate": round(rate / max(plain.values()), 2),
                "likelihood_tokens_per_second": round(sum(map(len, found.values())) / scoring),
                **distances(model, prompts, texts),
            }  # fmt: skip

        return section

    def distillation() -> dict[str, Any]:
        config = config_of("gpt2-xl", tiny=tiny)
        base, toxic = (model_of(config, half, device, seed) for seed in (0, 1))
        texts, length = (8, 16) if tiny else (640, 64)
        run = sample(contrast(base, toxic), [[0]], texts, SamplingSettings(length, seed=3))
        seconds, rows = sections.timed(lambda: [row for batch in run for row in batch])
        tokens = sum(len(row.token_ids) for row in rows)
        return {"texts": texts, "tokens": tokens, "tokens_per_second": round(tokens / seconds)}

    def multiple_choice() -> dict[str, Any]:
        model = model_of(config_of("7b", tiny=tiny), half, device)
        generator = np.random.default_rng(0)
        shots = generator.integers(1, 1000, 500).tolist()
        asked = [shots + generator.integers(1, 1000, 80).tolist() for _ in range(4 if tiny else 100)]
        contexts = [context for context in asked for _ in range(4)]
        answers = [generator.integers(1, 1000, 8).tolist() for _ in contexts]
        seconds, found = sections.timed(lambda: dict(loglikelihood(model, contexts, answers)))
        return {"questions": len(asked), "questions_per_second": round(len(found) / 4 / seconds, 1)}

    def training(kind: str, lora: bool) -> Callable[[], dict[str, Any]]:
        def section() -> dict[str, Any]:
            from unidetox.data import Text
            from unidetox.training import TrainSettings, train_lm

            model = model_of(config_of(kind, tiny=tiny), half if lora else torch.float32, device)
            tokenizer = classifier(None, torch.float32, tiny=True).tokenizer
            texts = [Text(text, "length") for text in texts_of(160, 40 if tiny else 254)]
            settings = TrainSettings(steps=20, batch_size=8, max_length=256, lora=lora, dtype="bfloat16")
            seconds, report = sections.timed(lambda: train_lm(model, tokenizer, texts, settings))
            parameters = sum(p.numel() for p in model.parameters())
            return {"model": kind, "lora": lora, "parameters": parameters, "steps": 20, "seconds": round(seconds, 2),
                    "loss_first": report.loss_first, "loss_last": report.loss_last}  # fmt: skip

        return section

    sections.run("float32 against plain passes", exact)
    sections.run("sampling and likelihood, GPT-2 XL", sampling("gpt2-xl"))
    sections.run("sampling and likelihood, 7B", sampling("7b"))
    sections.run("distillation of two GPT-2 XL", distillation)
    sections.run("multiple choice, 7B", multiple_choice)
    sections.run("fine-tuning of GPT-2 XL, all weights", training("gpt2-xl", lora=False))
    sections.run("fine-tuning of 7B, LoRA", training("7b", lora=True))
    if args.output:
        args.output.write_text(json.dumps(versions | {"sections": sections.done}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
