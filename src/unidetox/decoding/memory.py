"""How much memory there is, and how much a row of a batch takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

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


_known_numbers: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()


def kept_numbers(model: Any) -> tuple[int, int]:
    """Return how many numbers a model keeps of each token of a row (keys, values), and of a row at all (states).

    They are counted once on what it keeps of one token: what heads and states are called differs between families.

    Args:
        model: A causal LM, perhaps on the device ``meta``.
    """
    if model not in _known_numbers:
        token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
        try:
            with torch.inference_mode():
                output = model(input_ids=token, use_cache=True)
            layers = next(
                output[name] for name in ("cache", "past_key_values", "cache_params") if output.get(name)
            ).layers
            kept = [
                state for layer in layers for state in (getattr(layer, "keys", None), getattr(layer, "values", None))
            ]
            fixed = [state for layer in layers for name in ("conv_states", "recurrent_states")
                     for state in getattr(layer, name, {}).values()]  # fmt: skip
            _known_numbers[model] = _numel(kept), _numel(fixed)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):  # no such cache: as if it had one
            config = model.config.get_text_config()
            _known_numbers[model] = int(2 * config.num_hidden_layers * config.hidden_size), 0
    return _known_numbers[model]


def _numel(tensors: list[torch.Tensor | None]) -> int:
    return sum(tensor.numel() for tensor in tensors if tensor is not None)


def row_bytes(cache: int, hidden: int, capacity: int, size: int) -> int:
    """Estimate what one row takes: its keys and values, and a token's activations.

    Args:
        cache: Numbers of a token, see `kept_numbers`.
        hidden: Width of the hidden vectors.
        capacity: Tokens of the row, prompt included.
        size: Bytes of a number.
    """
    # Activations of one token: about a dozen vectors, and an inner layer of four times the width.
    return (cache * capacity + 16 * hidden) * size
