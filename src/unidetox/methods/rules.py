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
    """Return the step that writes a pair's ``detox.json``.

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

    needs = dict.fromkeys(name for made in others for name in made.needs)

    def make(fresh: bool) -> Path:
        return write_rule(stage(), pair, models, fresh=fresh)

    return Step(pair.step, tuple(needs), stage, make, check, lambda sizes: Need(), len(models))


def write_rule(stage: Stage, pair: TargetMethod, models: Sequence[str], *, fresh: bool = False) -> Path:
    """Fill a stage's directory with ``detox.json``, ``unidetox.json`` and a card.

    Args:
        stage: The stage; nothing is done where it is fresh.
        pair: The pair.
        models: Directories or Hub ids; the first is the target.
        fresh: Start over.

    Returns:
        The directory.
    """

    def make(work: Path) -> dict[str, int]:
        console.info(f"{pair.step}: a rule over {len(models)} models, no training")
        content = {
            "schema_version": SCHEMA_VERSION,
            "method": pair.method,
            "models": [_named_from(stage.directory, model) for model in models],
            "options": pair.settings,
        }
        write_json(stage.out_dir / RULE_FILE, content)
        info = {"method": pair.method, "base_model": pair.target, "settings": pair.settings}
        write_papers(stage.out_dir, info, rule=True)
        return {"models": len(models)}

    stage.run(make, fresh=fresh)
    return stage.directory


def _named_from(directory: Path, model: str) -> str:
    """Name a model so that the name holds wherever the run is moved to: relative, where both move together."""
    short = sandbox_name(model)
    if short != model or not is_local(model):
        return short
    path = Path(model).absolute()
    together = path.is_relative_to(directory.absolute().parent.parent)
    return os.path.relpath(path, directory.absolute()) if together else str(path)
