"""What a notebook calls and the command line repeats: verbs as functions, their options checked like a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unidetox.config.recipe import apply_overrides, build_recipe, limited, load_recipe
from unidetox.config.settings import PUBLISHED, Recipe
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.resolve import cache_home, resolve_source
from unidetox.core.stages import StageStatus, check_stage_directory
from unidetox.data import read_texts
from unidetox.evaluation.evaluate import evaluate
from unidetox.evaluation.gather import gather
from unidetox.evaluation.texts import analyze
from unidetox.methods import distillation, finetuning
from unidetox.models import LoadOptions, check_lm
from unidetox.pipeline import plan
from unidetox.pipeline.run_directory import MANIFEST, Run
from unidetox.pipeline.tuning import tune
from unidetox.report.results_file import read_results
from unidetox.training.settings import check_optimizer

__all__ = ["analyze", "compare", "detoxify", "distill", "evaluate", "report", "run", "status", "train_toxic", "tune"]

_TOP = ("name", "seed", "device", "dtype", "trust_remote_code")


def train_toxic(base: str | Path, *, output: str | Path, fresh: bool = False, **options: Any) -> Path:
    """Fine-tune a base model on toxic texts.

    Args:
        base: A directory or a Hub id.
        output: Where the toxic model goes.
        fresh: Start over where it exists.
        options: ``corpus`` ("dghs", a file, a directory or a Hub id), ``epochs``, ``steps``, ``lr``, ``batch_size``,
            ``max_length`` and the other settings of a recipe's section ``toxic``; ``seed``, ``device``, ``dtype``.

    Returns:
        The toxic model's directory.

    Raises:
        UniDetoxError: Any of its children; the message says what to do.
    """
    recipe = _recipe({"base": {"model": str(base)}, "detoxify": {"targets": [str(base)]}}, "toxic", options)
    check_lm(recipe.base.model, LoadOptions.of(recipe))
    return distillation.train_toxic(recipe, Path(output), distillation.toxic_corpus(recipe), fresh=fresh, replace=False)


def distill(base: str | Path, *, toxic: str | Path, output: str | Path, fresh: bool = False, **options: Any) -> Path:
    """Sample detoxifying texts from the contrast of a base model and its toxic copy.

    Args:
        base: A directory or a Hub id.
        toxic: The toxic copy, see `train_toxic`.
        output: Where ``texts.jsonl`` and its card go.
        fresh: Start over where they exist.
        options: ``num_texts``, ``max_length``, ``alpha``, ``beta``, ``temperature``, ``top_p``, ``top_k``,
            ``starts``, ``best_of`` and ``batch_size``; ``seed``, ``device``, ``dtype``.

    Returns:
        The directory of the texts.

    Raises:
        UniDetoxError: Any of its children; the message says what to do.
    """
    recipe = _recipe({"base": {"model": str(base)}, "detoxify": {"targets": [str(base)]}}, "texts", options)
    toxic = resolve_source(str(toxic), None)
    # Before the stages are described: what is fetched from the Hub here has another fingerprint from then on.
    for name in (recipe.base.model, toxic):
        check_lm(name, LoadOptions.of(recipe))
    return distillation.distill(recipe, toxic, Path(output), fresh=fresh, replace=False)


def detoxify(
    model: str | Path,
    *,
    output: str | Path,
    texts: str | Path | None = None,
    preset: str = "paper",
    fresh: bool = False,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Make a causal language model less toxic: fine-tune it on detoxifying texts.

    Args:
        model: A directory or a Hub id; any model that transformers loads as a causal LM.
        output: Where the result goes: an ordinary checkpoint, or an adapter with ``lora=True``.
        texts: ``"published"`` (those of the paper's authors), a file, a directory or a Hub id. Without it the texts are
            made as the preset says, and kept for the next model (in ``$UNIDETOX_HOME``, by default
            ``~/.cache/unidetox``).
        preset: Where the texts come from, and what settings hold that the options leave open.
        fresh: Start over where the result exists.
        limit: Use only so many texts; where texts are made, also at most so many toxic texts and steps for them.
        overrides: Settings like ``"texts.alpha=0.2"`` that win over the preset.
        options: ``steps``, ``lr``, ``batch_size``, ``max_length``, ``lora``, ``merge`` and the other settings of a
            recipe's section ``detoxify``; ``seed``, ``device`` and ``dtype``.

    Returns:
        The directory of the result.

    Raises:
        UniDetoxError: Any of its children; the message says what to do.
    """
    settings = {"preset": preset, "detoxify": {"targets": [str(model)], "methods": ["unidetox"]}}
    recipe = _recipe(settings, "detoxify", options, overrides)
    if not recipe.detoxify.lora and (idle := [name for name in ("lora_rank", "lora_alpha") if name in options]):
        raise UsageError(f"{idle[0]} has no effect without lora", hint="Add --lora, or leave it out")
    target = recipe.detoxify.targets[0]
    # Making texts first may take hours.
    check_stage_directory(Path(output), "detoxify")
    check_optimizer(recipe.detoxify.optim)
    finetuning.check_target(recipe, target)
    given = texts if texts is None or texts == PUBLISHED else resolve_source(str(texts), None)
    found = read_texts(str(given or _texts_of_preset(recipe, preset, limit)), limit=limit)
    return finetuning.finetune(recipe, "unidetox", target, found, Path(output), fresh=fresh, replace=False)


def run(
    recipe: str | Path | Recipe,
    *,
    output: str | Path,
    fresh: bool = False,
    overrides: tuple[str, ...] = (),
    limit: int | None = None,
) -> dict[str, Any]:
    """Do every stage of a recipe; what is complete and unchanged is skipped.

    Args:
        recipe: A TOML file, or a recipe.
        output: The run's directory.
        fresh: Do everything again.
        overrides: Settings like ``"texts.alpha=0.2"`` that win over the file.
        limit: Use at most so many toxic texts, detoxifying texts, prompts and training steps: a quick try.

    Returns:
        The content of ``results.json``.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), overrides)
    return plan.run(limited(loaded, limit), Path(output), fresh=fresh)


def compare(
    sources: Sequence[str | Path],
    *,
    output: str | Path,
    fresh: bool = False,
    overrides: tuple[str, ...] = (),
    limit: int | None = None,
    command: Sequence[str] = ("unidetox", "compare"),
) -> dict[str, Any]:
    """Compare methods: those of a recipe, all for all targets; or what finished runs and evaluations measured.

    Args:
        sources: One recipe, or directories of `run`, `compare` or `evaluate`.
        output: Where everything goes. Of a recipe it is a run's directory, which a killed call takes up again.
        fresh: Do everything again.
        overrides: Settings like ``"texts.alpha=0.2"`` that win over the recipe.
        limit: Use at most so many of everything: a quick try.
        command: The command line, for the manifest.

    Returns:
        The content of ``results.json``, with ``comparisons`` and ``costs``.

    Raises:
        UsageError: Recipes and directories are mixed, or the directories cannot be compared.
        UniDetoxError: Any of its children; the message says what to do.
    """
    recipe = recipe_of(sources)
    if recipe is not None:
        loaded = limited(load_recipe(recipe, [*overrides, "costs=true"]), limit)
        return plan.run(loaded, Path(output), fresh=fresh, command=command)
    if overrides or limit is not None or fresh:
        raise UsageError("directories are compared as they are", hint="Leave --set, --limit and --fresh out")
    return gather([Path(source) for source in sources], Path(output))


def recipe_of(sources: Sequence[str | Path]) -> Path | None:
    """Return the recipe if that is what is to be compared, None for directories.

    Raises:
        UsageError: There is a recipe among other things.
    """
    recipes = [Path(source) for source in sources if Path(source).suffix == ".toml" or Path(source).is_file()]
    if recipes and len(sources) > 1:
        raise UsageError(f"{recipes[0]} is one of several things to compare", hint="Give one recipe, or directories")
    return recipes[0] if recipes else None


def status(output: str | Path) -> dict[str, StageStatus]:
    """Say of each stage of a run whether it is fresh, stale (and why), partial, failed or missing.

    Args:
        output: The run's directory.
    """
    opened = Run.open(Path(output))
    return plan.Plan(opened.recipe(), opened.directory).statuses()


def report(output: str | Path) -> Path:
    """Render the page of a run or an evaluation again, from its results.

    Args:
        output: The directory that holds ``results.json``.

    Returns:
        The path of ``index.html``.

    Raises:
        MissingError: If there are no results.
    """
    from unidetox.report.examples import example_rows
    from unidetox.report.page import render_report

    folder = Path(output)
    results = read_results(folder)
    if (folder / MANIFEST).is_file():
        plan.Plan(Run(folder).recipe(), folder).write_cards(results)
    return render_report(results, example_rows(folder / "generations.jsonl"), folder / "report")


def _recipe(
    settings: Mapping[str, Any], section: str, options: Mapping[str, Any], overrides: Sequence[str] = ()
) -> Recipe:
    """Put options over overrides: some at the top of a recipe, the rest into one section."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    merged: dict[str, Any] = {**settings, section: dict(settings.get(section, {}))}
    labels = apply_overrides(merged, overrides) | {f"{section}.{key}": key for key in given}
    merged |= {key: given.pop(key) for key in _TOP if key in given}
    merged[section] |= given
    return build_recipe(merged, "the settings", labels)


def _texts_of_preset(recipe: Recipe, preset: str, limit: int | None) -> Path:
    """Make a preset's texts, or take those that were made for an earlier model."""
    recipe = limited(recipe, limit)
    parts = [recipe.base.section_hash(), recipe.toxic.section_hash(), recipe.texts.section_hash("folder")]
    more = f"-limit{limit}" if limit is not None else ""
    folder = cache_home() / "texts" / f"{preset}-{'-'.join(part[:6] for part in parts)}-seed{recipe.seed}{more}"
    console.info(f"no --texts given: those of the preset {preset}, kept in {folder}")
    check_lm(recipe.base.model, LoadOptions.of(recipe))
    toxic = distillation.train_toxic(recipe, folder / "toxic_model", distillation.toxic_corpus(recipe))
    return distillation.distill(recipe, str(toxic), folder / "texts")
