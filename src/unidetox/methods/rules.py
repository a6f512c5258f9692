"""What methods that act while decoding share: a directory that names models and a rule, and holds no weights."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from unidetox.core import console
from unidetox.core.files import write_json
from unidetox.core.names import sandbox_name
from unidetox.core.resolve import is_local
from unidetox.core.stages import Stage
from unidetox.methods.checkpoint_stage import write_papers
from unidetox.methods.interface import Artifact, RunContext, Step, TargetMethod
from unidetox.models import RULE_FILE, check_lm, fingerprint
from unidetox.models.sizes import Need

SCHEMA_VERSION = 1


def rule_step(context: RunContext, pair: TargetMethod, others: Sequence[Artifact] = ()) -> Step:
    """Return the step that writes a pair's ``detox.json``, ``unidetox.json`` and card.

    Args:
        context: What the run shares.
        pair: The pair; its target is the first model.
        others: The models that follow.
    """
    models = [pair.target, *(made.source for made in others)]

    def stage() -> Stage:
        inputs = {f"model_{number}": fingerprint(model) for number, model in enumerate(models)}
        return Stage(pair.folder, "rule", {"method": pair.method, **pair.settings}, inputs)

    def check() -> None:
        check_lm(pair.target, context.load_options)
        for made in others:
            made.check()

    def write(out: Path) -> dict[str, int]:
        console.info(f"{pair.step}: a rule over {len(models)} models, no training")
        names = [_named_from(pair.folder, model) for model in models]
        rule = {"schema_version": SCHEMA_VERSION, "method": pair.method, "models": names, "options": pair.settings}
        write_json(out / RULE_FILE, rule)
        info = {"method": pair.method, "base_model": pair.target, "settings": pair.settings}
        write_papers(out, info, rule=True)
        return {"models": len(models)}

    def make(fresh: bool) -> None:
        made = stage()
        made.run(lambda work: write(made.out_dir), fresh=fresh)

    needs = tuple(dict.fromkeys(name for made in others for name in made.needs))
    return Step(pair.step, needs, stage, make, check, lambda sizes: Need(), len(models))


def _named_from(directory: Path, model: str) -> str:
    """Name a model so that the name holds wherever the run is moved to: relative, where both move together."""
    short = sandbox_name(model)
    if short != model or not is_local(model):
        return short
    path = Path(model).absolute()
    together = path.is_relative_to(directory.absolute().parent.parent)
    return os.path.relpath(path, directory.absolute()) if together else str(path)
