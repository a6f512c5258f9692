"""Base: the model as it is, which every run measures beside what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from unidetox.methods.interface import Bench, Job, Method, Step
from unidetox.settings import MethodOptions


def _steps(bench: Bench, job: Job) -> Iterator[Step]:
    """Nothing is to be done."""
    yield from ()


METHOD = Method(MethodOptions, _steps)
