"""The verb doctor: what this machine has and what to do about what it lacks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from unidetox.cli.verbs import Said, verb
from unidetox.core.names import hide_home

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "huggingface_hub", "safetensors")
_ROOM = 10 << 30


class Check(NamedTuple):
    """One finding.

    Attributes:
        good: Whether nothing need be done.
        what: What was looked at.
        found: What was found.
        advice: What to do where it is not good.
    """

    good: bool
    what: str
    found: str
    advice: str = ""


@verb(computes=False)
def doctor() -> Said:
    """Check versions, devices, memory, disk, the Hub and its access, and say what to do."""
    found = [*_versions(), *_compute(), *_room(), *_hub()]
    checks = [check._replace(advice="") if check.good else check for check in found]
    yield [check._asdict() for check in checks]
    yield "doctor", ["", "what", "found", "what to do"], [["ok" if good else "!", *said] for good, *said in checks]


def _versions() -> Iterator[Check]:
    yield Check(sys.version_info >= (3, 11), "python", "{}.{}.{}".format(*sys.version_info), "use 3.11 or newer")
    for package in _PACKAGES:
        try:
            yield Check(True, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Check(False, package, "missing", f"pip install {package}")


def _compute() -> Iterator[Check]:
    import torch

    from unidetox.decoding.memory import free_bytes
    from unidetox.models import choose_device, choose_dtype

    device = choose_device("auto")
    dtype, reason = choose_dtype("auto", device)
    yield Check(True, "device", f"{device}, {torch.get_num_threads()} threads")
    yield Check(True, "number type", f"{str(dtype).removeprefix('torch.')} ({reason})")
    free = free_bytes(device)
    yield Check(free >= 2 << 30, "free memory", _size(free), "close other programs, or give --batch-size")


def _room() -> Iterator[Check]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for what, folder in (("disk here", Path.cwd()), ("model cache", Path(HF_HUB_CACHE))):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        found = f"{_size(free)} free in {hide_home(str(folder))}"
        yield Check(free >= _ROOM, what, found, "free some: a 7B model takes 14 GB")


def _hub() -> Iterator[Check]:
    from huggingface_hub import get_token

    from unidetox.core.hub import is_offline, require_reachable

    if is_offline():
        yield Check(True, "hub", "offline, as asked")
        return
    try:
        require_reachable("unitary/toxic-bert", "model")
        yield Check(True, "hub", "reachable")
    except FileNotFoundError:
        yield Check(False, "hub", "not reachable", "work with local directories and --offline")
    token = get_token() is not None
    advice = "`hf auth login`, for gated models and data (LLaMA-2, ToxiGen)"
    yield Check(token, "hub access", "logged in" if token else "not logged in", advice)


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB"
