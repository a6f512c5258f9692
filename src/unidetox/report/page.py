"""`results.json` to a page, and to tables and pictures beside it. Shows numbers and compares them; computes none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unidetox.config.methods import METHODS, method_kind, method_name, method_places
from unidetox.core.names import public_name
from unidetox.core.provenance import flatten
from unidetox.core.version import __version__
from unidetox.report import charts, further_tables
from unidetox.report.examples import choose_examples
from unidetox.report.headline import counted, headline, main_method, notes, sizes
from unidetox.report.main_table import ResultIndex, csv_table, main_table
from unidetox.report.ranking import costs, ranking
from unidetox.report.results_file import upgraded
from unidetox.report.table import Cell, Table, latex, markdown
from unidetox.report.words import Record

if TYPE_CHECKING:
    from jinja2 import Environment

_MADE_BY = 'data-made-by="unidetox"'


class Section(NamedTuple):
    """A part of the page: pictures, then tables, then tables that are folded under their titles.

    Attributes:
        key: Its anchor.
        title: Its heading; of those that the template words itself it is empty.
        about: What is to be known before its numbers.
        pictures: Drawings, with a legend.
        tables: Each under its title, where it has one other than the section's.
        folded: Tables under a title that is to be opened.
        fold_pictures: What to open to see the pictures; empty where they are in sight.
    """

    key: str
    title: str = ""
    about: str = ""
    pictures: Sequence[charts.Picture] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    fold_pictures: str = ""


def render_report(
    results: Record, examples: Iterable[Record], output_dir: Path, title: str = "UniDetox", *, max_examples: int = 6
) -> Path:
    """Write the report: ``index.html``, one file that needs no network, its tables and its pictures.

    Args:
        results: The content of a ``results.json``; its ``settings``, where present, are listed at the bottom.
        examples: Rows of ``generations.jsonl``, each with ``target`` and ``method`` as well. Any number of rows:
            a few prompts a target are chosen, the same for every method.
        output_dir: The directory to write into, made where it is missing; gets ``results.{md,csv,tex}`` and each
            picture as ``NAME.svg`` too.
        title: The title of the page.
        max_examples: How many prompts to show a target.

    Returns:
        The path of ``index.html``.

    Raises:
        UsageError: A later version of this package wrote the results.
    """
    results = upgraded(results)
    index = ResultIndex(results)
    chosen = choose_examples(examples, index.targets, max_examples)
    sections = _sections(results, index)
    page = {
        "title": title, "lead": headline(index), "methods": index.methods, "main": main_method(index),
        "notes": notes(index, (results.get("fairness") or {}).get("groups") or ()),
        "warnings": [public_name(str(warning)) for warning in results.get("warnings") or ()],
        "sections": sections, "examples": chosen, "names": index.names, "facts": list(_facts(results, index)),
    }  # fmt: skip
    shown = dict.fromkeys(method for each in chosen.values() for example in each for method, _, _ in example.texts)
    look = {"styles": _styles([*index.methods, *sorted(shown)]), "places": method_places()}
    tables = [main_table(index), *(table for s in sections if s.key != "results" for table in s.tables)]
    files = {
        "results.md": "\n".join(map(markdown, tables)),
        "results.csv": csv_table(index),
        # The main table without its intervals: with them, a page of a paper is not wide enough.
        "results.tex": "\n".join(latex(table if table.title else _bare(table)) for table in tables),
        "index.html": environment().get_template("report.html.j2").render(page=page, version=__version__, **look),
    }
    drawing = environment().get_template("picture.svg.j2")
    pictures = (picture for section in sections for picture in section.pictures)
    files |= {f"{one.key}.svg": drawing.render(picture=one, made_by=_MADE_BY, **look) for one in pictures}
    output_dir.mkdir(parents=True, exist_ok=True)
    _remove_pictures(output_dir)
    for name, text in files.items():
        (output_dir / name).write_text(text, encoding="utf-8")
    return output_dir / "index.html"


def _bare(table: Table) -> Table:
    """Leave nothing but the numbers."""
    return replace(table, rows=[[Cell(cell.text) for cell in row] for row in table.rows])


def _sections(results: Mapping[str, Any], index: ResultIndex) -> list[Section]:
    """Make the sections of the page, in their order."""
    fairness = results.get("fairness") or {}
    mentions, alarms = (fairness.get(key) or () for key in ("mentions", "false_positives"))
    by_group = further_tables.neutral_by_group(mentions, index) + further_tables.false_positives_by_group(alarms)
    about = results.get("about") or {}
    made = [
        Section("results", tables=[main_table(index)] if index.shown() else ()),
        Section("toxicity", pictures=charts.panels(index)),
        Section("plane", pictures=charts.planes(index)),
        Section("spread", pictures=charts.spreads(results.get("distributions") or (), index)),
        Section("groups", pictures=charts.group_panels(index), folded=further_tables.breakdowns(index),
                fold_pictures="The groups as a picture, the one that fared worst before at the top"),
        Section("fairness", folded=by_group, tables=list(filter(None, (
            further_tables.group_gaps(fairness, index), further_tables.neutral_gaps(mentions, index),
            further_tables.false_positives(alarms),
        )))),
        _section("robustness", further_tables.robustness(index, about), charts.robustness_panels(index)),
        _section("ranking", ranking(index)),
        _section("costs", costs(results.get("costs") or (), index)),
        _section("comparisons", further_tables.comparisons(results.get("comparisons") or (), index)),
        _section("scorers", further_tables.other_scorers(index)),
        _section("further", further_tables.further_measures(index)),
    ]  # fmt: skip
    return [section for section in made if section.tables or section.pictures or section.folded]


def _section(key: str, table: Table | None, pictures: Sequence[charts.Picture] = ()) -> Section:
    """Make a section of one table."""
    return Section(key, table.title, table.about, pictures, [table]) if table else Section(key)


def _facts(results: Mapping[str, Any], index: ResultIndex) -> Iterable[list[tuple[str, str]]]:
    yield sizes(index)
    systems = [(t, m, counts) for t, methods in (results.get("counts") or {}).items() for m, counts in methods.items()]
    yield [(f"{public_name(t)} / {method_name(m)}", counted(counts)) for t, m, counts in systems]
    yield from (list(_shown(results.get(part) or {})) for part in ("models", "settings"))


def _shown(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Turn nested settings into ``section.key``, value pairs without local paths."""
    for name, value in flatten(settings):
        if value is not None:
            items = value if isinstance(value, list | tuple) else [value]
            yield public_name(name), ", ".join(public_name(str(item)) for item in items)


def _styles(methods: Sequence[str]) -> dict[str, str]:
    """Give each method a colour and shape: its own, or one that is left where two results are of one method."""
    styles: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        kind = method_kind(method)
        free = [name for name in METHODS if name not in styles.values() and name not in methods]
        styles[method] = kind if kind in METHODS and kind not in styles.values() else next(iter(free), "other")
    return styles


def _remove_pictures(directory: Path) -> None:
    """Remove the pictures of an earlier report, which may have had other models."""
    for path in directory.glob("*.svg"):
        if _MADE_BY in path.read_text(encoding="utf-8", errors="replace")[:200]:
            path.unlink()


@cache
def environment(*, html: bool = True) -> Environment:
    """Return what templates are rendered by: in HTML everything is escaped, and nothing may be missing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("unidetox.report", "templates"), autoescape=html, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=not html,
    )  # fmt: skip
    made.filters.update(method=method_name, short=public_name)
    made.globals.update(width=charts.WIDTH)
    return made
