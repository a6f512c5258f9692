"""How a result is printed: for people, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unidetox.cli.verbs import Shared
from unidetox.core import console


def answer(common: Shared, fields: dict[str, Any], line: str) -> None:
    """Print a result: one line, or one JSON object."""
    console.result(json.dumps(fields, default=str) if common.as_json else line)


def show_results(common: Shared, results: dict[str, Any], output: Path) -> None:
    """Print the main table of results and where the page is, or the results as JSON."""
    if common.as_json:
        console.result(json.dumps(results))
        return
    from unidetox.report.main_table import summary_table

    console.table("Results", *summary_table(results))
    console.result(f"page: {output / 'report' / 'index.html'}")
