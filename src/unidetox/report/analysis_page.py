"""An analysis as tables, for the terminal and the page. Shows numbers; computes none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unidetox.config.methods import method_places
from unidetox.core.version import __version__
from unidetox.report.page import environment
from unidetox.report.table import Cell, Table
from unidetox.report.words import ends_of

Analysis = Mapping[str, Any]
Sets = Sequence[Mapping[str, Any]]
Rows = Iterable[tuple[str, Sequence[Cell]]]


def overview(analysis: Analysis) -> list[Table]:
    """Return the tables of an analysis, in the order in which they are read.

    Args:
        analysis: What `unidetox.analyze` returns.
    """
    sets = analysis["sets"]
    parts = [_form(sets), *_overlap(sets, analysis["settings"]), *_terms(sets), *_toxicity(sets), *_labels(sets)]
    return [part for part in parts if part.rows]


def console_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the one table that a terminal shows."""
    columns = ["", *(entry["name"] for entry in analysis["sets"])]
    return columns, [[cell.plain() for cell in row] for part in overview(analysis) for row in part.rows]


def render_analysis(analysis: Analysis, directory: Path) -> Path:
    """Write ``analysis.html``: one file that needs no network.

    Args:
        analysis: What `unidetox.analyze` returns.
        directory: Where it goes; it must exist.

    Returns:
        Its path.
    """
    shown = {"sets": analysis["sets"], "parts": overview(analysis), "settings": list(_told(analysis["settings"]))}
    template = environment().get_template("analysis.html.j2")
    path = directory / "analysis.html"
    path.write_text(template.render(version=__version__, places=method_places(), **shown), encoding="utf-8")
    return path


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _measured(found: Mapping[str, float | None], *, bar: bool = False) -> Cell:
    interval = ends_of(found, write=lambda value, _: _number(value))
    return Cell(_number(found["value"]), interval, method="base", bar=found["value"] if bar else None)


def _count(number: int, total: int) -> Cell:
    return Cell(f"{number:,}", method="base", bar=number / total)


def _table(sets: Sets, title: str, about: str, rows: Rows, hidden: bool = False) -> Table:
    columns = ["Measure", *(entry["name"] for entry in sets)]
    return Table(title, about, columns, [[Cell(name), *cells] for name, cells in rows], hidden=hidden)


def _form(sets: Sets) -> Table:
    rows: list[tuple[str, Callable[[Mapping[str, Any]], Cell]]] = [
        ("texts", lambda s: Cell(f"{s['texts']:,}")),
        ("distinct texts", lambda s: _count(s["distinct"], s["texts"])),
        ("nearly the same as another", lambda s: _count(s["near_copies"], s["texts"])),
        *((f"{unit}, {what}", get) for unit in ("words", "tokens") for what, get in _length_rows(unit, sets)),
        ("ended by themselves", lambda s: _count(s["ended"], s["texts"])),
        ("cut at the longest length", lambda s: _count(s["cut"], s["texts"])),
        ("end not known", lambda s: _count(s["unknown_end"], s["texts"])),
        ("share that ends like a sentence", lambda s: _measured(s["ends_sentence"], bar=True)),
        ("with line breaks", lambda s: _count(s["with_line_breaks"], s["texts"])),
        *((f"Dist-{n}", lambda s, n=n: Cell(_number(s["dist"][n]))) for n in ("1", "2", "3")),
    ]
    about = (
        "Dist-n: distinct n-grams over all words of the set; it falls with the number of words, so compare sets of one "
        "size. Nearly the same: half or more of the five-word sequences in common with another distinct text."
    )
    return _table(sets, "Form", about, [(name, [of(entry) for entry in sets]) for name, of in rows])


def _length_rows(unit: str, sets: Sets) -> Iterator[tuple[str, Any]]:
    if any(entry[unit] is None for entry in sets):
        return
    ends = ("min", "p5", "median", "p95", "max")
    yield "mean", lambda s: _measured(s[unit]["mean"])
    yield "least / 5 % / median / 95 % / most", lambda s: _joined(s[unit], ends, "{:g}".format)
    yield "most common (how often)", lambda s: Cell(f"{s[unit]['mode']} ({s[unit]['at_mode']:,})")


def _joined(found: Mapping[str, float], keys: Iterable[str], write: Callable[[float], str]) -> Cell:
    return Cell(" / ".join(write(found[key]) for key in keys))


def _overlap(sets: Sets, settings: Mapping[str, Any]) -> Iterator[Table]:
    if sets[0]["overlap"] is None:
        return
    rows = []
    for found in zip(*(entry["overlap"] for entry in sets), strict=True):
        n, shares = found[0]["n"], [_measured(row["texts_with_any"], bar=True) for row in found]
        rows.append((f"Jaccard, {n}-grams", [Cell(_number(row["jaccard"])) for row in found]))
        rows.append((f"share of texts with such a {n}-gram", shares))
    about = (
        f"Word n-grams in common with {settings['corpus']['name']} ({settings['corpus']['texts']:,} texts). Jaccard: "
        "those in both over those in either; it depends on how large both are. Most short n-grams are ordinary words."
    )
    yield _table(sets, "Overlap with the toxic corpus", about, rows)


def _terms(sets: Sets) -> Iterator[Table]:
    if sets[0]["terms"] is None:
        return
    words = [Cell(", ".join(term["term"] for term in entry["terms"]) or "–") for entry in sets]
    about = "The words that mark a set off from the reference, by TF-IDF, the strongest first."
    yield _table(sets, "Key terms", about, [("key terms", words)], hidden=True)


def _toxicity(sets: Sets) -> Iterator[Table]:
    found = [entry["toxicity"] for entry in sets]
    if found[0] is None:
        return
    rows = [
        ("mean toxicity", [_measured(one["mean"], bar=True) for one in found]),
        ("share of toxic texts", [_measured(one["toxic_fraction"], bar=True) for one in found]),
        ("half / 90 % / 99 % stay below", [_joined(one["quantiles"], ("p50", "p90", "p99"), _number) for one in found]),
        ("most toxic text", [Cell(_number(one["quantiles"]["max"])) for one in found]),
        ("texts cut by the scorer", [Cell(f"{one['texts_cut']:,}") for one in found]),
    ]
    bins = len(found[0]["histogram"])
    for place in range(bins):
        counts = [(one["histogram"][place], sum(one["histogram"])) for one in found]
        rows.append((f"toxicity {place / bins:.1f}–{(place + 1) / bins:.1f}", [_count(*pair) for pair in counts]))
    about = (
        "What the scorer says of each whole text; toxic from 0.5 on. A scorer made for comments may take any long text "
        "for toxic: look at plain texts of the same length beside these."
    )
    yield _table(sets, "Toxicity", about, rows)


def _labels(sets: Sets) -> Iterator[Table]:
    for name, first in sets[0]["labels"].items():
        found = [entry["labels"][name] for entry in sets]
        shares = {label: [_measured(one["shares"][label], bar=True) for one in found] for label in first["shares"]}
        rows = [(f"{name}: {label}", cells) for label, cells in shares.items()]
        rows.append((f"{name}: texts cut", [Cell(f"{one['texts_cut']:,}") for one in found]))
        rule = "each label from a probability of 0.5 on" if first["multi_label"] else "the likeliest label of each text"
        yield _table(sets, f"Labels of {name}", f"Shares of texts; {rule}.", rows)


def _told(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield name, f"{value['name']}, {value['texts']:,} texts, sha256 {value['sha256'][:12]}"
        elif value not in (None, []):
            yield name, ", ".join(value) if isinstance(value, list) else str(value)
