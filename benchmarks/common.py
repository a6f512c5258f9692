"""What all benchmarks share: models, timing in turns, this machine's limits, two-sample tests, the last line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

SIZES = {"full": 1.0, "quarter": 0.25, "tiny": 0.06}
"""Share of the items that a claim is about; tiny has tiny models besides."""

SIGNIFICANCE = 1e-4
"""Below this p-value two samples do not come from one distribution."""


def options(description: str) -> argparse.Namespace:
    """Parse the command line that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="directory of a causal LM; a GPT-2 small with random weights by default")
    parser.add_argument("--toxic", help="directory of a second LM with the same vocabulary")
    parser.add_argument("--classifier", help="directory of a sequence classifier; a random BERT base by default")
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"], help="of our side")
    parser.add_argument(
        "--size", default="full", choices=list(SIZES), help="quarter: of the items; tiny: seconds, to see that it runs"
    )
    parser.add_argument("--repeats", type=int, default=1, help="how often both sides run, in turns")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; its own choice by default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.tiny = args.size == "tiny"
    args.share = SIZES[args.size]
    return args


def chosen_dtype(name: str) -> torch.dtype:
    """What `--dtype` means on this machine."""
    from unidetox.models import choose_dtype

    dtype, reason = choose_dtype(name, torch.device("cpu"))
    print(f"dtype {dtype}: {reason}")
    return dtype


def causal_lm(directory: str | None, dtype: torch.dtype, *, tiny: bool, seed: int = 0) -> Any:
    """Load a causal LM, or make one of GPT-2 small's shape with random weights."""
    from transformers import AutoModelForCausalLM, GPT2Config

    if directory:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 1000} if tiny else {}
    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return AutoModelForCausalLM.from_config(GPT2Config(**shape, **drop, **ids)).to(dtype).eval()


def classifier(directory: str | None, dtype: torch.dtype, *, tiny: bool) -> Any:
    """Load a sequence classifier, or make a random one of BERT base's shape that knows `words`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from unidetox.models import Classifier, LoadOptions, load_classifier

    if directory:
        return load_classifier(directory, LoadOptions("cpu", dtype))
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {word(i): i + 4 for i in range(996)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", model_max_length=512)
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(**shape if tiny else {}, num_labels=1, id2label={0: "toxic"}, label2id={"toxic": 0})
    model = BertForSequenceClassification(config).to(dtype).eval()
    return Classifier(model, tokenizer, "random BERT", ["toxic"], "sigmoid")


def word(number: int) -> str:
    """An invented word for each number below a thousand."""
    return "".join("aeioubdgkl"[int(digit)] for digit in f"{number % 1000:03d}")


def random_prompts(count: int, vocabulary: int, *, seed: int = 0) -> list[list[int]]:
    """Prompts of about 25 tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, vocabulary, generator.integers(18, 33)).tolist() for _ in range(count)]


@dataclass
class Turns:
    """Both sides' best times in seconds and their last results."""

    ours_s: float
    plain_s: float
    ours: Any
    plain: Any


def in_turns(ours: Callable[[], Any], plain: Callable[[], Any], repeats: int) -> Turns:
    """Run both sides by turns in this process, so that neither has a quieter machine."""
    best = {"ours": float("inf"), "plain": float("inf")}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, work in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            results[name] = work()
            best[name] = min(best[name], time.perf_counter() - start)
            print(f"{name}: {best[name]:.2f} s", flush=True)
    return Turns(best["ours"], best["plain"], results["ours"], results["plain"])


def _best_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def flops_a_second(dtype: torch.dtype) -> float:
    """Measure this machine's best matrix-product rate over some shapes that language models have, ours included."""
    from unidetox.decoding.kernels import inference_kernels

    rates = []
    for rows, inner, columns in ((512, 768, 3072), (2048, 768, 3072), (1024, 1024, 1024)):
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        product = partial(torch.nn.functional.linear, left, right)
        with torch.inference_mode():
            seconds = _best_seconds(product)
            with inference_kernels(torch.device("cpu")):
                seconds = min(seconds, _best_seconds(product))
        rates.append(2 * rows * inner * columns / seconds)
    return max(rates)


def bytes_a_second() -> float:
    """Measure the bandwidth of a copy much larger than the caches, reading and writing counted."""
    source = torch.ones(64 << 20, dtype=torch.uint8).view(torch.float32)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _best_seconds(lambda: target.copy_(source))


@dataclass
class Work:
    """Counted work: floating-point operations, and bytes that must pass once through memory."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def floor(self, dtype: torch.dtype) -> float:
        """Seconds that this takes at the measured rates; products and memory may overlap, so the larger counts."""
        return max(self.flops / flops_a_second(dtype), self.bytes / bytes_a_second())


def forward_work(model: Any, tokens: float, passes: float, logits: float = 0.0, attended: float = 0.0) -> Work:
    """Count a forward pass.

    Args:
        model: Any transformer.
        tokens: Tokens that go through the layers.
        passes: How often all weights are read.
        logits: Positions that get logits.
        attended: Pairs of a token and one that it sees.
    """
    config, size = model.config, next(model.parameters()).element_size()
    outside = ("wte", "wpe", "embed", "head")
    inner = sum(
        p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not any(part in name for part in outside)
    )
    head = config.hidden_size * getattr(config, "vocab_size", 0) if logits else 0
    layers, width = config.num_hidden_layers, config.hidden_size
    flops = 2 * inner * tokens + 2 * head * logits + 4 * width * layers * attended
    return Work(flops, size * ((inner + head) * passes + 2 * width * layers * tokens))


def same_tokens(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], buckets: int = 50) -> float:
    """p-value that two samples of texts use tokens alike: chi-square over buckets of about equal size."""
    from scipy import stats

    a, b = (np.fromiter((t for text in texts for t in text), dtype=np.int64) for texts in (first, second))
    edges = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, buckets + 1)))
    counts = np.stack([np.histogram(x, edges)[0] for x in (a, b)])
    counts = counts[:, counts.sum(0) > 10]
    return float(stats.chi2_contingency(counts).pvalue)


def same_numbers(first: Sequence[float], second: Sequence[float]) -> float:
    """p-value of the Kolmogorov-Smirnov test that two samples of numbers come from one distribution."""
    from scipy import stats

    return float(stats.ks_2samp(first, second).pvalue)


def mean_logprobs(model: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[float]:
    """Mean log-probability a token of each text after its prompt."""
    from unidetox.decoding import loglikelihood

    kept = [(p, t) for p, t in zip(prompts, texts, strict=True) if len(t)]
    return [float(v.mean()) for _, v in loglikelihood(model, [p for p, _ in kept], [t for _, t in kept])]


def report(name: str, turns: Turns, agree: bool, floor_s: float, **more: Any) -> None:
    """Print the one JSON object that is the last line."""
    result = {
        "name": name,
        "ours_s": round(turns.ours_s, 3),
        "plain_s": round(turns.plain_s, 3),
        "ratio": round(turns.plain_s / turns.ours_s, 3),
        "agree": bool(agree),
        "floor_s": round(floor_s, 3),
        "of_floor": round(floor_s / turns.ours_s, 3),
    }
    print(json.dumps(result | more))
