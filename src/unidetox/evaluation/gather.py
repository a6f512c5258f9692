"""Finished runs and evaluations, gathered into one comparison; nothing is measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.names import short_name
from unidetox.core.provenance import differences
from unidetox.core.stages import Stage
from unidetox.evaluation.evaluate import locked_output
from unidetox.evaluation.results import Target, by_target, join
from unidetox.report.results_file import read_results

_OF_ONE_TARGET = {"target", "base"}
"""Inputs of a measurement in which targets may differ."""


def gather(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Join what several runs or evaluations measured: one table, one page, comparisons over all of it.

    What was measured alike in two of them (the same base model, say) counts once; two results of one name are told
    apart by their folders.

    Args:
        folders: Directories of `unidetox run`, `compare` or `evaluate`.
        output: Gets ``results.json``, ``generations.jsonl`` and ``report/``.

    Returns:
        The content of ``results.json``.

    Raises:
        MissingError: A folder holds no results.
        UsageError: They were measured in different ways, so that nothing could be compared; or the output holds
            measurements.
    """
    contents = {folder: _results(folder) for folder in dict.fromkeys(folders)}
    if (output / "evaluation").exists():
        raise UsageError(f"{output} holds measurements of its own, whose results would go", hint="Give another -o")
    found: dict[Target, Path] = {}
    titles: dict[tuple[Path, Target], Target] = {}
    for folder, content in contents.items():
        for name, title, directory in _told_apart(folder, content, found):
            titles[folder, name] = title
            found.setdefault(title, directory)
    _check_alike(list(found.values()))
    with locked_output(output):
        return join(found, output, _further(contents, titles))


def _results(folder: Path) -> dict[str, Any]:
    content = read_results(folder)
    if not content.get("directories"):
        hint = "Give the directory of a finished `unidetox run`, `compare` or `evaluate`"
        raise MissingError(f"{folder} holds no results that can be compared", hint=hint)
    return content


def _told_apart(
    folder: Path, content: Mapping[str, Any], found: Mapping[Target, Path]
) -> Iterator[tuple[Target, Target, Path]]:
    """Yield what a run calls each of its results, what to call it beside others, and its directory."""
    entries = {title: folder / path for title, path in _entries(content["directories"])}
    # Where a base model is another one, all that was made of it goes under another name with it.
    others = {title for title, path in entries.items() if _is_other(found, title, path)}
    bases = {title.target for title in others if title.method == "base"}
    for title, path in entries.items():
        if title.target in bases:
            yield title, replace(title, target=f"{title.target} ({short_name(folder)})"), path
        elif title in others:
            yield title, replace(title, method=f"{title.method} ({short_name(folder)})"), path
        else:
            yield title, title, path


def _entries(nested: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Target, Any]]:
    """Yield what is given by target and method."""
    for target, methods in nested.items():
        for method, entry in methods.items():
            yield Target(target, method), entry


def _is_other(found: Mapping[Target, Path], title: Target, directory: Path) -> bool:
    """Whether a name is taken by something else."""
    return title in found and _key(found[title]) != _key(directory)


def _key(directory: Path) -> str | None:
    return (Stage.read_record(directory) or {}).get("key")


def _check_alike(directories: Sequence[Path]) -> None:
    """See that all were measured with the same prompts, scorer and settings."""
    first, *others = [_how(directory) for directory in directories]
    for directory, other in zip(directories[1:], others, strict=True):
        if changes := differences(first, other):
            raise UsageError(
                f"{directory} was not measured like {directories[0]} ({'; '.join(changes[:3])})",
                hint="Measure both with the same prompts, scorer, seeds and settings",
            )


def _how(directory: Path) -> dict[str, Any]:
    record = Stage.read_record(directory) or {}
    inputs = {name: value for name, value in record.get("inputs", {}).items() if name not in _OF_ONE_TARGET}
    return {"settings": record.get("settings", {}), "inputs": inputs, "code_version": record.get("code_version")}


def _further(
    contents: Mapping[Path, Mapping[str, Any]], titles: Mapping[tuple[Path, Target], Target]
) -> dict[str, Any]:
    """Join what is known beside the numbers."""
    models: dict[Target, str] = {}
    commits: dict[Target, str] = {}
    costs: dict[Target, dict[str, Any]] = {}
    for folder, content in contents.items():
        for name, model in _entries(content["models"]):
            models.setdefault(titles[folder, name], model)
        for name, commit in _entries(content.get("commits", {})):
            commits.setdefault(titles[folder, name], commit)
        for record in content.get("costs", ()):
            title = titles[folder, Target(record["target"], record["method"])]
            costs.setdefault(title, {**record, "target": title.target, "method": title.method})
    warnings = dict.fromkeys(warning for content in contents.values() for warning in content.get("warnings", ()))
    settings = next(iter(contents.values()))["settings"]
    return {
        "settings": settings, "models": by_target(models), "commits": by_target(commits), "warnings": list(warnings),
        "costs": list(costs.values()),
    }  # fmt: skip
