"""Stage: targets and prompts -> generations -> results. Only one language model is in memory at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unidetox.config.recipe import build_section
from unidetox.config.settings import Evaluate
from unidetox.core import console
from unidetox.core.directories import locked, remove_empty
from unidetox.core.errors import UsageError
from unidetox.core.files import write_json
from unidetox.core.names import unique_slugs
from unidetox.core.resolve import resolve_source
from unidetox.core.stage_files import PARTS
from unidetox.core.stages import Stage
from unidetox.data import load_prompts, load_questions
from unidetox.evaluation.measure import EvalInputs, Measurement
from unidetox.evaluation.mmlu import check_examples
from unidetox.evaluation.prompt_forms import neutral_set, perturbed_prompts
from unidetox.evaluation.results import bases_of, identify, merge
from unidetox.evaluation.scorers import check_helpers
from unidetox.evaluation.scorers.contamination import contamination
from unidetox.evaluation.target_results import TargetResults
from unidetox.methods.targets import check_target
from unidetox.models import LoadOptions, fingerprint
from unidetox.models.options import DEFAULTS
from unidetox.report.results_file import RESULTS, SCHEMA_VERSION

CODE_VERSION = 5
_OWN = {"evaluation", "generations.jsonl", RESULTS, "report"}


def load_inputs(
    settings: Evaluate,
    options: LoadOptions = DEFAULTS,
    *,
    limit: int | None = None,
    bases: Mapping[str, str] | None = None,
    corpus: str | None = None,
) -> EvalInputs:
    """Load the prompts and questions that the settings name.

    Args:
        settings: The recipe's section.
        options: How models will be loaded.
        limit: Ask at most so many questions.
        bases: Model -> the one that it was made of, as far as known.
        corpus: Toxic texts for the perturbation few_shot, where the settings name none.

    Raises:
        MissingError: If they are not there.
        UsageError: If they cannot be used.
    """
    prompts = load_prompts(settings.prompts, split=settings.split, num_prompts=settings.num_prompts)
    questions = load_questions(settings.mmlu, split=settings.mmlu_split, limit=limit) if settings.mmlu else None
    if questions is not None:
        check_examples(questions, settings.shots)
    perturbed, neutral = perturbed_prompts(prompts, settings, corpus), neutral_set(prompts, settings)
    return EvalInputs(prompts, questions, options, perturbed, neutral, bases or {})


def run_target(
    target: str, directory: Path, inputs: EvalInputs, settings: Evaluate, *, fresh: bool = False, replace: bool = False
) -> Path:
    """Measure one model in a stage directory, unless it holds the complete and current results already.

    The model samples every seed and answers the questions, then makes room for the scorers, then these for the
    perplexity model. All that goes bit by bit to ``.parts`` in the directory, under names that say what it depends on:
    after a kill the same call goes on there, and a call that asks for more takes what is there and adds to it.

    Args:
        target: A directory or a Hub id.
        directory: The stage's directory; gets ``seed-N/generations.jsonl``, ``prompts.json`` and ``results.json``.
        inputs: Prompts, questions and where to compute.
        settings: The recipe's section.
        fresh: Do it again even where it is done.
        replace: Whether results of other settings in the directory may be replaced. If not, only additions are taken:
            more seeds, scorers, perturbations, questions, a perplexity model, another way to sum up.

    Returns:
        ``directory``.

    Raises:
        MissingError: If a model is not there.
        UsageError: If the directory holds something else and ``replace`` is not set, or a model cannot be used.
        UniDetoxError: If a model answers NaN.
        LockedError: If another process works there.
    """
    job = Measurement(target, directory / PARTS, inputs, settings)
    stage = _stage_of(job, directory)

    def make(work_dir: Path) -> dict[str, Any]:
        job.report = stage.report_progress
        console.info(f"measuring {target}: {_describe(inputs, settings)}")
        job.measure()
        return _write_results(job, stage.out_dir)

    if not stage.run(make, fresh=fresh, replace=replace):
        console.detail(f"{target}: measured already, nothing to do")
    return directory


def target_stage(target: str, directory: Path, inputs: EvalInputs, settings: Evaluate) -> Stage:
    """Return the stage of one target, whose key covers everything that its results depend on."""
    return _stage_of(Measurement(target, directory / PARTS, inputs, settings), directory)


def _stage_of(job: Measurement, directory: Path) -> Stage:
    inputs, settings = job.inputs, job.settings
    hashes = dict(job.names.models)
    hashes |= {f"prompts{'@' if form else ''}{form}": prompts.sha256 for form, prompts in inputs.forms.items()}
    if inputs.questions is not None:
        hashes["questions"] = inputs.questions.sha256
    if job.divergence is not None:
        hashes["base"] = fingerprint(job.divergence.base)
    labels = {scorer.name: scorer.label for scorer in job.scorers[1:]}
    shown = {**settings.key("evaluate"), **({"other_scorers": labels} if labels else {})}
    shown["dtype"] = inputs.load_options.dtype
    return Stage(directory, "evaluate", shown, hashes, CODE_VERSION, job.parts)


def _write_results(job: Measurement, output_dir: Path) -> dict[str, Any]:
    """Write generations, rows and tables by prompt of a target whose parts are all there; return its counts."""
    names = asdict(identify(job.target))
    for series in job.series:
        job.assemble(series, names, output_dir)
    results = TargetResults(job, names, output_dir)
    content = {"schema_version": SCHEMA_VERSION, **results.content()}
    write_json(output_dir / RESULTS, content)
    write_json(output_dir / "prompts.json", results.tables())
    return dict(content["counts"])


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    output: str | Path = "runs/evaluation",
    settings: Evaluate | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    limit: int | None = None,
    fresh: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure models: toxicity, perplexity, diversity and answers, with a table and a page.

    Args:
        models: Directories or Hub ids; what is measured already in ``output`` is not done again.
        output: Gets ``generations.jsonl``, ``results.json`` and ``report/index.html``.
        settings: A recipe's section; without it, the options make one.
        device: Where to compute, e.g. ``auto``, ``cpu``, ``cuda``.
        dtype: Number format of the language models, e.g. ``auto``, ``float32``, ``bfloat16``.
        trust_remote_code: Run code that a model's repository brings along.
        limit: Take at most so many prompts, and ask at most so many questions.
        fresh: Measure again what is measured already.
        options: Settings of the section ``evaluate`` of a recipe, e.g. ``prompts="toxigen"``, ``samples=25``.

    Returns:
        The content of ``results.json``.

    Raises:
        UniDetoxError: Any of its children; the message says what to do.
    """
    names = list(dict.fromkeys(str(m) for m in ([models] if isinstance(models, str | Path) else models)))
    if not names:
        raise UsageError("no model to evaluate", hint="name a directory or a Hub id")
    names = [resolve_source(name, None) for name in names]
    section, load = _section(settings, options, limit), LoadOptions(device, dtype, trust_remote_code)
    for name in names:
        check_target(name, load)  # a misspelled second model shows now, not in an hour
    check_helpers(section, load)
    for warning in contamination(section):
        console.warn(warning)
    inputs = load_inputs(section, load, limit=limit, bases=bases_of(names))
    folder = Path(output)
    directories = {n: folder / "evaluation" / s for n, s in zip(names, unique_slugs(names), strict=True)}
    with locked_output(folder):
        for name, directory in directories.items():
            run_target(name, directory, inputs, section, fresh=fresh)
        return merge(directories, folder, inputs, section)


def _section(settings: Evaluate | None, options: dict[str, Any], limit: int | None) -> Evaluate:
    if settings is not None and options:
        raise UsageError(f"both settings and options are given ({', '.join(options)})", hint="Give one of the two")
    section = make_evaluate(options) if settings is None else settings
    if limit is None:
        return section
    if limit < 1:
        raise UsageError(f"limit is {limit}", hint="Give a whole number of at least 1")
    return section.model_copy(update={"num_prompts": min(limit, section.num_prompts or limit)})


def make_evaluate(options: Mapping[str, Any]) -> Evaluate:
    """Return the section ``evaluate`` with some settings changed; names of files are found as in a recipe.

    Args:
        options: Setting -> value.

    Raises:
        UsageError: If a key is unknown or a value not allowed.
        MissingError: If a file that is named does not exist.
    """
    return build_section(Evaluate, options, "evaluate")


@contextlib.contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Hold the lock of an output directory; refuse one that holds something else."""
    with locked(output):
        foreign = sorted({item.name for item in output.iterdir() if not item.name.startswith(".")} - _OWN)
        if foreign:
            raise UsageError(f"{output} holds something else ({foreign[0]})", hint="give another -o, or empty it first")
        try:
            yield
        finally:
            remove_empty([output / "evaluation"])


def _describe(inputs: EvalInputs, settings: Evaluate) -> str:
    n, k, seeds = len(inputs.prompts.prompts), settings.samples, len(settings.seeds)
    asked = f", {len(inputs.questions.questions)} questions" if inputs.questions else ""
    return f"{n} prompts, {k} continuations each, {seeds} seed{'s' if seeds > 1 else ''}{asked}"
