"""The command line: parse, call, print. Only this file exits."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unidetox import __version__, console
from unidetox.errors import UniDetoxError, UsageError

app = typer.Typer(
    help="Make any causal language model less toxic, with one command, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130

# Typer brings a parser of its own or uses click, by version; either way its errors have one ancestor.
ParserError: Any = typer.BadParameter.__mro__[2]


@dataclass(frozen=True)
class Shared:
    """Options of every verb."""

    offline: Annotated[bool, typer.Option("--offline", help="Use only files of this machine; ask no hub.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, and show where an error arose.")] = False


@dataclass(frozen=True)
class Work(Shared):
    """Options of verbs that compute."""

    seed: Annotated[int | None, typer.Option(help="Root of all randomness; 42 unless a recipe says otherwise.")] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None
    dtype: Annotated[str | None, typer.Option(help="auto (bfloat16 where it is fast), float32, bfloat16.")] = None
    limit: Annotated[int | None, typer.Option(help="Take at most so many texts or prompts: a quick try.", min=1)] = None
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run a model's own code.")] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, replacing what the output holds.")] = False

    def given(self) -> dict[str, Any]:
        """Return what was said about how to compute, for a recipe."""
        trust = self.trust_remote_code or None
        return _said(seed=self.seed, device=self.device, dtype=self.dtype, trust_remote_code=trust)


Output = Annotated[Path, typer.Option("--output", "-o", help="Directory for the result.", show_default=False)]


def verb(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command; its parameter ``common`` becomes the options of `Shared` or `Work`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(function, include_extras=True)
        kind = hints.pop("common")
        extra = typing.get_type_hints(kind, include_extras=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [p for n, p in inspect.signature(function).parameters.items() if n != "common"]
        parameters = [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
        parameters += [
            inspect.Parameter(f.name, keyword, default=f.default, annotation=extra[f.name])
            for f in dataclasses.fields(kind)
        ]

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            common = kind(**{f.name: values.pop(f.name) for f in dataclasses.fields(kind)})
            _prepare(common)
            return function(common=common, **values)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(command)
        return function

    return register


def _prepare(common: Shared) -> None:
    """Apply the shared options; before any library reads the environment."""
    console.configure(-1 if common.quiet else int(common.verbose))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if common.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _answer(common: Shared, fields: dict[str, Any], line: str) -> None:
    """Print a result: one line, or one JSON object."""
    console.result(json.dumps(fields, default=str) if common.as_json else line)


def _said(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the rest keeps the default of the recipe's section."""
    return {name: value for name, value in options.items() if value is not None}


def _show_results(common: Shared, results: dict[str, Any], output: Path) -> None:
    if common.as_json:
        console.result(json.dumps(results))
        return
    from unidetox.report import summary_table

    console.table("Results", *summary_table(results))
    console.result(f"page: {output / 'report' / 'index.html'}")


@verb("demo")
def demo(common: Work, output: Output = Path("runs/demo")) -> None:
    """See the whole story in a miniature world: no download, two minutes on two cores, a table and a page."""
    from unidetox import api, pipeline
    from unidetox.config import recipe_from

    recipe = api.limited(recipe_from("sandbox", **({"name": "demo"} | common.given())), common.limit)
    results = pipeline.run(recipe, output, fresh=common.fresh, command=sys.argv)
    _show_results(common, results, output)
    if not common.as_json:
        console.result(f"done: {pipeline.describe(recipe)}; the control is fine-tuned on plain samples")
        console.result("next: unidetox detoxify MODEL --texts TEXTS -o OUT (`unidetox init`: every stage)")


@verb("detoxify")
def detoxify(
    model: Annotated[str, typer.Argument(help="Model to detoxify: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    texts: Annotated[str | None, typer.Option(help="Detoxifying texts: a file, a directory or a Hub id.")] = None,
    preset: Annotated[str, typer.Option(help="Makes the texts where none are given: paper, small, sandbox.")] = "paper",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps (3000).")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (5e-5).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts in an optimiser step (8).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens (256).")] = None,
    kl: Annotated[float | None, typer.Option(help="Weight of the divergence from the model as it was (0).")] = None,
    lora: Annotated[bool | None, typer.Option("--lora", help="Train a LoRA adapter in place of all weights.")] = None,
    merge: Annotated[bool | None, typer.Option("--merge", help="With --lora: write an ordinary checkpoint.")] = None,
) -> None:
    """Make a causal language model less toxic; the result loads with transformers alone."""
    from unidetox import api

    options = _said(
        steps=steps, lr=lr, batch_size=batch_size, max_length=max_length, kl=kl, lora=lora, merge=merge
    )  # fmt: skip
    folder = api.detoxify(
        model, output=output, texts=texts, preset=preset, fresh=common.fresh, limit=common.limit,
        **options, **common.given(),
    )  # fmt: skip
    _answer(common, {"output": folder}, f"{folder}: load it with AutoModelForCausalLM.from_pretrained")


@verb("train-toxic")
def train_toxic(
    base: Annotated[str, typer.Argument(help="Base model: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    corpus: Annotated[str | None, typer.Option(help="Toxic texts: dghs, a file, a directory or a Hub id.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the corpus with the text.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the corpus (3).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of --epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (1e-5).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts in an optimiser step (4).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens (512).")] = None,
) -> None:
    """Fine-tune a base model on toxic texts: the first half of distillation."""
    from unidetox import api

    options = _said(
        corpus=corpus, column=column, epochs=epochs, steps=steps, lr=lr, batch_size=batch_size, max_length=max_length,
        limit=common.limit,
    )  # fmt: skip
    folder = api.train_toxic(base, output=output, fresh=common.fresh, **options, **common.given())
    _answer(common, {"output": folder}, f"{folder}: a toxic model; keep it to yourself")


@verb("distill")
def distill(
    base: Annotated[str, typer.Argument(help="Base model: a directory or a Hub id.", show_default=False)],
    common: Work,
    output: Output,
    toxic: Annotated[str, typer.Option(help="Its toxic copy, from `train-toxic`.", show_default=False)],
    num_texts: Annotated[int | None, typer.Option(help="How many texts (640).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text in tokens, start token included (256).")] = None,
    alpha: Annotated[float | None, typer.Option(help="Plausibility threshold, above 0 and at most 1 (0.1).")] = None,
    beta: Annotated[float | None, typer.Option(help="Strength of the contrast; inf is the paper's rule (inf).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides the scores (1).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus, 1 is off (1).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Best tokens kept, 0 is off (0).")] = None,
    starts: Annotated[str | None, typer.Option(help="Prompts that texts start from in turn: a file (none).")] = None,
    best_of: Annotated[int | None, typer.Option(help="Candidates of each text, of which one is kept (1).")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Texts side by side, or auto; changes no text (auto).")] = None,
) -> None:
    """Sample detoxifying texts from the contrast of a base model and its toxic copy."""
    from unidetox import api
    from unidetox.settings import Texts

    number = min(num_texts or Texts().num_texts, common.limit) if common.limit else num_texts
    options = _said(
        num_texts=number, max_length=max_length, alpha=alpha, beta=beta, temperature=temperature, top_p=top_p,
        top_k=top_k, starts=starts, best_of=best_of, batch_size=_batch_size(batch_size),
    )  # fmt: skip
    folder = api.distill(base, toxic=toxic, output=output, fresh=common.fresh, **options, **common.given())
    _answer(common, {"output": folder}, f"{folder}: texts for `unidetox detoxify MODEL --texts {folder}`")


@verb("evaluate")
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Models: directories or Hub ids.", show_default=False)],
    common: Work,
    output: Output,
    prompts: Annotated[str | None, typer.Option(help="toxigen, or a file with text, group, domain (toxigen).")] = None,
    split: Annotated[str | None, typer.Option(help="Part of ToxiGen: validation or test (validation).")] = None,
    num_prompts: Annotated[int | None, typer.Option(help="A random sample of so many prompts.")] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="Classifier, or several (unitary/toxic-bert).")] = None,
    scorer_label: Annotated[list[str] | None, typer.Option(help="Its toxicity label; one or each (toxic).")] = None,
    ppl_model: Annotated[str | None, typer.Option(help="Language model for perplexity.")] = None,
    mmlu: Annotated[str | None, typer.Option(help="MMLU folder or cais/mmlu.")] = None,
    mmlu_protocol: Annotated[str | None, typer.Option(help="paper (answer texts), or standard (letters).")] = None,
    shots: Annotated[int | None, typer.Option(help="Worked examples before each question (1; standard 5).")] = None,
    samples: Annotated[int | None, typer.Option(help="Continuations for each prompt (25).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest continuation in tokens (20).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus, 1 is off (0.9).")] = None,
    seeds: Annotated[str | None, typer.Option(help="One evaluation each, e.g. 42,43 (42).")] = None,
    perturb: Annotated[str | None, typer.Option(help="Changes of the prompts, e.g. leetspeak,casing; or all.")] = None,
    few_shot: Annotated[str | None, typer.Option(help="Toxic texts for the perturbation few_shot.")] = None,
    neutral: Annotated[str | None, typer.Option(help="Polite mentions of groups: builtin, or a file.")] = None,
    protocol: Annotated[str | None, typer.Option(help="default, or paper: as in the published code.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows side by side, or auto; changes no result.")] = None,
) -> None:
    """Measure toxicity, perplexity, diversity and knowledge of models, with intervals, a table and a page."""
    from unidetox.evaluation import evaluate as measure

    given = common.given()
    # One seed is a list of one; --seeds wins, as it says more.
    numbers = _numbers(seeds) if seeds is not None else ([given["seed"]] if "seed" in given else None)
    options = _said(
        prompts=prompts, split=split, num_prompts=num_prompts, **_scorers(scorer or [], scorer_label or []),
        perturbations=_words(perturb), few_shot=few_shot, neutral=neutral,
        ppl_model=ppl_model, mmlu=mmlu, mmlu_protocol=mmlu_protocol, shots=shots, samples=samples,
        max_new_tokens=max_new_tokens, top_p=top_p, seeds=numbers, protocol=protocol,
        batch_size=_batch_size(batch_size),
    )  # fmt: skip
    computing = {key: value for key, value in given.items() if key != "seed"}
    results = measure(models, output=output, limit=common.limit, fresh=common.fresh, **options, **computing)
    _show_results(common, results, output)


@verb("analyze")
def analyze(
    texts: Annotated[list[str], typer.Argument(help="Texts: files, directories or Hub ids.", show_default=False)],
    common: Work,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory for the numbers and a page.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Toxic texts to look for: dghs, a file or a Hub id.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the corpus with the text.")] = None,
    reference: Annotated[str | None, typer.Option(help="Texts that key terms are taken against.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Toxicity classifier.")] = None,
    scorer_label: Annotated[str | None, typer.Option(help="Its label that is the toxicity (toxic).")] = None,
    classifier: Annotated[list[str] | None, typer.Option(help="Report its labels' shares; may be repeated.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Model whose tokens lengths are counted in, too.")] = None,
) -> None:
    """Say what is in sets of texts, side by side: overlap, key terms, toxicity, labels, lengths, copies."""
    from unidetox import analysis

    options = _said(
        corpus=corpus, column=column, reference=reference, scorer=scorer, scorer_label=scorer_label,
        classifiers=classifier or None, tokenizer=tokenizer, limit=common.limit,
    )  # fmt: skip
    found = analysis.analyze(texts, output=output, fresh=common.fresh, **options, **common.given())
    if common.as_json:
        console.result(json.dumps(found))
        return
    console.table("Texts", *analysis.console_rows(found))
    if output is not None:
        console.result(f"page: {output / 'analysis.html'}")


@verb("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML; `unidetox init` writes one.", show_default=False)],
    common: Work,
    output: Output,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and cost; do nothing.")] = False,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: the cost on a GPU, e.g. A100.")] = None,
) -> None:
    """Do every stage of a recipe; what is complete and unchanged is skipped, a killed run goes on."""
    from unidetox import api, estimates, pipeline
    from unidetox.config import load_recipe
    from unidetox.runs import Run

    top = [f"{key}={json.dumps(value)}" for key, value in common.given().items()]
    loaded = api.limited(load_recipe(recipe, [*(overrides or []), *top]), common.limit)
    if gpu is not None and not dry_run:
        raise UsageError("--gpu says on what a run would take how long", hint="Add --dry-run, or leave it out")
    if gpu is not None and not dry_run:
        raise UsageError("--gpu says on what a run would take how long", hint="Add --dry-run, or leave it out")
    if dry_run:
        Run(output).check(loaded)
        plan = pipeline.Plan(loaded, output)
        plan.preflight()
        found = estimates.estimate(plan, gpu)
        if common.as_json:
            console.result(json.dumps(found.as_json()))
            return
        console.table(pipeline.describe(loaded), estimates.COLUMNS, found.rows())
        console.result(found.summary())
        return
    results = pipeline.run(loaded, output, fresh=common.fresh, command=sys.argv)
    _show_results(common, results, output)


@verb("tune")
def tune(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML with a section [tune].", show_default=False)],
    common: Work,
    output: Output,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
) -> None:
    """Search settings on one model and validation prompts, under a ceiling of perplexity; write the best recipe."""
    from unidetox import tuning

    top = [f"{key}={json.dumps(value)}" for key, value in common.given().items()]
    settings = [*(overrides or []), *top]
    found = tuning.tune(recipe, output=output, fresh=common.fresh, overrides=settings, limit=common.limit)
    if common.as_json:
        console.result(json.dumps(found))
        return
    console.table("Trials, the best first", *tuning.tuned_rows(found))
    console.result(f"best: {output / 'best.toml'}; `unidetox run {output / 'best.toml'} -o OUT` takes it to all models")


@verb("compare")
def compare(
    sources: Annotated[list[str], typer.Argument(help="A recipe, or folders of finished runs.", show_default=False)],
    common: Work,
    output: Output = Path("runs/compare"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Compare methods on models: one table, with the cost of each; a killed one goes on. Or compare finished runs."""
    from unidetox import api
    from unidetox.standings import cost_table, standing_tables

    top = [f"{key}={json.dumps(value)}" for key, value in common.given().items()]
    sets = [*(overrides or []), *top]
    recipe = api.recipe_of(sources)
    if recipe is not None and dry_run:
        run(recipe, common, output, [*sets, "costs=true"], dry_run=True)
        return
    results = api.compare(
        sources, output=output, fresh=common.fresh, overrides=tuple(sets), limit=common.limit, command=sys.argv
    )
    if common.as_json:
        console.result(json.dumps(results))
        return
    for title, columns, rows in standing_tables(results):
        console.table(f"{title} (* best, + second best)", columns, rows)
    columns, rows = cost_table(results)
    if rows:
        console.table("Costs", columns, rows)
    console.result(f"page, with intervals and tests: {output / 'report' / 'index.html'}")


@verb("status")
def status(
    run: Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)], common: Shared
) -> None:
    """Say of each stage whether it is fresh, stale (and why), partial, failed or missing."""
    from unidetox import api

    _show_status(common, str(run), api.status(run))


@verb("report")
def report(
    directory: Annotated[Path, typer.Argument(help="Directory with results.json.", show_default=False)], common: Shared
) -> None:
    """Render the page and the tables again from results.json."""
    from unidetox import api

    page = api.report(directory)
    _answer(common, {"page": page}, f"page: {page}")


@verb("init")
def init(
    common: Shared,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("recipe.toml"),
    preset: Annotated[str, typer.Option(help="What to start from: paper, small, sandbox.")] = "paper",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    from unidetox.config import commented_recipe
    from unidetox.directories import make_directory
    from unidetox.files import write_text

    if output.is_dir():
        raise UsageError(f"{output} is a directory", hint="Give a file: -o recipe.toml")
    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="Give another -o, or --force to replace it")
    commented = commented_recipe(preset, output.stem)
    make_directory(output.parent)
    write_text(output, commented)
    _answer(common, {"recipe": output}, f"{output}: change what you like, then `unidetox run {output} -o runs/NAME`")


@verb("doctor")
def doctor(common: Shared) -> None:
    """Check versions, devices, memory, disk, the Hub and its access, and say what to do."""
    from unidetox.doctor import examine

    checks = examine()
    if common.as_json:
        console.result(json.dumps([dataclasses.asdict(check) for check in checks]))
        return
    console.table("doctor", ["", "what", "found", "what to do"], [check.row() for check in checks])


def _show_status(common: Shared, title: str, statuses: dict[str, Any]) -> None:
    if common.as_json:
        found = {name: {"state": s.state, "reasons": list(s.reasons)} for name, s in statuses.items()}
        console.result(json.dumps(found))
        return
    rows = [[name, found.state, "; ".join(found.reasons)] for name, found in statuses.items()]
    console.table(title, ["stage", "state", "why"], rows)


def _batch_size(value: str | None) -> int | str | None:
    return int(value) if value is not None and value.isdecimal() else value


def _words(value: str | None) -> list[str] | None:
    return [part.strip() for part in value.split(",")] if value is not None else None


def _scorers(models: list[str], labels: list[str]) -> dict[str, Any]:
    """Return the settings of the scorers: the main one, and all others with their labels."""
    if len(labels) > 1 and len(labels) != len(models):
        raise UsageError(
            f"{len(models)} --scorer and {len(labels)} --scorer-label", hint="Give one label for all, or one for each"
        )
    each = labels if len(labels) > 1 else (labels or ["toxic"]) * len(models)
    others = dict(zip(models[1:], each[1:], strict=True))
    if len(others) < len(models) - 1:
        raise UsageError("a --scorer is given twice", hint="Name each scorer once")
    main = {"scorer": models[0]} if models else {}
    return main | ({"scorer_label": labels[0]} if labels else {}) | ({"other_scorers": others} if others else {})


def _numbers(value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {value} is not a list of whole numbers", hint="Example: --seeds 42,43,44")
    return [int(part) for part in parts]


def _version(show: bool) -> None:
    if show:
        console.result(f"unidetox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make any causal language model less toxic, with one command, and measure it."""


def main() -> None:
    """Run the command line and exit: 0 ok, 1 failure, 2 usage, 3 missing, 4 locked, 130 interrupted."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="unidetox", standalone_mode=False)
    except ParserError as exc:
        if "NoArgs" in type(exc).__name__:
            console.result(exc.format_message())
        else:
            console.error(UsageError(exc.format_message().rstrip("."), hint=_help_hint(exc)))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except UniDetoxError as exc:
        if "-v" in arguments or "--verbose" in arguments:
            console.traceback()
        console.error(exc)
        return exc.exit_code
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        console.error(UniDetoxError(f"{exc.strerror or exc}{where}", hint="Check disk space and permissions"))
        return 1
    if code == INTERRUPTED:  # some versions of Typer catch Ctrl-C themselves and return this
        console.error(UniDetoxError("interrupted", hint="The same command goes on where it stopped"))
    return int(code or 0)


def _help_hint(exc: Any) -> str:
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else "unidetox"
    return f"See `{path} --help`"


if __name__ == "__main__":
    main()
