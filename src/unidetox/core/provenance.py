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
    changes = [f"{key}: {_short(old, key)} -> {_short(new, key)}" for key in _changed(old, new)]
    changes += [f"input {key} changed" for key in _changed(recorded.get("inputs", {}), wanted["inputs"])]
    version = recorded.get("code_version", wanted["code_version"])
    if version != wanted["code_version"]:
        changes.append(f"code version: {version} -> {wanted['code_version']}")
    return tuple(changes)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(key for key in old.keys() | new.keys() if old.get(key, absent) != new.get(key, absent))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as ``"section.key"``, value."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        yield from flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]


def _short(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "(absent)"
    text = json.dumps(settings[key], ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
