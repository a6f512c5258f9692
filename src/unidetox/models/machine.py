"""How fast a machine is: measured within a second, or as the data sheet of a known GPU has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from unidetox.core.errors import UsageError
from unidetox.models.costs import Rates

_SHARE = 0.35
"""What a model reaches of the rate of its products alone, measured or as a data sheet promises; of a sheet's bandwidth,
0.8. From `benchmarks/costs.py` on two cores; of GPUs it is an assumption."""

# bfloat16 and float32 FLOP/s (dense), bytes/s, bytes: the makers' data sheets.
_SHEETS = {
    "A100": (312e12, 19.5e12, 2.04e12, 80e9),
    "H100": (989e12, 67e12, 3.35e12, 80e9),
    "H200": (989e12, 67e12, 4.8e12, 141e9),
    "L40S": (362e12, 91.6e12, 0.864e12, 48e9),
    "RTX4090": (165e12, 82.6e12, 1.01e12, 24e9),
}
GPUS = tuple(_SHEETS)


def known(name: str) -> Rates:
    """Return the rates of a known GPU.

    Args:
        name: One of `GPUS`.

    Raises:
        UsageError: It is not known.
    """
    if name not in _SHEETS:
        raise UsageError(f"nothing is known of the GPU {name!r}", hint=f"Known: {', '.join(GPUS)}")
    half, single, bandwidth, memory = _SHEETS[name]
    products = {"bfloat16": {4096: _SHARE * half}, "float32": {4096: _SHARE * single}}
    return Rates(name, products, 0.8 * bandwidth, 1e-5, memory, "bfloat16", 1e9)


def measure(device: str, dtype: str, widths: Iterable[int]) -> Rates:
    """Measure this machine.

    Args:
        device: As in a recipe, e.g. ``auto``.
        dtype: As in a recipe.
        widths: Widths of the models that will run: narrow matrices are slower.
    """
    import torch

    from unidetox.decoding.memory import free_bytes
    from unidetox.models import choose_device, choose_dtype

    chosen = choose_device(device)
    kind = str(choose_dtype(dtype, chosen)[0]).removeprefix("torch.")
    products = {
        name: {width: _product_rate(width, getattr(torch, name), chosen) for width in sorted(set(widths))}
        for name in {"float32", kind}
    }
    memory = torch.cuda.mem_get_info(chosen)[1] if chosen.type == "cuda" else free_bytes(chosen)
    base = 8e8 if chosen.type == "cpu" else 1e9
    return Rates(chosen.type, products, _bandwidth(chosen), _call(chosen), float(memory), kind, base)


def _product_rate(width: int, dtype: Any, device: Any) -> float:
    import torch

    rows, inner = 512, min(width, 4096)
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(4 * inner, inner, dtype=dtype, device=device)
    return _SHARE * 2 * rows * inner * 4 * inner / _seconds(lambda: torch.nn.functional.linear(left, right), device)


def _bandwidth(device: Any) -> float:
    import torch

    source = torch.ones(16 << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _seconds(lambda: target.copy_(source), device)


def _call(device: Any) -> float:
    import torch

    left, right = torch.ones(8, 64, device=device), torch.ones(64, 64, device=device)
    return _seconds(lambda: torch.nn.functional.linear(left, right), device, inner=10)


def _seconds(work: Callable[[], Any], device: Any, *, inner: int = 1, budget: float = 0.05) -> float:
    """Best time of a piece of work, tried for a while, and three times at least."""
    import torch

    times: list[float] = []
    with torch.inference_mode():
        work()
        while len(times) < 3 or sum(times) < budget / inner:
            begun = time.perf_counter()
            for _ in range(inner):
                work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - begun) / inner)
    return min(times)
