"""How much memory there is, and how much a row of a batch takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from unidetox.core.errors import UniDetoxError

Work = TypeVar("Work")
Result = TypeVar("Result")


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can still be had on a device; on a CPU, the smaller of the machine's and the group's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_meminfo_available(), _control_group_available()]
    return min((value for value in free if value is not None), default=2 << 30)


def _meminfo_available() -> int | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _control_group_available() -> int | None:
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))


def out_of_memory() -> UniDetoxError:
    """What to raise where even the smallest batch does not fit."""
    return UniDetoxError(
        "memory ran out even at the smallest batch", hint="Try --dtype bfloat16, a shorter text or a smaller model"
    )


def in_halves(todo: list[Work], do: Callable[[Work], Result], halves: Callable[[Work], list[Work]]) -> Iterator[Result]:
    """Do pieces of work, the last first; each again in halves where memory runs out, which changes no result.

    Args:
        todo: The pieces; emptied.
        do: Does one.
        halves: Cuts one in two; returns fewer where it cannot be cut.

    Raises:
        UniDetoxError: Where the smallest piece does not fit into memory.
    """
    while todo:
        piece = todo.pop()
        try:
            result = do(piece)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            parts = halves(piece)
            if len(parts) < 2:
                raise out_of_memory() from error
            todo += parts
            continue
        yield result
