"""No test prompt in a search: whatever a recipe points at, tuning sees validation prompts or none."""

from __future__ import annotations

import re
from pathlib import Path

from unidetox import hub
from unidetox.candidates import read_starts
from unidetox.data.files import find_column, load_table
from unidetox.data.formats import Table, read_table
from unidetox.data.prompts import PROMPT_COLUMNS, TOXIGEN_ID, TOXIGEN_NAMES, PromptSet, load_prompts
from unidetox.data.remote import choose_files
from unidetox.errors import UsageError
from unidetox.settings import Evaluate, Recipe
from unidetox.sources import resolve_source, sandbox_name

_HINT = 'Choose on validation prompts and report on test: set tune.prompts, or tune.split = "validation"'
_SANDBOX_TEST = "sandbox:prompts_test.csv"


def validation_prompts(chosen: Evaluate, reported: Evaluate) -> PromptSet:
    """Load the prompts of a search, having made sure that none of them is a test prompt.

    Refused are the splits ``test`` and ``all``, files whose name or column ``split`` says test, and prompts that the
    test split of the sandbox, of ToxiGen (where it lies in the local cache) or the recipe's own report holds.

    Args:
        chosen: Which prompts the search is to use.
        reported: The recipe's own section: what the result will be reported on, where that is something else.

    Raises:
        UsageError: If test prompts could be reached.
        MissingError: If there are no such prompts.
    """
    _check_split(chosen.split)
    if chosen.prompts not in TOXIGEN_NAMES:
        _check_table(chosen)
    prompts = load_prompts(chosen.prompts, split=chosen.split, num_prompts=chosen.num_prompts)
    if chosen.prompts not in TOXIGEN_NAMES:
        _check_texts(prompts, _known_tests())
    if (chosen.prompts, chosen.split) != (reported.prompts, reported.split):
        _check_texts(prompts, _reported(chosen, reported))
    return prompts


def check_starts_of(recipe: Recipe, reported: Evaluate) -> None:
    """See that no text of a search starts from a test prompt.

    Args:
        recipe: A recipe of the search, with its own prompts.
        reported: What the result will be reported on.

    Raises:
        UsageError: One does.
    """
    starts = read_starts(recipe)
    if starts is not None:
        _check_texts(starts, _known_tests() | _reported(recipe.evaluate, reported))


def _check_split(split: str) -> None:
    if split.partition("[")[0] in ("test", "all"):
        raise UsageError(f'split = "{split}" holds test prompts, which a search must not see', hint=_HINT)


def _check_table(chosen: Evaluate) -> None:
    """Look at the name of a file and at its own word on which split its rows are of."""
    name = Path(sandbox_name(chosen.prompts))
    if "test" in re.findall("[a-z]+", name.stem.lower()) or name.parent.name.lower() == "test":
        raise UsageError(f"{name} is named a test set, which a search must not see", hint=_HINT)
    # Unlike for an evaluation, the test split of a data set is no substitute for one that it lacks.
    table = load_table(chosen.prompts, (chosen.split.partition("[")[0], "train"))
    column = find_column(table, ["split"])
    said = sum(str(row.get(column) or "").strip().lower() == "test" for row in table.rows) if column else 0
    if said:
        raise UsageError(f"{name}: {said} rows are of the test split by its column '{column}'", hint=_HINT)


def _check_texts(prompts: PromptSet, tests: set[str]) -> None:
    found = sum(prompt.text.strip() in tests for prompt in prompts.prompts)
    if found:
        what = f"{found} of the {len(prompts.prompts)} prompts are test prompts, which a search must not see"
        raise UsageError(f"{Path(sandbox_name(prompts.source))}: {what}", hint=_HINT)


def _known_tests() -> set[str]:
    """Return the test prompts that are on this machine."""
    files = [Path(resolve_source(_SANDBOX_TEST, None, missing_ok=True))]
    cached = hub.cached_snapshot(TOXIGEN_ID, "dataset")
    if cached is not None:
        present = [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
        files += [cached / path for path in choose_files(present, "test", "annotated")]
    return {text for path in files if path.is_file() for text in _texts(read_table(path))}


def _reported(chosen: Evaluate, reported: Evaluate) -> set[str]:
    """Return the prompts of the recipe's report that lie in a file: its part of the same one, all of another."""
    if reported.prompts in TOXIGEN_NAMES or not hub.is_local(reported.prompts):
        return set()
    if reported.prompts != chosen.prompts:
        return _texts(load_table(reported.prompts))
    return {prompt.text.strip() for prompt in load_prompts(reported.prompts, split=reported.split).prompts}


def _texts(table: Table) -> set[str]:
    column = find_column(table, PROMPT_COLUMNS)
    return {str(row.get(column) or "").strip() for row in table.rows} if column else set()
