"""What a launcher (accelerate, torchrun, mpirun, Slurm) leaves in the environment, and accelerate in the process."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_THEIRS = re.compile(
    "(ACCELERATE|FSDP|PARALLELISM_CONFIG|SMDATAPARALLEL|PMI|OMPI_COMM|MV2_COMM)_.*|FORK_LAUNCHED"
    "|MASTER_(ADDR|PORT)|((LOCAL|GROUP|ROLE|NODE)_)?(RANK|WORLD_SIZE)"
)


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """Train in this block as one process that no launcher started, and leave the caller's as it was.

    Else the Trainer would take precision, device and the number of processes from variables that were meant for another
    tool, or wait for processes that are not there; and an `Accelerator` that the caller has would lose its state.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _THEIRS.fullmatch(name)}
    shared = [
        (kind._shared_state, dict(kind._shared_state)) for kind in (AcceleratorState, GradientState, PartialState)
    ]
    for state, _ in shared:
        state.clear()
    try:
        yield
    finally:
        for name in [name for name in os.environ if _THEIRS.fullmatch(name)]:
            del os.environ[name]
        os.environ.update(hidden)
        for state, before in shared:
            state.clear()
            state.update(before)
