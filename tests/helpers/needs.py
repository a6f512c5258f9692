"""What some tests need that `make test` does not install, and what becomes of a test whose need is not met.

A test says by a marker what it needs. Where that is missing it is left out, and one line at the end says so. Under
`CI=true` whatever can be installed has to be there: a test that is left out for want of it has failed. The hooks are
pytest's own and belong to `conftest.py`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
LEFT_OUT = "needs "


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class Need:
    """What the tests of a marker need.

    Attributes:
        what: Its name, for people.
        there: Says whether it is there.
        installable: Whether it can be installed, so that CI may not do without.
    """

    what: str
    there: Any
    installable: bool = True

    @property
    def reason(self) -> str:
        return LEFT_OUT + self.what


NEEDS = {
    "browser": Need(
        "chromium, chromium-driver and selenium",
        lambda: shutil.which("chromium") and shutil.which("chromedriver") and find_spec("selenium"),
    ),
    "lm_eval": Need("lm_eval", lambda: find_spec("lm_eval")),
    "detoxify": Need("detoxify", lambda: find_spec("detoxify")),
    "gguf": Need("gguf", lambda: find_spec("gguf")),
    "real_data": Need("../shared", (SHARED / "data").is_dir, installable=False),
    "gpu": Need("a GPU", _gpu, installable=False),
}
MAY_BE_MISSING = tuple(need.reason for need in NEEDS.values() if not need.installable)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


def needs_of(item: pytest.Item) -> list[str]:
    return [name for name in NEEDS if item.get_closest_marker(name)]


def why_skipped(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return (longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)).removeprefix("Skipped: ")


def fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure unless nobody could have installed what it waits for."""
    if in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = why_skipped(report)
        if reason not in MAY_BE_MISSING:
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped, which CI does not allow: {reason}"


# ---- the hooks


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in needs_of(item):
        if not NEEDS[name].there():
            pytest.skip(NEEDS[name].reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.needs = needs_of(item)  # xdist sends it along
    fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file can be skipped, too."""
    report = yield
    fail_in_ci(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in one line what was left out; in CI, what was not."""
    stats = terminalreporter.stats
    if in_ci():
        terminalreporter.write_line(what_ran(stats))
    elif stats.get("skipped"):
        terminalreporter.write_line(what_was_left_out(stats["skipped"]))


def what_was_left_out(skipped: list[Any]) -> str:
    names = Counter(next(iter(getattr(report, "needs", ())), "") for report in skipped)
    parts = [f"{names[name]} of {name} ({need.what})" for name, need in NEEDS.items() if names[name]]
    others = Counter(why_skipped(report) for report in skipped if not getattr(report, "needs", ()))
    parts += [f"{count}: {reason}" for reason, count in others.items()]
    how = "; .ci/run installs what they need and runs them" if any(NEEDS[n].installable for n in names if n) else ""
    return f"left out: {', '.join(parts)}{how}"


def what_ran(stats: dict[str, list[Any]]) -> str:
    """Count by marker: `browser: 8 passed; ...; skipped: 0`."""
    parts = []
    for name in NEEDS:
        found = Counter(
            kind for kind in ("passed", "failed", "error", "skipped") for report in stats.get(kind, ())
            if name in getattr(report, "needs", ())
        )  # fmt: skip
        parts.append(f"{name}: {', '.join(f'{count} {kind}' for kind, count in found.items()) or 'none'}")
    reasons = Counter(why_skipped(report) for report in stats.get("skipped", ()))
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{'; '.join(parts)}; skipped: {reasons.total()}{told and f' ({told})'}"
