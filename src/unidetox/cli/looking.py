"""The verbs that look: status and report (a run), doctor (this machine)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from unidetox.cli.answers import answer
from unidetox.cli.options import Argument
from unidetox.cli.verbs import Shared, verb
from unidetox.core import console


@verb(Argument("run", "Directory of a run.", type=Path), common=Shared)
def status(common: Shared, run: Path) -> None:
    """Say of each stage whether it is fresh, stale (and why), partial, failed or missing."""
    from unidetox import api

    _show_status(common, str(run), api.status(run))


@verb(Argument("directory", "Directory with results.json.", type=Path), common=Shared)
def report(common: Shared, directory: Path) -> None:
    """Render the page and the tables again from results.json."""
    from unidetox import api

    page = api.report(directory)
    answer(common, {"page": page}, f"page: {page}")


@verb(common=Shared)
def doctor(common: Shared) -> None:
    """Check versions, devices, memory, disk, the Hub and its access, and say what to do."""
    from unidetox.cli.doctor import examine

    checks = examine()
    if common.as_json:
        console.result(json.dumps([dataclasses.asdict(check) for check in checks]))
        return
    console.table("doctor", ["", "what", "found", "what to do"], [check.row() for check in checks])


def _show_status(common: Shared, title: str, statuses: dict[str, Any]) -> None:
    if common.as_json:
        found = {name: {"state": s.state, "reasons": list(s.reasons)} for name, s in statuses.items()}
        console.result(json.dumps(found))
        return
    rows = [[name, found.state, "; ".join(found.reasons)] for name, found in statuses.items()]
    console.table(title, ["stage", "state", "why"], rows)
