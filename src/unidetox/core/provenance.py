"""Where a result comes from: versions, times, and what changed since."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from unidetox.core.version import __version__


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    installed = {"python": platform.python_version(), "unidetox": __version__}
    for package in ("torch", "transformers", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what differs in ``settings``, ``inputs`` and ``code_version``, e.g. ``"alpha: 0.1 -> 0.2"``.

    Args:
        recorded: What was wanted before; parts may be missing.
        wanted: What is wanted now.
    """
    old, new = dict(flatten(recorded.get("settings", {}))), dict(flatten(wanted["settings"]))
    changes = [
        f"{key}: {_short(old, key)} -> {_short(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]
    before, after = recorded.get("inputs", {}), wanted["inputs"]
    changed = (key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
    changes += [f"input {key} changed" for key in changed]
    version = recorded.get("code_version", wanted["code_version"])
    if version != wanted["code_version"]:
        changes.append(f"code version: {version} -> {wanted['code_version']}")
    return tuple(changes)


_ABSENT = object()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as ``"section.key"``, value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "(absent)"
    text = json.dumps(settings[key], ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
