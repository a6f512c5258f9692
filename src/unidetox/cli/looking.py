"""The verbs that look: status and report (a run), doctor (this machine)."""

from __future__ import annotations

from pathlib import Path

from unidetox.cli.options import Argument
from unidetox.cli.verbs import Said, verb


@verb(Argument("run", "Directory of a run.", type=Path), computes=False)
def status(run: Path) -> Said:
    """Say of each stage whether it is fresh, stale (and why), partial, failed or missing."""
    from unidetox import api

    found = api.status(run)
    yield {name: {"state": stage.state, "reasons": list(stage.reasons)} for name, stage in found.items()}
    rows = [[name, stage.state, "; ".join(stage.reasons)] for name, stage in found.items()]
    yield str(run), ["stage", "state", "why"], rows


@verb(Argument("directory", "Directory with results.json.", type=Path), computes=False)
def report(directory: Path) -> Said:
    """Render the page and the tables again from results.json."""
    from unidetox import api

    page = api.report(directory)
    yield {"page": page}
    yield f"page: {page}"


@verb(computes=False)
def doctor() -> Said:
    """Check versions, devices, memory, disk, the Hub and its access, and say what to do."""
    from unidetox.cli.doctor import examine

    checks = examine()
    yield [check._asdict() for check in checks]
    yield "doctor", ["", "what", "found", "what to do"], [["ok" if good else "!", *said] for good, *said in checks]
