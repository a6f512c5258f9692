"""Joining what was measured of several targets: generations, results, comparisons and the page."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unidetox.config.fields import map_sources
from unidetox.config.settings import BUILTIN, DGHS, Evaluate
from unidetox.core import console
from unidetox.core.errors import MissingError
from unidetox.core.files import read_json, read_jsonl, write_json, write_jsonl
from unidetox.core.hub import cached_snapshot, commit_of
from unidetox.core.names import portable_name, short_name, unique_slugs
from unidetox.core.resolve import at_revision, is_local
from unidetox.data.hub_datasets import known_id
from unidetox.evaluation.comparisons import compare, survival_rows
from unidetox.evaluation.measure import NEUTRAL, NEUTRAL_SAMPLES, PLAIN, EvalInputs
from unidetox.evaluation.metrics.fairness import LEAST_PROMPTS, group_changes
from unidetox.evaluation.metrics.perturbations import ABOUT
from unidetox.evaluation.metrics.summary import PromptTable, Rules
from unidetox.evaluation.parts import used_top_k
from unidetox.evaluation.scorers.contamination import contamination
from unidetox.report.results_file import RESULTS, SCHEMA_VERSION, read_results


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
    record = _record(name)
    if not record or not record.get("method"):
        return Target(short_name(name))
    return Target(short_name(_base_of(record) or name), str(record["method"]))


def tell_apart(names: Sequence[str]) -> dict[str, Target]:
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


def bases_of(names: Sequence[str]) -> dict[str, str]:
    """Return for models that we made the ones that they were made of: among the same names, or on this machine.

    Args:
        names: Directories or Hub ids.
    """
    identities = {name: identify(name) for name in names}
    bases = {title.target: name for name, title in identities.items() if title.method == "base"}
    found = {name: bases.get(title.target) or _cached_base(name) for name, title in identities.items()}
    return {name: base for name, base in found.items() if base is not None and identities[name].method != "base"}


def _cached_base(name: str) -> str | None:
    record = _record(name) or {}
    base = _base_of(record)
    known = base and not record.get("base_is_local") and not is_local(base)
    return base if known and cached_snapshot(base, "model") is not None else None


def _base_of(record: Mapping[str, Any]) -> str:
    """Return the model that one of ours was made of, as its ``unidetox.json`` names it."""
    return at_revision(str(record.get("base_model") or ""), record.get("base_revision"))


def _record(name: str | Path) -> dict[str, Any] | None:
    folder = Path(name).expanduser() if is_local(str(name)) else cached_snapshot(str(name), "model")
    return read_json(folder / "unidetox.json") if folder else None


def merge(
    directories: Mapping[str, Path],
    output: Path,
    inputs: EvalInputs,
    settings: Evaluate,
    titles: Mapping[str, Target] | None = None,
    *,
    corpus: str = DGHS,
    costs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Join the results of several targets: ``generations.jsonl``, ``results.json``, ``report/index.html``.

    Args:
        directories: Model name -> its stage directory.
        output: Where to write.
        inputs: What they were measured with.
        settings: The recipe's section.
        titles: Model name -> what to call it; without it, they are told apart by what is known of them.
        corpus: What the toxic model was trained on, for the warning of a scorer that knows it.
        costs: What each method took, where that is known; see `unidetox.pipeline.plan.Plan.costs`.

    Returns:
        The content of ``results.json``.
    """
    titles = titles or tell_apart(list(directories))
    further = {
        "settings": describe_settings(inputs, map_sources(settings, lambda name: portable_name(name, output))),
        "models": by_target({title: portable_name(name, output) for name, title in titles.items()}),
        "commits": by_target({title: c for name, title in titles.items() if (c := commit_of(name, "model"))}),
        "warnings": contamination(settings, corpus),
        "costs": list(costs),
    }
    return join({titles[name]: directory for name, directory in directories.items()}, output, further)


def join(directories: Mapping[Target, Path], output: Path, further: Mapping[str, Any]) -> dict[str, Any]:
    """Join what is in stage directories, whoever measured it.

    Args:
        directories: What to call each target -> its stage directory.
        output: Where to write.
        further: What ``results.json`` holds besides: ``settings``, ``models``, ``commits``, ``warnings``, ``costs``.

    Returns:
        The content of ``results.json``.
    """
    from unidetox.report.examples import example_rows
    from unidetox.report.headline import counted
    from unidetox.report.page import render_report

    id_domains, seeds = further["settings"]["id_domains"], further["settings"]["seeds"]
    contents = {title: read_results(directory) for title, directory in directories.items()}
    rows = [{**row, **asdict(title)} for title, content in contents.items() for row in content["rows"]]
    tables, judged = _tables(directories)
    plain = tables[PLAIN]
    rows += [asdict(row) for row in _survival(tables, id_domains)]
    answers = {(title.target, title.method): content["answers"] for title, content in contents.items()}
    results = {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "comparisons": compare(plain, answers, scorers=judged, id_domains=id_domains),
        "fairness": {"groups": group_changes(plain), "least_prompts": LEAST_PROMPTS, **_mentions(contents)},
        "about": {"perturbations": {form: ABOUT[form] for form in tables if form in ABOUT}},
        "distributions": [asdict(title) | content["distributions"] for title, content in contents.items()],
        "counts": by_target({title: content["counts"] for title, content in contents.items()}),
        "directories": by_target({title: os.path.relpath(path, output) for title, path in directories.items()}),
        **further,
    }
    for title, content in contents.items():
        if lost := counted(content["counts"], lost_only=True):
            console.warn(f"{title.target} / {title.method}: {lost}")
    _write_generations(output / "generations.jsonl", directories, seeds)
    write_json(output / RESULTS, results)
    render_report(results, example_rows(output / "generations.jsonl"), output / "report")
    return results


def by_target(entries: Mapping[Target, Any]) -> dict[str, dict[str, Any]]:
    """Return entries as ``results.json`` holds them: target -> method -> entry."""
    nested: dict[str, dict[str, Any]] = {}
    for title, entry in entries.items():
        nested.setdefault(title.target, {})[title.method] = entry
    return nested


def describe_settings(inputs: EvalInputs, settings: Evaluate) -> dict[str, Any]:
    """Return every choice behind the numbers, those that the protocol makes included."""
    rules = Rules.of(settings.protocol, settings.threshold, settings.id_domains)
    questions, texts = inputs.questions, [prompt.text for prompt in inputs.prompts.prompts]
    return {
        **settings.model_dump(mode="json"),
        "top_k": used_top_k(settings),
        "toxic_if": f"score {'>' if rules.strict else '>='} {rules.threshold:g}",
        "dist_counts": "prompt and continuation" if rules.dist_with_prompt else "continuation",
        "ppl_ceiling": rules.ppl_ceiling,
        "ppl_mean": "over continuations, those below the ceiling" if rules.ppl_ceiling else "over continuations, all",
        "std": "population standard deviation over seeds (tp_std and so on)" if rules.spread else None,
        "mmlu_answer": "letter" if settings.mmlu_protocol == "standard" else "full text",
        "interval": "95 % bootstrap over prompts, 2000 resamples",
        "dtype": inputs.load_options.dtype,
        "commits": _commits(settings),
        "prompts_used": len(texts),
        "prompts_sha256": inputs.prompts.sha256,
        "prompts_dropped": dict(inputs.prompts.dropped),
        "prompts_repeated": len(texts) - len(set(texts)),
        "groups_without_domain": dict(inputs.prompts.unmapped_groups),
        "perturbations": list(inputs.perturbed),
        "neutral_prompts": len(inputs.neutral.prompts) if inputs.neutral else None,
        "neutral_samples": min(settings.samples, NEUTRAL_SAMPLES) if inputs.neutral else None,
        "questions_used": len(questions.questions) if questions else None,
        "questions_sha256": questions.sha256 if questions else None,
    }


def _commits(settings: Evaluate) -> dict[str, str]:
    """Return for what the settings name by a Hub id, other than the targets, the commit that was read."""
    models = (settings.scorer, *settings.other_scorers, settings.ppl_model)
    data = (settings.prompts, settings.mmlu, settings.few_shot, settings.neutral)
    found = {name: commit_of(name, "model") for name in models if name}
    found |= {name: commit_of(at_revision(*known_id(name)), "dataset") for name in data if name and name != BUILTIN}
    return _known(found)


def _known(commits: Mapping[str, str | None]) -> dict[str, str]:
    return {name: commit for name, commit in commits.items() if commit}


def _content(title: Target, directory: Path) -> dict[str, Any]:
    content = read_results(directory)
    if content is None:
        raise MissingError(f"{directory} holds no {RESULTS}", hint="Give the directory of a run or an evaluation")
    return content


_Tables = dict[tuple[str, str], PromptTable]


def _tables(directories: Mapping[Target, Path]) -> tuple[dict[str, _Tables], dict[str, _Tables]]:
    """Return form, and other scorer, -> (target, method) -> its numbers prompt by prompt."""
    found: dict[str, dict[str, _Tables]] = {"forms": {PLAIN: {}}, "scorers": {}}
    for title, directory in directories.items():
        content = read_json(directory / "prompts.json") or {}
        # Before there were other scorers in it, it held the forms alone.
        for kind, each in (content if "forms" in content else {"forms": content}).items():
            for name, table in each.items():
                found[kind].setdefault(name, {})[title.target, title.method] = PromptTable.from_json(table)
    return found["forms"], found["scorers"]


def _survival(tables: Mapping[str, _Tables], id_domains: Sequence[str]) -> list[Any]:
    perturbed = {form: table for form, table in tables.items() if form != PLAIN}
    return survival_rows(tables[PLAIN], perturbed, id_domains=id_domains)


def _mentions(contents: Mapping[Target, Mapping[str, Any]]) -> dict[str, Any]:
    """Join what is known of neutral prompts; what a scorer makes of them is the same whoever is measured."""
    mentions = [asdict(title) | record for title, content in contents.items() for record in content[NEUTRAL]]
    false_positives = next(iter(contents.values()))["false_positives"] if contents else []
    return {"mentions": mentions, "false_positives": false_positives}


def _write_generations(path: Path, directories: Mapping[Target, Path], seeds: Sequence[int]) -> None:
    parts = [(title, folder / f"seed-{seed}") for title, folder in directories.items() for seed in seeds]
    read = ((asdict(title), read_jsonl(part / "generations.jsonl")) for title, part in parts)
    write_jsonl(path, ([row | title for row in rows] for title, rows in read))
