"""The page and the tables say what the results say, whatever is missing, and let no text through unescaped."""

from __future__ import annotations

import csv
import io
import random
from html.parser import HTMLParser

import pytest

from unidetox.report import csv_table, latex_table, markdown_table, render_report, summary_table

BASES = {
    "gpt2": (0.53, 17.3),
    "facebook/opt-6.7b": (0.56, 19.1),
    "tiiuae/falcon-7b": (0.49, 14.2),
    "meta-llama/Llama-2-7b-hf": (0.51, 12.6),
}
GROUPS = {
    "gender": ["women", "lgbtq"],
    "race": ["black", "asian", "latino", "native american"],
    "religion": ["jewish", "muslim"],
    "disability": ["mental disabilities", "physical disabilities"],
}
FACTORS = {"base": (1.0, 1.0), "unidetox": (0.43, 0.96), "samples": (0.98, 1.01)}
HIGHER = {"dist_1", "dist_2", "dist_3", "accuracy"}


def row(target, method, metric, value, *, domain="all", group=None, seed=None, width=0.03, n=896, n_dropped=0):
    spread = width * (value if metric.startswith("ppl") else 1.0)
    return {
        "target": target, "method": method, "metric": metric, "domain": domain, "group": group, "seed": seed,
        "value": value, "ci_low": value - spread, "ci_high": value + spread, "n": n, "n_dropped": n_dropped,
        "higher_is_better": metric in HIGHER,
    }  # fmt: skip


def system_rows(target, method, tp, ppl, rng):
    def toxic(domain, n, group=None, shift=0.0):
        emt = tp * 0.86 + 0.02
        return [
            row(target, method, "tp", tp + shift, domain=domain, group=group, n=n, width=0.9 / n**0.5),
            row(target, method, "emt", emt + shift, domain=domain, group=group, n=n, width=0.6 / n**0.5),
        ]

    rows = toxic("id", 700) + toxic("ood", 196, shift=0.03)
    for domain, groups in GROUPS.items():
        rows += toxic(domain, 224, shift=rng.uniform(-0.05, 0.05))
        for group in groups:
            rows += toxic(domain, 224 // len(groups), group, rng.uniform(-0.09, 0.09))
    rows.append(row(target, method, "ppl_token", ppl, n=894, n_dropped=2))
    rows.append(row(target, method, "ppl", ppl * 1.6, n=894, n_dropped=2))
    rows += [row(target, method, f"dist_{n}", value - 0.01 * (method != "base"), width=0.008) for n, value in enumerate((0.71, 0.93, 0.95), 1)]  # fmt: skip
    rows.append(row(target, method, "accuracy", 0.412 - 0.006 * (method != "base"), n=1531, width=0.025))
    rows.append(row(target, method, "toxicity_mean", tp * 0.2, domain="all"))
    rows.append(row(target, method, "loop_share", 0.012))
    return rows


def fake_results(methods=("base", "unidetox", "samples"), bases=BASES):
    rng = random.Random(0)
    rows = []
    for target, (tp, ppl) in bases.items():
        for method in methods:
            if method == "samples" and target != next(iter(bases)):
                continue
            less, odd = FACTORS[method]
            rows += system_rows(target, method, tp * less * rng.uniform(0.97, 1.03), ppl * odd * rng.uniform(0.98, 1.04), rng)  # fmt: skip
    settings = {
        "evaluate": {"protocol": "default", "samples": 25, "max_new_tokens": 20, "temperature": 1.0, "top_p": 0.9,
                     "seeds": [42, 43], "scorer": "/home/jane/models/toxicity-bert", "id_domains": ["gender", "race", "religion"], "mmlu": None},
        "seed": 42,
    }  # fmt: skip
    return {"schema_version": 1, "rows": rows, "settings": settings}


def fake_examples(methods=("base", "unidetox", "samples"), targets=tuple(BASES), prompts=12, samples=3):
    rng = random.Random(1)
    endings = ["made a long table and put bread on it for everybody who came in.", "said that the weather would turn by the evening, and it did.", "are such dull zorps that nobody in the valley wants them near the well.", ""]  # fmt: skip
    places = [(domain, group) for domain, groups in GROUPS.items() for group in groups]
    return [
        {"prompt_id": str(p), "prompt": f"people from the valley of {places[p % len(places)][1]} came to the market, and they",
         "group": places[p % len(places)][1], "domain": places[p % len(places)][0], "seed": 42, "sample": s, "target": target, "method": method,
         "continuation": " " + rng.choice(endings), "finish_reason": "length", "toxicity": round(rng.random() * (1.0 if method != "unidetox" else 0.4), 3)}
        for target in targets for method in methods for p in range(prompts) for s in range(samples)
    ]  # fmt: skip
