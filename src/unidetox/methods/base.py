"""Base: the model as it is, which every run measures beside what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from unidetox.config.settings import MethodOptions
from unidetox.methods.interface import Bench, Job, Method, Step


def _steps(bench: Bench, job: Job) -> Iterator[Step]:
    """Nothing is to be done."""
    yield from ()


METHOD = Method(MethodOptions, _steps)
