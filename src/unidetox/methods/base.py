"""Base: the model as it is, which every run measures beside what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from unidetox.config.settings import MethodOptions
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    """Nothing is to be done."""
    yield from ()


METHOD = Method(MethodOptions, _steps)
