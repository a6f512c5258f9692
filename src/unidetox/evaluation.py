"""Stage: targets and prompts -> generations -> results. Only one language model is in memory at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unidetox import console
from unidetox.config import build_recipe
from unidetox.data import PromptSet, QuestionSet, load_prompts, load_questions
from unidetox.directories import DirectoryLock, make_directory, remove_empty
from unidetox.errors import UniDetoxError, UsageError
from unidetox.files import read_json, read_jsonl, write_json, write_jsonl
from unidetox.hub import cached_snapshot, is_local
from unidetox.metrics.collect import Report
from unidetox.metrics.measure import Measurement, Work, check_helpers, used_top_k
from unidetox.metrics.mmlu import check_examples
from unidetox.metrics.summary import Row, Rules, accuracy_rows, summarise
from unidetox.models import check_lm, fingerprint, short_name, unique_slugs
from unidetox.settings import Evaluate, map_sources
from unidetox.sources import portable_name, resolve_source
from unidetox.stages import Stage

__all__ = [
    "Row",
    "Rules",
    "Target",
    "Work",
    "check_helpers",
    "describe_settings",
    "evaluate",
    "evaluate_target",
    "identify",
    "load_work",
    "make_evaluate",
    "merge",
    "run_target",
    "summarise",
    "target_stage",
]

CODE_VERSION = 1
SCHEMA_VERSION = 1
_OWN = {"evaluation", "generations.jsonl", "results.json", "report"}


@dataclass(frozen=True)
class Target:
    """What a model is called in the results.

    Attributes:
        target: Short name of the model, or of the model that it was made from.
        method: How it was made less toxic; ``base`` for any model that we did not make.
    """

    target: str
    method: str = "base"


def identify(name: str | Path) -> Target:
    """Return what a model is called in the results: what its ``unidetox.json`` says, else its short name and ``base``.

    Args:
        name: A directory or a Hub id.
    """
    folder = Path(name).expanduser() if is_local(str(name)) else cached_snapshot(str(name), "model")
    record = read_json(folder / "unidetox.json") if folder else None
    if not record or not record.get("method"):
        return Target(short_name(name))
    return Target(short_name(str(record.get("base_model") or name)), str(record["method"]))


def load_work(
    settings: Evaluate,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    limit: int | None = None,
) -> Work:
    """Load the prompts and questions that the settings name.

    Args:
        settings: The recipe's section.
        device: Where to compute.
        dtype: Number format of the language models.
        trust_remote_code: Run code that a model's repository brings along.
        limit: Ask at most so many questions.

    Raises:
        MissingError: If they are not there.
        UsageError: If they cannot be used.
    """
    prompts = load_prompts(settings.prompts, split=settings.split, num_prompts=settings.num_prompts)
    questions = load_questions(settings.mmlu, split=settings.mmlu_split, limit=limit) if settings.mmlu else None
    if questions is not None:
        check_examples(questions, settings.shots)
    return Work(prompts, questions, device, dtype, trust_remote_code)


def evaluate_target(
    target: str,
    work_dir: Path,
    output_dir: Path,
    prompts: PromptSet,
    settings: Evaluate,
    questions: QuestionSet | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    report: Report | None = None,
) -> list[Row]:
    """Measure one model over all seeds.

    The model samples every seed and answers the questions, then makes room for the scorer, then that for the
    perplexity model. Everything goes to ``work_dir`` bit by bit; after a kill the same call goes on there, and
    ends with the same result.

    Args:
        target: A directory or a Hub id.
        work_dir: Where unfinished work is kept; it must belong to this target, these prompts and these settings.
        output_dir: Gets ``seed-N/generations.jsonl`` and ``results.json`` of this target.
        prompts: What to continue.
        settings: The recipe's section.
        questions: What to ask, or None.
        device: Where to compute.
        dtype: Number format of the language models; the scorer is always float32.
        trust_remote_code: Run code that a model's repository brings along.
        report: Told how many are done, how many there are, and of what.

    Returns:
        The rows of the results.

    Raises:
        MissingError: If a model is not there.
        UsageError: If the scorer has no such label, or a model cannot be used.
        UniDetoxError: If a model answers NaN.
    """
    work = Work(prompts, questions, device, dtype, trust_remote_code)
    job = Measurement(str(target), work_dir, work, settings, report)
    job.ask_target()
    job.score()
    job.measure_perplexity()
    identity = identify(target)
    paths = [job.assemble(seed, asdict(identity), output_dir) for seed in settings.seeds]
    rules = Rules.of(settings.protocol, settings.threshold, settings.id_domains)
    generations = (row for path in paths for row in read_jsonl(path))
    rows = summarise(generations, target=identity.target, method=identity.method, rules=rules)
    rows += accuracy_rows(
        job.answers() or [], target=identity.target, method=identity.method, protocol=settings.mmlu_protocol
    )
    content = {"schema_version": SCHEMA_VERSION, "rows": [asdict(row) for row in rows], "counts": job.counts()}
    write_json(output_dir / "results.json", content)
    return rows


def run_target(
    target: str, directory: Path, work: Work, settings: Evaluate, *, fresh: bool = False, replace: bool = False
) -> Path:
    """Measure one model in a stage directory, unless it holds the complete and current results already.

    Args:
        target: A directory or a Hub id.
        directory: The stage's directory; gets ``seed-N/generations.jsonl`` and ``results.json``.
        work: Prompts, questions and where to compute.
        settings: The recipe's section.
        fresh: Do it again even where it is done.
        replace: Whether results of other settings in the directory may be replaced.

    Returns:
        ``directory``.

    Raises:
        UsageError: If the directory holds something else and ``replace`` is not set.
        LockedError: If another process works there.
    """
    stage = target_stage(target, directory, work, settings)
    if not fresh and stage.status().state == "fresh":
        console.detail(f"{target}: measured already, nothing to do")
        return directory
    console.info(f"measuring {target}: {_describe(work, settings)}")
    with stage.open(fresh=fresh, replace=replace) as work_dir:
        evaluate_target(
            target, work_dir, stage.out_dir, work.prompts, settings, work.questions,
            device=work.device, dtype=work.dtype, trust_remote_code=work.trust_remote_code,
            report=stage.report_progress,
        )  # fmt: skip
        stage.commit((read_json(stage.out_dir / "results.json") or {}).get("counts", {}))
    return directory


def target_stage(target: str, directory: Path, work: Work, settings: Evaluate) -> Stage:
    """Return the stage of one target, whose key covers everything that its results depend on."""
    inputs = {"target": fingerprint(target), "prompts": work.prompts.sha256, "scorer": fingerprint(settings.scorer)}
    if settings.ppl_model is not None:
        inputs["ppl_model"] = fingerprint(settings.ppl_model)
    if work.questions is not None:
        inputs["questions"] = work.questions.sha256
    chosen = settings.model_dump(
        mode="json",
        exclude={"prompts", "split", "num_prompts", "scorer", "ppl_model", "mmlu", "mmlu_split", "batch_size"},
    )
    return Stage(directory, "evaluate", {**chosen, "dtype": work.dtype}, inputs, CODE_VERSION)


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
    section = _section(settings, options, limit)
    for name in names:
        check_lm(name, trust_remote_code=trust_remote_code)  # a misspelled second model shows now, not in an hour
    check_helpers(section, trust_remote_code=trust_remote_code)
    work = load_work(section, device=device, dtype=dtype, trust_remote_code=trust_remote_code, limit=limit)
    folder = Path(output)
    directories = {n: folder / "evaluation" / s for n, s in zip(names, unique_slugs(names), strict=True)}
    with _locked(folder):
        for name, directory in directories.items():
            run_target(name, directory, work, section, fresh=fresh)
        return merge(directories, folder, work, section)


def merge(
    directories: Mapping[str, Path],
    output: Path,
    work: Work,
    settings: Evaluate,
    titles: Mapping[str, Target] | None = None,
) -> dict[str, Any]:
    """Join the results of several targets: ``generations.jsonl``, ``results.json``, ``report/index.html``.

    Args:
        directories: Model name -> its stage directory.
        output: Where to write.
        work: What they were measured with.
        settings: The recipe's section.
        titles: Model name -> what to call it; without it, they are told apart by what is known of them.

    Returns:
        The content of ``results.json``.
    """
    from unidetox.report import example_rows, render_report

    titles = titles or _tell_apart(list(directories))
    rows, counts = [], {}
    for name, directory in directories.items():
        content = read_json(directory / "results.json")
        if content is None:
            raise UniDetoxError(f"{directory} holds no results", hint=f"measure {name} again with --fresh")
        rows += [{**row, **asdict(titles[name])} for row in content["rows"]]
        counts[f"{titles[name].target} / {titles[name].method}"] = content["counts"]
    results = {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "settings": describe_settings(work, map_sources(settings, lambda name: portable_name(name, output))),
        "counts": counts,
        "models": {f"{t.target} / {t.method}": portable_name(name, output) for name, t in titles.items()},
    }
    _write_generations(output / "generations.jsonl", directories, titles, settings)
    write_json(output / "results.json", results)
    render_report(results, example_rows(output / "generations.jsonl"), output / "report")
    return results


def describe_settings(work: Work, settings: Evaluate) -> dict[str, Any]:
    """Return every choice behind the numbers, those that the protocol makes included."""
    rules = Rules.of(settings.protocol, settings.threshold, settings.id_domains)
    questions = work.questions
    return {
        **settings.model_dump(mode="json"),
        "top_k": used_top_k(settings),
        "toxic_if": f"score {'>' if rules.strict else '>='} {rules.threshold:g}",
        "dist_counts": "prompt and continuation" if rules.dist_with_prompt else "continuation",
        "ppl_ceiling": rules.ppl_ceiling,
        "interval": "95 % bootstrap over prompts, 2000 resamples",
        "dtype": work.dtype,
        "prompts_used": len(work.prompts.prompts),
        "prompts_sha256": work.prompts.sha256,
        "prompts_dropped": dict(work.prompts.dropped),
        "groups_without_domain": dict(work.prompts.unmapped_groups),
        "questions_used": len(questions.questions) if questions else None,
        "questions_sha256": questions.sha256 if questions else None,
    }


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
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    # The other sections must be there and do not count.
    others = {"base": {"model": "any"}, "detoxify": {"targets": ["any"]}}
    return build_recipe({**others, "evaluate": plain}, "evaluate").evaluate


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output directory; refuse one that holds something else."""
    made = make_directory(output)
    lock = DirectoryLock(output)
    try:
        foreign = sorted({item.name for item in output.iterdir() if not item.name.startswith(".")} - _OWN)
        if foreign:
            raise UsageError(f"{output} holds something else ({foreign[0]})", hint="give another -o, or empty it first")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()
    finally:
        remove_empty([output / "evaluation", *made])


def _describe(work: Work, settings: Evaluate) -> str:
    n, k, seeds = len(work.prompts.prompts), settings.samples, len(settings.seeds)
    asked = f", {len(work.questions.questions)} questions" if work.questions else ""
    return f"{n} prompts, {k} continuations each, {seeds} seed{'s' if seeds > 1 else ''}{asked}"


def _tell_apart(names: Sequence[str]) -> dict[str, Target]:
    """Name each model; where two would be the same, the part of their paths that differs is added."""
    titles = {name: identify(name) for name in names}
    seen = Counter(titles.values())
    slugs = dict(zip(names, unique_slugs(names), strict=True))
    for name, title in titles.items():
        if seen[title] > 1 and title.method == "base":
            titles[name] = replace(title, target=slugs[name])
        elif seen[title] > 1:
            titles[name] = replace(title, method=f"{title.method} ({slugs[name]})")
    return titles


def _write_generations(
    path: Path, directories: Mapping[str, Path], titles: Mapping[str, Target], settings: Evaluate
) -> None:
    parts = [(name, folder / f"seed-{seed}") for name, folder in directories.items() for seed in settings.seeds]
    read = ((asdict(titles[name]), read_jsonl(part / "generations.jsonl")) for name, part in parts)
    write_jsonl(path, ([row | title for row in rows] for title, rows in read))
