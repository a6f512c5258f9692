"""A search in a directory of its own: every trial is stored when it is complete, and none is done twice."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unidetox.config.fields import map_sources
from unidetox.config.recipe import limited, write_recipe
from unidetox.config.settings import Evaluate, Recipe
from unidetox.core import console
from unidetox.core.directories import DirectoryLock, check_directory, locked, remove, remove_others
from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.core.files import JsonlWriter, canonical, read_json, read_jsonl, write_json
from unidetox.core.names import sandbox_name
from unidetox.core.provenance import differences, versions
from unidetox.pipeline.tuning.guard import validation_prompts
from unidetox.pipeline.tuning.measured import Measured
from unidetox.pipeline.tuning.search import Bounds, Objective, Score, Trial, best_trial, load_optuna, propose
from unidetox.pipeline.tuning.space import Problem, Tune, Value, Values, own_values, read_problem

SCHEMA_VERSION = 1
CODE_VERSION = 1
TRIALS, RESULT, BEST, WORK = "trials.jsonl", "tune.json", "best.toml", "work"
_OWN = {TRIALS, RESULT, BEST, WORK, *DirectoryLock.NAMES}


def tune(
    recipe: str | Path,
    *,
    output: str | Path,
    fresh: bool = False,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """Search a method's settings on one model and validation prompts; write the best as a recipe for all models.

    The best is the least toxic configuration whose perplexity is at most ``tune.ceiling`` times the model's own.

    Args:
        recipe: A TOML file with a section ``[tune]``.
        output: Gets ``trials.jsonl``, ``tune.json`` and ``best.toml``; the same call goes on there.
        fresh: Start over, replacing what the output holds.
        overrides: Settings like ``"tune.trials=5"`` that win over the file.
        limit: Use at most so many toxic texts, detoxifying texts, prompts and training steps: a quick try.
        objective: Measures a configuration in place of the stages of the recipe.

    Returns:
        The content of ``tune.json``.

    Raises:
        UsageError: If a setting is not allowed, or test prompts could be reached.
        MissingError: If something is not there, Optuna included.
        UniDetoxError: If no configuration keeps within the ceiling.

    Reference: UniDetox (Lu et al., ICLR 2025): chosen on GPT-2 XL and validation prompts, then used unchanged.
    """
    folder = Path(output)
    problem = read_problem(Path(recipe), overrides)
    load_optuna()
    check_directory(folder)
    start = _trial_recipe(problem, {}, limit)
    reported = problem.recipe({}).evaluate
    prompts = validation_prompts(start.evaluate, reported)
    bounded = problem.tune.ceiling != float("inf") or problem.tune.floor > 0
    if start.evaluate.ppl_model is None and bounded and objective is None:
        hint = "Name a language model: evaluate.ppl_model; or do without bounds: tune.ceiling = inf, tune.floor = 0"
        raise UsageError("no perplexity is measured, so no ceiling can hold", hint=hint)
    _refuse_foreign(folder)
    measured = Measured(folder / WORK, problem.tune.metric, problem.tune.domain)
    inputs = {"prompts": prompts.sha256} | ({} if objective else measured.preflight(start, reported))
    identity = _identity(problem, start, inputs)
    with locked(folder):
        trials = _earlier(folder, identity, fresh)
        with JsonlWriter(folder / TRIALS) as writer:
            _search(problem, start, trials, limit, objective or measured, writer)
        return _finish(folder, problem, trials, identity)


def tuned_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table of trials, the best first.

    Args:
        result: What `tune` returns.
    """
    keys = list(result["trials"][0]["values"])
    rule = result["rule"]
    bounds = Bounds(rule["ceiling"], rule.get("floor", 0.0))
    columns = ["trial", *keys, rule["metric"], "interval", "ppl / base", "relevance / base", "within"]
    trials = sorted(map(_trial, result["trials"]), key=lambda trial: (*trial.order(bounds), trial.number))
    return columns, [_cells(trial, keys, bounds) for trial in trials]


def _cells(trial: Trial, keys: Sequence[str], bounds: Bounds) -> list[str]:
    cells, score = [str(trial.number), *(_shown(trial.values[key]) for key in keys)], trial.score
    if score is None:
        return [*cells, "-", "-", "-", "-", f"failed: {trial.failure}"]
    interval = f"{score.ci_low:.3f}–{score.ci_high:.3f}" if score.ci_low is not None else "-"
    ratios = ["-" if ratio is None else f"{ratio:.3f}" for ratio in (trial.ratio, trial.kept)]
    return [*cells, f"{score.toxicity:.3f}", interval, *ratios, "yes" if trial.allowed(bounds) else "no"]


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- what a trial is


def _trial_recipe(problem: Problem, values: Values, limit: int | None) -> Recipe:
    """Return the recipe of one trial: one model, one method, validation prompts, nothing but the two measures."""
    recipe = problem.recipe(values)
    update = {
        "detoxify": recipe.detoxify.model_copy(update={"targets": (problem.model,), "methods": (problem.method,)}),
        "method": {name: options for name, options in recipe.method.items() if name == problem.method},
        "evaluate": _evaluation(problem.tune, recipe.evaluate),
        "costs": False,
    }
    return limited(recipe.model_copy(update=update), limit)


def _evaluation(tune: Tune, section: Evaluate) -> Evaluate:
    kept = {name: getattr(section, name) for name in section.key("trial")}
    own = {name: getattr(tune, name) for name in ("prompts", "split", "num_prompts")}
    return Evaluate(**kept | {name: value for name, value in own.items() if value is not None})


def _search(
    problem: Problem, start: Recipe, trials: list[Trial], limit: int | None, objective: Objective, writer: JsonlWriter
) -> None:
    """Do the trials that are still to be done; each is added and written when it is complete."""
    tune, first = problem.tune, own_values(start, problem.space)
    if trials:
        console.info(f"{len(trials)} trials are there already")
    while len(trials) < tune.trials:
        values = propose(problem.space, trials, tune, first)
        if values is None:
            console.info(f"every configuration of the space was tried: {len(trials)} trials")
            return
        said = ", ".join(f"{key} = {_shown(value)}" for key, value in values.items())
        console.info(f"[trial {len(trials) + 1}/{tune.trials}] {said}")
        trials.append(_try(len(trials), values, _trial_recipe(problem, values, limit), objective))
        writer.write([asdict(trials[-1])])


def _try(number: int, values: Values, recipe: Recipe, objective: Objective) -> Trial:
    began, score, failure = time.monotonic(), None, None
    try:
        score = _finite(objective(recipe))
    except UniDetoxError as exc:
        # A learning rate that is too high ends in a loss that is no number: that is a result, a wrong path is not.
        if exc.exit_code != UniDetoxError.exit_code:
            raise
        console.warn(f"trial {number} failed: {exc.message}")
        failure = exc.message
    return Trial(number, values, score, failure, round(time.monotonic() - began, 3))


def _finite(score: Score) -> Score:
    """Put None for a perplexity that is no number; a toxicity that is none makes a failed trial."""
    if not math.isfinite(score.toxicity):
        raise UniDetoxError(f"the toxicity is {score.toxicity}")
    fluent = score.perplexity is not None and math.isfinite(score.perplexity)
    return score if fluent else replace(score, perplexity=None)


# --- the directory


def _refuse_foreign(folder: Path) -> None:
    foreign = sorted({item.name for item in folder.iterdir()} - _OWN) if folder.is_dir() else []
    if foreign:
        raise UsageError(f"{folder} holds something else ({foreign[0]})", hint="Give another -o, or empty it first")


def _identity(problem: Problem, start: Recipe, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Say what all trials of a directory have in common; their number is not part of it."""
    tune = map_sources(problem.tune, sandbox_name).model_dump(mode="json", exclude={"trials"})
    recipe = map_sources(start, sandbox_name).known(mode="json")
    del recipe["name"]
    recipe["evaluate"]["top_k"] = start.evaluate.key("trial")["top_k"]
    settings = {"tune": tune, **recipe}
    return dict(canonical({"settings": settings, "inputs": dict(inputs), "code_version": CODE_VERSION}))


def _earlier(folder: Path, identity: dict[str, Any], fresh: bool) -> list[Trial]:
    """Return the trials that are there; refuse those of another search."""
    if fresh:
        remove_others(folder, DirectoryLock.NAMES)
    known = (read_json(folder / RESULT) or {}).get("identity")
    if known is not None and "civil" in (toxic := known["settings"]["toxic"]):
        toxic["non_toxic"] = toxic.pop("civil")  # what it was called
    if known is not None:
        known["settings"]["tune"].setdefault("floor", 0.0)
    if known is not None and (changes := differences(known, identity)):
        what = f"{folder} holds trials of other settings ({'; '.join(changes[:3])})"
        raise UsageError(what, hint="Start over with --fresh, or give another -o")
    if known is None:
        remove(folder / TRIALS)
        write_json(folder / RESULT, {"schema_version": SCHEMA_VERSION, "identity": identity})
    return [_trial(row) for row in read_jsonl(folder / TRIALS)] if (folder / TRIALS).exists() else []


def _trial(row: Mapping[str, Any]) -> Trial:
    return Trial(**{**row, "score": row["score"] and Score(**row["score"])})


def _finish(folder: Path, problem: Problem, trials: Sequence[Trial], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Write what was found, and the best configuration as a recipe."""
    tune = problem.tune
    best = best_trial(trials, Bounds(tune.ceiling, tune.floor))
    result = {
        "schema_version": SCHEMA_VERSION, "identity": identity,
        "method": problem.method, "model": sandbox_name(problem.model),
        "rule": {"metric": tune.metric, "domain": tune.domain, "ceiling": tune.ceiling, "floor": tune.floor},
        "trials": [asdict(trial) for trial in trials], "best": best.number if best else None,
        "versions": versions(),
    }  # fmt: skip
    write_json(folder / RESULT, result)
    if best is None:
        remove(folder / BEST)
        what = f"none of {len(trials)} configurations keeps within {tune.ceiling:g} times the perplexity"
        what += f" and {tune.floor:g} times the relevance" if tune.floor else ""
        raise UniDetoxError(what, hint="Widen tune.space to gentler values, or loosen the bounds; the trials are kept")
    write_recipe(problem.recipe(best.values), folder / BEST)
    return result
