"""Will a run fit? Memory and disk of each stage, from the shapes of models alone; no weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unidetox.core import console
from unidetox.core.errors import MissingError
from unidetox.core.stages import StageStatus
from unidetox.models.sizes import Machine, Need, Sizes

if TYPE_CHECKING:
    from unidetox.pipeline.plan import Plan

COLUMNS = ("stage", "state", "why", "memory", "disk")


@dataclass(frozen=True)
class Estimates:
    """What a run is expected to need.

    Attributes:
        machine: Where.
        statuses: Where each stage stands.
        needs: What each needs that is to be made; None where that is not known.
    """

    machine: Machine
    statuses: dict[str, StageStatus]
    needs: dict[str, Need | None]

    def as_json(self) -> dict[str, Any]:
        """Return state, reasons and need of each stage, in bytes."""
        return {
            name: {"state": found.state, "reasons": list(found.reasons), "need": need and asdict(need)}
            for (name, found), need in zip(self.statuses.items(), self.needs.values(), strict=True)
        }

    def rows(self) -> list[list[str]]:
        """Return a row of text for each stage: name, state, reasons, memory, disk."""
        cells = {name: _cells(need) for name, need in self._to_do().items()}
        return [[name, s.state, "; ".join(s.reasons), *cells.get(name, ["-"] * 2)] for name, s in self.statuses.items()]

    def summary(self) -> str:
        """Return the sum in a sentence, with what does not fit."""
        todo, machine = self._to_do(), self.machine
        total = sum(filter(None, todo.values()), Need())
        memory, disk = _cells(total)
        said = f"expected on {machine.name} ({machine.dtype}): {memory} of memory at most, {disk} of disk"
        if total.scratch:
            said += f" and {_bytes(total.scratch)} more while it works"
        if unknown := [name for name, need in todo.items() if need is None]:
            said += f"; not known for {', '.join(unknown)}"
        if large := [name for name, need in todo.items() if need and need.memory > machine.memory]:
            more = f" and {len(large) - 1} more" if len(large) > 1 else ""
            said += f". There are {_bytes(machine.memory)} of memory: too little for {large[0]}{more}"
        return said

    def _to_do(self) -> dict[str, Need | None]:
        return {name: need for name, need in self.needs.items() if self.statuses[name].state != "fresh"}


def _cells(need: Need | None) -> list[str]:
    return [_bytes(need.memory), _bytes(need.disk)] if need else ["?", "?"]


def _bytes(number: float) -> str:
    return f"{number / 1e9:.0f} GB" if number >= 1e10 else f"{number / 1e9:.1f} GB"


def estimate(plan: Plan, gpu: str | None = None) -> Estimates:
    """Return what each step of a plan is expected to need, having looked whether all is there that it reads.

    Where something is not there yet, that is a warning; of models that presets name, published sizes take its place.

    Args:
        plan: The plan of a run; its data are read, no weights.
        gpu: A GPU of `unidetox.models.sizes.GPUS` in place of this machine.

    Raises:
        UsageError: The GPU is not known, or something cannot be used as the recipe asks.
        MissingError: A model is not there, and its size is not known.
    """
    options, missing = plan.context.load_options, None
    machine = Machine.here(options) if gpu is None else Machine.known(gpu)
    sizes = Sizes(machine, options)
    try:
        plan.preflight()
    except MissingError as exc:
        missing = exc
    needs = {step.name: step.need(sizes) if step.need else None for step in plan.steps}
    if missing is None:
        return Estimates(machine, plan.statuses(), needs)
    published = f": sizes are those published of {', '.join(sizes.published)}" if sizes.published else ""
    console.warn(f"{missing.message}{published}")
    return Estimates(machine, {step.name: StageStatus("missing") for step in plan.steps}, needs)
