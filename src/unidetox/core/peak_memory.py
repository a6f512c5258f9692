"""The most memory that this process had at once, since it was last asked to forget."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Let what is in use now be the most so far, where the system can; elsewhere the peak is that of the process.

    What the C library keeps of memory that nothing uses any more is given back first.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """Return the most bytes in use at once: of main memory (libraries included) and of the GPU; None if unknown."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text("utf-8"), re.MULTILINE)
    except OSError:
        return None
    of_gpu = int(cuda.max_memory_allocated()) if (cuda := _cuda()) is not None else 0
    return int(found[1]) * 1024 + of_gpu if found else None


def _cuda() -> Any:
    """The GPU's memory, if anything uses it; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
