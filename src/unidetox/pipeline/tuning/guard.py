"""No test prompt in a search: whatever a recipe points at, tuning sees validation prompts or none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence, Set
from pathlib import Path

from unidetox.config.settings import Evaluate
from unidetox.core.errors import UsageError
from unidetox.core.names import sandbox_name
from unidetox.core.resolve import is_local, resolve_source
from unidetox.data import Prompt, PromptSet, Text, load_prompts, read_texts
from unidetox.data.files import find_column, load_table
from unidetox.data.formats import Table, read_table
from unidetox.data.hub_datasets import cached_files
from unidetox.data.prompts import PROMPT_COLUMNS, TOXIGEN_IDS, TOXIGEN_TEST_GROUPS, is_toxigen
from unidetox.methods.best_of import read_starts
from unidetox.methods.interface import RunContext

_HINT = 'Choose on validation prompts and report on test: set tune.prompts, or tune.split = "validation"'


def validation_prompts(chosen: Evaluate, reported: Evaluate) -> PromptSet:
    """Load the prompts of a search, having made sure that none of them is a test prompt.

    Refused are the splits ``test`` and ``all``, files whose name or column ``split`` says test, files that spell groups
    as only ToxiGen's test split does, and prompts that the test split of the sandbox, of ToxiGen (where it lies in the
    local cache) or the recipe's own report holds, also with other case, spaces and punctuation.

    Args:
        chosen: Which prompts the search is to use.
        reported: The recipe's own section: what the result will be reported on, where that is something else.

    Raises:
        UsageError: If test prompts could be reached.
        MissingError: If there are no such prompts.
    """
    if chosen.split.partition("[")[0] in ("test", "all"):
        raise UsageError(f'split = "{chosen.split}" holds test prompts, which a search must not see', hint=_HINT)
    if not is_toxigen(chosen.prompts):
        _check_table(chosen)
    prompts = load_prompts(chosen.prompts, split=chosen.split, num_prompts=chosen.num_prompts)
    if not is_toxigen(chosen.prompts):
        _check_texts(prompts.source, prompts.prompts, _known_tests(), "prompts")
    if (chosen.prompts, chosen.split) != (reported.prompts, reported.split):
        _check_texts(prompts.source, prompts.prompts, _reported(chosen, reported), "prompts")
    return prompts


def check_texts_of(context: RunContext, reported: Evaluate) -> None:
    """See that nothing in a search learns from a test prompt, or starts from one.

    Args:
        context: Of a recipe of the search, each step of which has looked at what it reads.
        reported: What the result will be reported on.

    Raises:
        UsageError: Something does.
    """
    recipe, source = context.recipe, context.recipe.texts.source
    starts = read_starts(recipe)
    found: list[tuple[str, Sequence[Prompt | Text]]] = [(texts.source, texts.texts) for texts in context.learnt]
    found += [(starts.source, starts.prompts)] if starts is not None else []
    found += [(source, read_texts(source).texts)] if source is not None else []
    tests = (_known_tests() | _reported(recipe.evaluate, reported)) if found else set()
    for name, texts in found:
        _check_texts(name, texts, tests, "texts", "Take them out of it, or give another")


def _check_table(chosen: Evaluate) -> None:
    """Look at the name of a file, at that of a file it links to, and at its own word on which split its rows are of."""
    name = Path(sandbox_name(chosen.prompts))
    linked = name.expanduser()
    if _named_test(name) or (linked.is_symlink() and _named_test(linked.resolve())):
        raise UsageError(f"{name} is named a test set, which a search must not see", hint=_HINT)
    # Unlike for an evaluation, the test split of a data set is no substitute for one that it lacks.
    table = load_table(chosen.prompts, (chosen.split.partition("[")[0], "train"))
    column = find_column(table, ["split"]) or "split"
    if said := _count(table, column, {"test"}):
        raise UsageError(f"{name}: {said} rows are of the test split by its column '{column}'", hint=_HINT)
    if spelled := _count(table, "target_group", TOXIGEN_TEST_GROUPS):
        raise UsageError(f"{name}: {spelled} rows spell their group as ToxiGen's test split does", hint=_HINT)


def _count(table: Table, column: str, words: Set[str]) -> int:
    """Count the rows that have one of some words in a column; none where there is no such column."""
    return sum(str(row.get(column) or "").strip().lower() in words for row in table.rows)


def _named_test(name: Path) -> bool:
    return "test" in re.findall("[a-z]+", name.stem.lower()) or name.parent.name.lower() == "test"


_CHANGED = 0.05
"""Share of prompts that may be test prompts but for case, spaces and punctuation: data sets hold a few twins."""


def _check_texts(source: str, texts: Sequence[Prompt | Text], tests: set[str], kind: str, hint: str = _HINT) -> None:
    bare = {_bare(text) for text in tests} - {""}
    same = sum(one.text.strip() in tests for one in texts)
    alike = sum(_bare(one.text) in bare for one in texts)
    found = alike if alike > _CHANGED * len(texts) else same
    if found:
        what = f"{found} of the {len(texts)} {kind} are test prompts, which a search must not see"
        raise UsageError(f"{Path(sandbox_name(source))}: {what}", hint=hint)


def _known_tests() -> set[str]:
    """Return the test prompts that are on this machine."""
    files = [Path(resolve_source("sandbox:prompts_test.csv", None, missing_ok=True))]
    files += [path for name in TOXIGEN_IDS for path in cached_files(name, "test", "annotated")]
    return {text for path in files if path.is_file() for text in _texts(read_table(path))}


def _reported(chosen: Evaluate, reported: Evaluate) -> set[str]:
    """Return the prompts of the recipe's report, as far as the search could hold them without our knowledge.

    Of the same source that is the part that is reported on, of another file all of it. ToxiGen's test split is another
    file than the one that validation prompts are of.
    """
    toxigen = [is_toxigen(section.prompts) for section in (chosen, reported)]
    if reported.prompts == chosen.prompts or all(toxigen):
        if toxigen[1] and reported.split.partition("[")[0] == "test":
            return set()
        return {prompt.text.strip() for prompt in load_prompts(reported.prompts, split=reported.split).prompts}
    if toxigen[1] or not is_local(reported.prompts):
        return set()
    return _texts(load_table(reported.prompts))


def _texts(table: Table) -> set[str]:
    column = find_column(table, PROMPT_COLUMNS)
    return {str(row.get(column) or "").strip() for row in table.rows} if column else set()


def _bare(text: str) -> str:
    """Strip a text of what a copy may have changed: case, spaces, punctuation, forms of letters."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
