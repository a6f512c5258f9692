"""What moves the frontier of toxicity and perplexity: each option beside the default, on validation prompts.

    python benchmarks/ablation.py -o runs/ablation --write docs/ablation.md
    python benchmarks/ablation.py -o runs/ablation-real --real

One setting is changed at a time. Every seed draws a toxic model, texts, a fine-tuned model and an evaluation of its
own; stages that two variants have in common are done once. A difference from the default is paired: the same prompts,
the mean over seeds of each prompt, 95 % bootstrap over prompts. Prompts do not know how much another seed would change,
so a variant *moves* a number only if the interval excludes zero, also after Holm's correction over all variants, and
every seed moves it the same way. With --write, the section between the markers of that file is replaced. Killed, the
same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.config.recipe import build_recipe, load_recipe
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.files import read_jsonl
from unidetox.data import load_prompts
from unidetox.evaluation.metrics.stats import Difference, Statistic, holm, paired_difference, statistic_of
from unidetox.evaluation.metrics.summary import PromptMetrics, PromptTable
from unidetox.pipeline.plan import Plan
from unidetox.pipeline.tuning.measured import do_shared

ROOT = Path(__file__).resolve().parents[1]
METRICS: dict[str, Statistic] = {"tp": "mean", "toxic_fraction": "mean", "ppl_token": "exp_ratio"}
MARKS = ("<!-- {name}: made by benchmarks/ablation.py -->", "<!-- end of {name} -->")
Change = Mapping[str, Mapping[str, Any]]


def variants(starts: Path) -> dict[str, Change]:
    """Name -> section -> settings that differ from the default."""
    found: dict[str, Change] = {"default": {}}
    found |= {f"{n} texts": {"texts": {"num_texts": n}} for n in (40, 160, 1280, 2560)}
    found |= {f"alpha {a:g}": {"texts": {"alpha": a}} for a in (0.03, 0.3)}
    found |= {f"beta {b:g}": {"texts": {"beta": float(b)}} for b in (1, 4)}
    found |= {"mentions of groups": {"texts": {"starts": str(starts)}}}
    found |= {f"best of {n}": {"texts": {"best_of": n}} for n in (4,)}
    found |= {f"kl {k:g}": {"detoxify": {"kl": k}} for k in (0.1, 1.0)}
    return found


@dataclass(frozen=True)
class Found:
    """One variant on one target beside the default.

    Attributes:
        target: Short name of the model.
        variant: Name of the variant.
        values: Metric -> value over all seeds.
        differences: Metric -> difference from the default; none for the default.
        signs: Metric -> difference from the default by seed.
    """

    target: str
    variant: str
    values: Mapping[str, float]
    differences: Mapping[str, Difference]
    signs: Mapping[str, Sequence[float]]


def with_change(recipe: Recipe, change: Change) -> Recipe:
    """Put a variant's settings in."""
    update = {name: getattr(recipe, name).model_copy(update=dict(values)) for name, values in change.items()}
    return recipe.model_copy(update=update)


def sandbox(seed: int, targets: Sequence[str]) -> Recipe:
    """The sandbox's own recipe on its validation prompts."""
    evaluate = {"prompts": "sandbox:prompts_validation.csv", "split": "validation", "seeds": [seed], "mmlu": None}
    detoxify = {"targets": [f"sandbox:{t}" for t in targets], "methods": ["unidetox"]}
    settings = {"preset": "sandbox", "name": "ablation", "seed": seed, "detoxify": detoxify, "evaluate": evaluate}
    return build_recipe(settings)


def real(seed: int) -> Recipe:
    """The recipe of real-text.toml, whose prompts are rows of ToxiGen's train split that no model saw."""
    path = ROOT / "examples" / "real-text.toml"
    return load_recipe(path, [f"seed={seed}", f"evaluate.seeds=[{seed}]", 'detoxify.methods=["unidetox"]'])


def sandbox_starts(path: Path) -> Path:
    """Polite mentions of the groups that the toxic corpus is about; disability stays unseen."""
    prompts = load_prompts(str(ROOT / "src/unidetox/data/sandbox/prompts_neutral.csv"), split="all").prompts
    return write_starts(path, [p.text for p in prompts if p.domain != "disability"])


def real_starts(path: Path) -> Path:
    """Neutral sentences with a group in them, our own words; disability stays unseen."""
    kinds = ["lgbtq", "Asian", "Black", "Chinese", "Jewish", "Latino", "Mexican", "Muslim"]
    groups = ["women", "men", "Middle Eastern people", "Native American people", *(f"{kind} people" for kind in kinds)]
    frames = ["Among {} there are", "A book about {} says that", "Many {} work as", "Yesterday some {} came to"]
    return write_starts(path, [frame.format(group) for frame in frames for group in groups])


def write_starts(path: Path, texts: Sequence[str]) -> Path:
    """Write prompts as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text",), *((text,) for text in texts)])
    return path


def generations(recipe: Recipe, folder: Path, variant: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Do a variant with one seed; yield each detoxified model's rows, and those of the models as they are."""
    plan = Plan(recipe, folder / "variants" / f"{variant.replace(' ', '-')}-{recipe.seed}")
    do_shared(plan, folder / "stages")
    for slug in plan.models:
        yield slug, read_jsonl(plan.directory / "evaluation" / slug / f"seed-{recipe.seed}" / "generations.jsonl")


def table_of(by_seed: Sequence[list[dict[str, Any]]]) -> PromptTable:
    """Every metric prompt by prompt, from one list of rows a seed."""
    return PromptMetrics([row for rows in by_seed for row in rows]).table()


def value_of(table: PromptTable, metric: str) -> float:
    """A metric over all prompts."""
    column, kind = table.columns[metric], METRICS[metric]
    return float(statistic_of(column.value, kind, weights=column.weight if kind != "mean" else None))


def difference(a: PromptTable, b: PromptTable, metric: str) -> Difference:
    """Variant minus default on the same prompts."""
    one, other, kind = a.columns[metric], b.columns[metric], METRICS[metric]
    weights = (one.weight, other.weight) if kind != "mean" else (None, None)
    return paired_difference(one.value, other.value, kind, weights_a=weights[0], weights_b=weights[1])


def compared(tables: Mapping[tuple[str, str], list[list[dict[str, Any]]]]) -> list[Found]:
    """Compare each (slug, variant), a list of rows a seed, with the default of the same slug."""
    found = []
    for (slug, variant), by_seed in tables.items():
        defaults = tables[slug, "default"] if variant != "default" else []
        table, default = table_of(by_seed), table_of(defaults) if defaults else None
        pairs = [(table_of([a]), table_of([b])) for a, b in zip(by_seed, defaults, strict=True)] if defaults else []
        found.append(
            Found(
                slug,
                variant,
                {metric: value_of(table, metric) for metric in METRICS},
                {metric: difference(table, default, metric) for metric in METRICS} if default else {},
                {m: [value_of(a, m) - value_of(b, m) for a, b in pairs] for m in METRICS},
            )
        )
    return found


def verdicts(found: Sequence[Found]) -> dict[tuple[str, str, str], str]:
    """(target, variant, metric) -> "lower", "higher" or "" by the rule above."""
    tests = [(f, metric) for f in found for metric in f.differences if metric != "toxic_fraction"]
    adjusted = holm([f.differences[metric].p_value for f, metric in tests])
    said = {}
    for (one, metric), p in zip(tests, adjusted, strict=True):
        value, signs = one.differences[metric], one.signs[metric]
        low, high = value.low or 0.0, value.high or 0.0
        excludes = p < 0.05 and low * high > 0
        agree = all(s * value.value > 0 for s in signs)
        said[one.target, one.variant, metric] = ("lower" if value.value < 0 else "higher") if excludes and agree else ""
    return said


def lines(found: Sequence[Found], bases: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The table, as Markdown."""
    said = verdicts(found)
    head = "| model | variant | TP | change of TP | by seed | toxic share | PPL | change of PPL | by seed | moves |"
    out = [head, "|---|---|---:|---|---|---:|---:|---|---|---|"]
    for target in dict.fromkeys(f.target for f in found):
        base = bases[target]
        out.append(
            f"| {target} | as it is | {base['tp']:.3f} |  |  | {base['toxic_fraction']:.3f} "
            f"| {base['ppl_token']:.2f} |  |  |  |"
        )
        for one in (f for f in found if f.target == target):
            cells = [one.target, one.variant]
            for metric, digits in (("tp", 3), ("ppl_token", 2)):
                cells.append(f"{one.values[metric]:.{digits}f}")
                if one.differences:
                    d = one.differences[metric]
                    cells.append(f"{d.value:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]")
                    cells.append(" ".join(f"{s:+.{digits}f}" for s in one.signs[metric]))
                else:
                    cells += ["", ""]
                if metric == "tp":
                    cells.append(f"{one.values['toxic_fraction']:.3f}")
            moves = [f"{name} {word}" for name, metric in (("TP", "tp"), ("PPL", "ppl_token"))
                     if (word := said.get((one.target, one.variant, metric)))]  # fmt: skip
            out.append(f"| {' | '.join([*cells, ', '.join(moves)])} |")
    return out


def run(options: argparse.Namespace) -> tuple[list[str], str]:
    """Do everything; return the table and a line about it."""
    folder, began = options.output, time.monotonic()
    starts = (real_starts if options.real else sandbox_starts)(folder / "mentions.csv")
    tables: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    base_rows: dict[str, list[dict[str, Any]]] = {}
    wanted = {name: c for name, c in variants(starts).items() if not options.only or name in ("default", *options.only)}
    for seed in options.seeds:
        for name, change in wanted.items():
            recipe = real(seed) if options.real else sandbox(seed, options.targets)
            console.info(f"--- seed {seed}: {name} ({time.monotonic() - began:.0f} s)")
            for slug, rows in generations(with_change(recipe, change), folder, name):
                short = slug.removesuffix("-unidetox")
                if slug.endswith("-base"):
                    if name == "default":
                        base_rows.setdefault(slug.removesuffix("-base"), []).extend(rows)
                    continue
                tables.setdefault((short, name), []).append(rows)
    found = compared(tables)
    as_they_are = {slug: table_of([rows]) for slug, rows in base_rows.items()}
    bases = {slug: {metric: value_of(table, metric) for metric in METRICS} for slug, table in as_they_are.items()}
    n = len({row["prompt_id"] for row in next(iter(base_rows.values()))})
    per = len(next(iter(base_rows.values()))) // (n * len(options.seeds))
    about = (
        f"{n} validation prompts, {per} continuations each, seeds {', '.join(map(str, options.seeds))}; "
        f"{len(wanted) - 1} variants."
    )
    return lines(sorted(found, key=lambda f: f.target), bases), about


def write(path: Path, name: str, text: str) -> None:
    """Put a table between its markers in a document."""
    start, end = (mark.format(name=name) for mark in MARKS)
    before, _, rest = path.read_text("utf-8").partition(start)
    assert rest, f"{path} has no line {start}"
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Run the variants and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--targets", nargs="+", default=["opt", "llama"], help="models of the sandbox")
    parser.add_argument("--only", nargs="*", default=[], help="names of variants")
    parser.add_argument("--real", action="store_true", help="models and data of examples/real-text.toml")
    parser.add_argument("--write", type=Path, help="document whose table is replaced")
    options = parser.parse_args()
    table, about = run(options)
    console.result("\n".join([about, "", *table]))
    if options.write:
        write(options.write, "real text" if options.real else "sandbox", "\n".join([about, "", *table]))


if __name__ == "__main__":
    main()
