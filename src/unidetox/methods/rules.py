"""What methods that act while decoding share: a directory that names models and a rule, and holds no weights."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from unidetox.config.methods import method_name
from unidetox.core import console
from unidetox.core.files import write_json
from unidetox.core.hub import is_local
from unidetox.core.names import sandbox_name, short_name
from unidetox.core.stages import Stage
from unidetox.methods.checkpoint_stage import write_papers
from unidetox.methods.interface import Bench, Job, Made, Step
from unidetox.models import RULE_FILE, check_lm, fingerprint

SCHEMA_VERSION = 1


def rule_step(bench: Bench, job: Job, others: Sequence[Made] = ()) -> Step:
    """Return the step that writes a job's ``detox.json``.

    Args:
        bench: What the run shares.
        job: The job; its target is the first model.
        others: The models that follow.
    """
    models = [job.target, *(made.source for made in others)]

    def stage() -> Stage:
        inputs = {f"model_{number}": fingerprint(model) for number, model in enumerate(models)}
        return Stage(job.folder, "rule", {"method": job.method, **job.settings}, inputs)

    def check() -> None:
        check_lm(job.target, trust_remote_code=bench.recipe.trust_remote_code)
        for made in others:
            made.check()

    needs = dict.fromkeys(name for made in others for name in made.needs)
    return Step(job.step, tuple(needs), stage, lambda fresh: write_rule(stage(), job, models, fresh=fresh), check)


def write_rule(stage: Stage, job: Job, models: Sequence[str], *, fresh: bool = False) -> Path:
    """Fill a stage's directory with ``detox.json``, ``unidetox.json`` and a card.

    Args:
        stage: The stage; it is opened and committed here.
        job: The job.
        models: Directories or Hub ids; the first is the target.
        fresh: Start over.

    Returns:
        The directory.
    """
    if not fresh and stage.status().state == "fresh":
        return stage.directory
    with stage.open(fresh=fresh):
        console.info(f"{job.step}: a rule over {len(models)} models, no training")
        content = {
            "schema_version": SCHEMA_VERSION,
            "method": job.method,
            "models": [_named_from(stage.directory, model) for model in models],
            "options": job.settings,
        }
        write_json(stage.out_dir / RULE_FILE, content)
        info = {"method": job.method, "base_model": job.target, "settings": job.settings}
        write_papers(stage.out_dir, info, _card(job))
        stage.commit({"models": len(models)})
    return stage.directory


def _named_from(directory: Path, model: str) -> str:
    """Name a model so that the name holds wherever the run is moved to: relative, where both move together."""
    short = sandbox_name(model)
    if short != model or not is_local(model):
        return short
    path = Path(model).absolute()
    together = path.is_relative_to(directory.absolute().parent.parent)
    return os.path.relpath(path, directory.absolute()) if together else str(path)


def _card(job: Job) -> str:
    name = f"{short_name(job.target)}-{job.key}"
    lines = [f"| {key} | {' '.join(str(value).replace('|', ' ').split())} |" for key, value in job.settings.items()]
    return "\n".join([
        "---", "tags:", '- "unidetox"', '- "detoxification"', "---", f"# {name}", "",
        f"`{short_name(job.target)}` under {method_name(job.method)}, which acts while decoding. There are no weights",
        f"here: `{RULE_FILE}` names the models and the rule, and `unidetox evaluate` reads it.", "",
        "| setting | value |", "|---|---|", *lines, "",
    ])  # fmt: skip
