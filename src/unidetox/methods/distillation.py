"""The stages that make texts: a toxic copy of the base model (or one that is not), then samples from the contrast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidetox.config.fields import Key
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.files import JsonlWriter, read_jsonl, write_jsonl, write_text
from unidetox.core.hub import license_of
from unidetox.core.names import short_name
from unidetox.core.provenance import versions
from unidetox.core.stages import Stage
from unidetox.data import TextSet, load_non_toxic_texts, load_toxic_corpus, texts_of_rows
from unidetox.methods.best_of import Candidates, encoded_starts, keep_best, read_starts
from unidetox.methods.checkpoint_stage import base_info, fine_tune_into
from unidetox.models import LoadOptions, fingerprint
from unidetox.models.directories import read_unidetox
from unidetox.models.sizes import Need, Sizes, sampling_need
from unidetox.report.cards import texts_card

if TYPE_CHECKING:
    from unidetox.decoding import LogitSource, SamplingSettings
    from unidetox.decoding.sampling import Sampled
    from unidetox.models import LM
    from unidetox.training import TrainSettings

TEXTS_FILE = "texts.jsonl"

Kind = Literal["toxic", "expert"]
"""A copy of a model fine-tuned on toxic texts, or on texts that are not: an expert."""


def toxic_corpus(recipe: Recipe) -> TextSet:
    """Read the toxic texts that a recipe names."""
    toxic = recipe.toxic
    return load_toxic_corpus(
        toxic.corpus, column=toxic.column, duplicates=toxic.duplicates, limit=toxic.limit, seed=recipe.seed
    )


def non_toxic_texts(recipe: Recipe) -> TextSet:
    """Read the non-toxic texts: those that a recipe names, or those of its corpus that are marked so."""
    toxic = recipe.toxic
    return load_non_toxic_texts(
        toxic.non_toxic, toxic.corpus, column=toxic.column if toxic.non_toxic is None else None,
        duplicates=toxic.duplicates, limit=toxic.limit, seed=recipe.seed,
    )  # fmt: skip


def toxic_stage(recipe: Recipe, directory: Path, corpus: TextSet, kind: Kind = "toxic") -> Stage:
    """Describe the stage that makes the toxic model, or in the same way an expert that is not toxic."""
    settings = recipe.toxic.key("train") | {"seed": recipe.seed, "dtype": recipe.dtype}
    inputs = {"base": fingerprint(recipe.base.model), "corpus": corpus.sha256}
    return Stage(directory, f"train-{kind}", settings, inputs)


def train_toxic(
    recipe: Recipe,
    directory: Path,
    *,
    corpus: TextSet | None = None,
    kind: Kind = "toxic",
    fresh: bool = False,
    replace: bool = True,
) -> Path:
    """Fine-tune the base model on toxic texts.

    Args:
        recipe: Its sections ``base`` and ``toxic`` count.
        directory: Where the toxic model goes: an ordinary checkpoint in float32, as the contrast of two rounded models
            would be mostly rounding.
        corpus: The toxic texts, where they are at hand already.
        kind: What the texts are: ``expert`` for some that are not toxic.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.

    Returns:
        The directory.

    Reference: UniDetox (Lu et al., ICLR 2025), section 2; toxic_gpt2_finetune_and_distill.py of the published code.
    """
    corpus = toxic_corpus(recipe) if corpus is None else corpus
    stage = toxic_stage(recipe, directory, corpus, kind)
    settings = _toxic_settings(recipe)
    fine_tune_into(stage, recipe, kind, recipe.base.model, corpus, settings, fresh=fresh, replace=replace)
    return directory


def toxic_need(recipe: Recipe, sizes: Sizes) -> Need:
    """Return what `train_toxic` needs."""
    from unidetox.training.memory import fine_tuning_need

    return fine_tuning_need(sizes.shape(recipe.base.model), _toxic_settings(recipe), sizes.machine, stored=4)


def _toxic_settings(recipe: Recipe) -> TrainSettings:
    from unidetox.training import TrainSettings

    toxic = recipe.toxic
    epochs = None if toxic.steps else toxic.epochs
    return TrainSettings.of(toxic, epochs=epochs, seed=recipe.seed, dtype=recipe.dtype)


def texts_stage(recipe: Recipe, directory: Path, toxic: str | None) -> Stage:
    """Describe the stage that samples texts: from the contrast with a toxic model, or plainly where there is none."""
    name: Key = "distill" if toxic else "sample-texts"
    inputs = {"base": fingerprint(recipe.base.model)}
    starts = read_starts(recipe)
    if starts is not None:
        inputs["starts"] = starts.sha256
    if toxic is not None:
        inputs["toxic"] = fingerprint(toxic)
    settings = recipe.texts.key(name) | {"seed": recipe.seed, "dtype": recipe.dtype}
    # 2: both heads of the contrast in float32.
    return Stage(directory, name, settings, inputs, code_version=2)


def distill(recipe: Recipe, toxic: str, directory: Path, *, fresh: bool = False, replace: bool = True) -> Path:
    """Sample detoxifying texts from the contrast of the base model and its toxic copy.

    Args:
        recipe: Its sections ``base`` and ``texts`` count.
        toxic: The toxic model, with the base model's vocabulary.
        directory: Where ``texts.jsonl`` and its card go.
        fresh: Start over.
        replace: Whether texts made with other settings may be replaced.

    Returns:
        The directory.

    Reference: UniDetox (Lu et al., ICLR 2025), Eq. 1; `unidetox.decoding.sources.contrast_scores`.
    """
    return _make_texts(recipe, toxic, directory, fresh, replace)


def sample_texts(recipe: Recipe, directory: Path, *, fresh: bool = False, replace: bool = True) -> Path:
    """Sample as many texts of the same length from the base model alone: the control of the paper ("Samples").

    Args:
        recipe: Its sections ``base`` and ``texts`` count.
        directory: Where ``texts.jsonl`` and its card go.
        fresh: Start over.
        replace: Whether texts made with other settings may be replaced.
    """
    return _make_texts(recipe, None, directory, fresh, replace)


def _make_texts(recipe: Recipe, toxic: str | None, directory: Path, fresh: bool, replace: bool) -> Path:
    stage = texts_stage(recipe, directory, toxic)

    def make(work: Path) -> dict[str, Any]:
        from unidetox.decoding import sample
        from unidetox.models import load_lm

        base = load_lm(recipe.base.model, LoadOptions.of(recipe))
        source, settings, starts = _source(recipe, base, toxic), *_sampling(recipe, base)
        # Plain samples have no contrast to choose by.
        best_of = recipe.texts.best_of if toxic else 1
        planned = Candidates(recipe.texts.num_texts, len(starts), best_of)
        number = planned.texts * best_of
        parts = work / "texts.part.jsonl"
        have = {_place(row) for row in read_jsonl(parts)} if parts.exists() else set()
        console.info(f"{stage.name}: {number} texts from {short_name(recipe.base.model)}")
        with JsonlWriter(parts) as writer, console.progress("sampling texts", number) as advance:
            advance(len(have))
            drawn = sample(
                source, starts, planned.samples, settings,
                skip=planned.skipped(have), batch_size=recipe.texts.batch_size, advance=advance,
            )  # fmt: skip
            for batch in drawn:
                rows = [_row(base, starts[item.prompt_index], item, planned) for item in batch]
                writer.write(rows)
                have.update(map(_place, rows))
                stage.report_progress(len(have), number, "texts")
        rows = sorted(read_jsonl(parts), key=_place)
        if best_of > 1:
            rows = list(keep_best(source, starts, rows, work / "scores.part.jsonl"))
        write_jsonl(stage.out_dir / TEXTS_FILE, [rows])
        summary = _summary(rows)
        texts = texts_of_rows(rows, str(stage.directory))
        toxic_info = read_unidetox(toxic) if toxic else None
        info = {
            "method": "unidetox" if toxic else "samples",
            **base_info(recipe.base.model),
            "settings": stage.settings,
            **license_of(recipe.base.model),
            "toxic_model": toxic,
            "corpus": ((toxic_info or {}).get("texts") or {}).get("source"),
            "sha256": texts.sha256,
            "summary": summary,
            "versions": versions(),
        }
        write_text(stage.out_dir / "README.md", texts_card(info))
        return summary

    stage.run(make, fresh=fresh, replace=replace)
    return directory


def _source(recipe: Recipe, base: LM, toxic: str | None) -> LogitSource:
    """Return what texts are sampled from: the contrast with a toxic model, or the base model where there is none."""
    from unidetox.decoding import contrast, lm
    from unidetox.models import check_same_vocabulary, load_lm

    if toxic is None:
        return lm(base.model)
    other = load_lm(toxic, LoadOptions.of(recipe))
    check_same_vocabulary(base, other)
    return contrast(base.model, other.model, alpha=recipe.texts.alpha, beta=recipe.texts.beta)


def texts_need(recipe: Recipe, sizes: Sizes, models: int) -> Need:
    """Return what sampling texts needs, from one model or from the contrast of two."""
    texts, shapes = recipe.texts, [sizes.shape(recipe.base.model)] * models
    best_of = texts.best_of if models > 1 else 1
    return sampling_need(shapes, sizes.machine, texts.num_texts * best_of, 1, texts.max_length - 1)


def check_positions(recipe: Recipe, name: str, config: Any) -> None:
    """See that a base model can read texts as long as the recipe asks for.

    Raises:
        UsageError: It cannot.
    """
    from unidetox.decoding.sequences import max_positions

    longest, positions = recipe.texts.max_length, max_positions(config)
    if positions and longest > positions:
        raise UsageError(
            f"texts of {longest} tokens exceed the {positions} positions of {name}",
            hint=f"Use --max-length {positions} or less",
        )


def _sampling(recipe: Recipe, base: LM) -> tuple[SamplingSettings, list[list[int]]]:
    """Return how to sample, and the tokens that texts start from."""
    from unidetox.decoding import SamplingSettings
    from unidetox.models import bos_id, eos_ids

    texts, config = recipe.texts, base.model.config
    start = bos_id(base.tokenizer, config)
    ends = eos_ids(base.tokenizer, config, base.model.generation_config)
    start = ends[0] if start is None and ends else start
    if start is None:
        raise UsageError(f"{base.name} has no token that starts a text", hint="Use a base model with a BOS token")
    check_positions(recipe, base.name, config)
    starts = encoded_starts(recipe, base, start)
    settings = SamplingSettings(
        max_new_tokens=texts.max_length - max(map(len, starts)), temperature=texts.temperature, top_p=texts.top_p,
        top_k=texts.top_k, eos_token_ids=ends, seed=recipe.seed,
    )  # fmt: skip
    return settings, starts


def _row(base: LM, start: list[int], item: Sampled, planned: Candidates) -> dict[str, Any]:
    """Return a text; with several candidates each also has its number and the tokens that it is scored by."""
    number, candidate = planned.place(item.prompt_index, item.sample_index)
    # Without the start token, as some tokenizers drop the space of whatever comes first.
    ids = [*start[1:], *item.token_ids]
    text = base.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    row = {"id": number, "text": text, "finish_reason": item.finish_reason, "n_tokens": len(ids)}
    return row if planned.best_of == 1 else row | {"candidate": candidate, "token_ids": item.token_ids}


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return int(row["id"]), int(row.get("candidate", 0))


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = [int(row["n_tokens"]) for row in rows]
    return {
        "texts": len(rows),
        "ended": sum(row["finish_reason"] == "eos" for row in rows),
        "cut": sum(row["finish_reason"] == "length" for row in rows),
        "empty": sum(not str(row["text"]).strip() for row in rows),
        "distinct": len({row["text"] for row in rows}),
        "tokens_mean": sum(tokens) / max(1, len(tokens)),
    }
