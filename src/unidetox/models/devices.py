"""Which device and which number type to compute with, and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from unidetox.core.errors import MissingError, UsageError

if TYPE_CHECKING:
    import torch

_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_BFLOAT16_UNITS = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}


def choose_device(name: str = "auto") -> torch.device:
    """Turn a device name into a device that exists here.

    Args:
        name: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: The name is no device.
        MissingError: The device is not in this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"no such device: {name!r}", hint="Use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        present = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    else:
        present = device.type == "cpu" or torch.backends.mps.is_available()
    if not present:
        raise MissingError(f"device {name!r} is not in this machine", hint="Use --device auto or cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Pick the number type to compute in, with the reason for the choice.

    Args:
        name: ``auto``, ``float32``, ``bfloat16`` or ``float16`` (or ``fp32``, ``bf16``, ``fp16``).
        device: Where the model will run.

    Returns:
        The type and a reason in a few words; ``auto`` is bfloat16 only where the hardware multiplies it fast.

    Raises:
        UsageError: The name is no number type.
    """
    import torch

    if name == "auto":
        fast, reason = _fast_bfloat16(device)
        return (torch.bfloat16 if fast else torch.float32), reason
    whole = _SHORT.get(name, name)
    if whole not in _SHORT.values():
        raise UsageError(f"no such dtype: {name!r}", hint="Use auto, float32, bfloat16 or float16")
    return getattr(torch, whole), "as asked"


def choose_training_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """As `choose_dtype`, for products of training.

    Raises:
        UsageError: The name is no dtype, or one that small gradients vanish in.
    """
    import torch

    dtype, reason = choose_dtype(name, device)
    if dtype == torch.float16:
        raise UsageError("float16 is too narrow to train in", hint="Use auto, bfloat16 or float32")
    return dtype, reason


def _fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"GPU of compute capability {major}.{minor}"
    if device.type == "cpu":
        unit = cpu_bfloat16_unit()
        return unit is not None, f"processor with {unit}" if unit else "processor without bfloat16 units"
    return False, f"{device.type} device"


def cpu_bfloat16_unit(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's instructions for bfloat16 matrix products, as Linux tells.

    Args:
        cpuinfo: The file in which Linux lists what the processor can do.

    Returns:
        ``AMX-BF16``, ``AVX512-BF16`` or ``Arm BF16``; None where there are none or the system does not say.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(line.group(1).split()) if line else set()
    return next((label for flag, label in _BFLOAT16_UNITS.items() if flag in flags), None)
