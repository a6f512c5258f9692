"""The stages that make texts: a toxic copy of the base model (or one that is not), then samples from the contrast."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidetox.config.fields import Key
from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import JsonlWriter, read_jsonl, write_jsonl, write_text
from unidetox.core.hub import license_of
from unidetox.core.names import short_name
from unidetox.core.provenance import versions
from unidetox.core.stages import Stage
from unidetox.data import TextSet, load_non_toxic_texts, load_toxic_corpus, texts_of_rows
from unidetox.methods.best_of import Candidates, encoded_starts, keep_best, read_starts
from unidetox.methods.checkpoint_stage import base_info, fine_tune_into
from unidetox.models import (
    LM,
    LoadOptions,
    check_same_vocabulary,
    eos_ids,
    fingerprint,
    load_lm,
    load_tokenizer,
    start_id,
    unreachable_ids,
)
from unidetox.models.directories import read_unidetox
from unidetox.models.sizes import Need, Sizes, sampling_need
from unidetox.models.templates import opened_turn
from unidetox.report.cards import texts_card

if TYPE_CHECKING:
    from unidetox.decoding import LogitSource, SamplingSettings
    from unidetox.decoding.sampling import Sampled

TEXTS_FILE = "texts.jsonl"

Kind = Literal["toxic", "expert"]
"""A copy of a model fine-tuned on toxic texts, or on texts that are not: an expert."""


def toxic_corpus(recipe: Recipe) -> TextSet:
    """Read the toxic texts that a recipe names."""
    t = recipe.toxic
    return load_toxic_corpus(t.corpus, column=t.column, duplicates=t.duplicates, limit=t.limit, seed=recipe.seed)


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
    recipe: Recipe, folder: Path, texts: TextSet, kind: Kind = "toxic", *, fresh: bool = False, replace: bool = True
) -> Path:
    """Fine-tune the base model on toxic texts.

    Args:
        recipe: Its sections ``base`` and ``toxic`` count.
        folder: Where the toxic model goes: an ordinary checkpoint in float32, as the contrast of two rounded models
            would be mostly rounding.
        texts: The toxic texts.
        kind: What the texts are: ``expert`` for some that are not toxic.
        fresh: Start over.
        replace: Whether a model made with other settings may be replaced.

    Returns:
        The folder.

    Reference: UniDetox (Lu et al., ICLR 2025), section 2; toxic_gpt2_finetune_and_distill.py of the published code.
    """
    stage = toxic_stage(recipe, folder, texts, kind)
    fine_tune_into(stage, recipe, recipe.toxic, kind, recipe.base.model, texts, fresh=fresh, replace=replace)
    return folder


def texts_stage(recipe: Recipe, directory: Path, toxic: str | None) -> Stage:
    """Describe the stage that samples texts: from the contrast with a toxic model, or plainly where there is none."""
    name: Key = "distill" if toxic else "sample-texts"
    inputs = {"base": fingerprint(recipe.base.model)}
    if (starts := read_starts(recipe)) is not None:
        inputs["starts"] = starts.sha256
    if toxic is not None:
        inputs["toxic"] = fingerprint(toxic)
        if inputs["toxic"] == inputs["base"]:
            what = f"{toxic} is the base model itself, not a toxic copy of it: there is no contrast"
            raise UsageError(what, hint="Make one: unidetox train-toxic")
    settings = recipe.texts.key(name) | {"seed": recipe.seed, "dtype": recipe.dtype}
    if recipe.texts.opening == "auto" and _has_turns(recipe):
        settings["opening"] = "assistant"
    # 2: both heads of the contrast in float32.
    return Stage(directory, name, settings, inputs, code_version=2)


def _has_turns(recipe: Recipe) -> bool:
    """Whether the base model's template opens an assistant's turn; it is not known of a model that is not here yet."""
    with contextlib.suppress(MissingError):
        return bool(opened_turn(load_tokenizer(recipe.base.model, LoadOptions.of(recipe))))
    return False


def distill(recipe: Recipe, toxic: str | None, folder: Path, *, fresh: bool = False, replace: bool = True) -> Path:
    """Sample detoxifying texts from the contrast of the base model and its toxic copy.

    Args:
        recipe: Its sections ``base`` and ``texts`` count.
        toxic: The toxic model, with the base model's vocabulary. None samples as many texts of the same length from
            the base model alone: the control of the paper ("Samples").
        folder: Where ``texts.jsonl`` and its card go.
        fresh: Start over.
        replace: Whether texts made with other settings may be replaced.

    Returns:
        The folder.

    Reference: UniDetox (Lu et al., ICLR 2025), Eq. 1; `unidetox.decoding.sources.contrast_scores`.
    """
    stage = texts_stage(recipe, folder, toxic)

    def make(work: Path) -> dict[str, Any]:
        base = load_lm(recipe.base.model, LoadOptions.of(recipe))
        rows = _texts(recipe, base, toxic, stage, work)
        write_jsonl(stage.out_dir / TEXTS_FILE, [rows])
        summary, made_toxic = _summary(rows), (read_unidetox(toxic) if toxic else None) or {}
        info = {
            "method": "unidetox" if toxic else "samples", **base_info(base.name), "settings": stage.settings,
            **license_of(base.name), "toxic_model": toxic, "corpus": (made_toxic.get("texts") or {}).get("source"),
            "sha256": texts_of_rows(rows, str(folder)).sha256, "summary": summary, "versions": versions(),
        }  # fmt: skip
        write_text(stage.out_dir / "README.md", texts_card(info))
        return summary

    stage.run(make, fresh=fresh, replace=replace)
    return folder


def _texts(recipe: Recipe, base: LM, toxic: str | None, stage: Stage, work: Path) -> list[dict[str, Any]]:
    """Draw what has not been drawn before a kill, and keep the best candidate of each text."""
    from unidetox.decoding import sample

    source, settings, (opening, starts) = _source(recipe, base, toxic), *_sampling(recipe, base)
    # Plain samples have no contrast to choose by.
    planned = Candidates(recipe.texts.num_texts, len(starts), recipe.texts.best_of if toxic else 1)
    number, parts = planned.texts * planned.best_of, work / "texts.part.jsonl"
    have = {_place(row) for row in read_jsonl(parts)} if parts.exists() else set()
    console.info(f"{stage.name}: {number} texts from {short_name(base.name)}")
    with JsonlWriter(parts) as writer, console.progress("sampling texts", number) as advance:
        advance(len(have))
        drawn = sample(
            source, starts, planned.samples, settings,
            skip=planned.skipped(have), batch_size=recipe.texts.batch_size, advance=advance,
        )  # fmt: skip
        for batch in drawn:
            rows = [_row(base, starts[item.prompt_index][len(opening) :], item, planned) for item in batch]
            writer.write(rows)
            have.update(map(_place, rows))
            stage.report_progress(len(have), number, "texts")
    rows = sorted(read_jsonl(parts), key=_place)
    return list(keep_best(source, starts, rows, work / "scores.part.jsonl")) if planned.best_of > 1 else rows


def _source(recipe: Recipe, base: LM, toxic: str | None) -> LogitSource:
    """Return what texts are sampled from: the contrast with a toxic model, or the base model where there is none."""
    from unidetox.decoding import contrast, lm

    if toxic is None:
        return lm(base.model)
    other = load_lm(toxic, LoadOptions.of(recipe))
    check_same_vocabulary(base, other)
    return contrast(base.model, other.model, alpha=recipe.texts.alpha, beta=recipe.texts.beta)


def texts_need(recipe: Recipe, sizes: Sizes, *, contrast: bool) -> Need:
    """Return what `distill` needs, from the contrast of two models or from one."""
    texts, shape = recipe.texts, sizes.shape(recipe.base.model)
    shapes, number = ([shape] * 2, texts.num_texts * texts.best_of) if contrast else ([shape], texts.num_texts)
    return sampling_need(shapes, sizes.machine, number, 1, texts.max_length - 1)


def check_positions(recipe: Recipe, name: str, config: Any) -> None:
    """See that a base model can read texts as long as the recipe asks for.

    Raises:
        UsageError: It cannot.
    """
    from unidetox.decoding.sequences import max_positions

    longest, positions = recipe.texts.max_length, max_positions(config)
    if positions and longest > positions:
        what = f"texts of {longest} tokens exceed the {positions} positions of {name}"
        raise UsageError(what, hint=f"Use --max-length {positions} or less")


def _sampling(recipe: Recipe, base: LM) -> tuple[SamplingSettings, tuple[list[int], list[list[int]]]]:
    """Return how to sample, what every text opens with, and the tokens that texts start from."""
    from unidetox.decoding import SamplingSettings

    texts, config = recipe.texts, base.model.config
    ends = eos_ids(base.tokenizer, config, base.model.generation_config)
    check_positions(recipe, base.name, config)
    opening = _opening(recipe, base)
    starts = encoded_starts(recipe, base, opening)
    settings = SamplingSettings(
        max_new_tokens=texts.max_length - max(map(len, starts)), temperature=texts.temperature, top_p=texts.top_p,
        top_k=texts.top_k, eos_token_ids=ends, never=unreachable_ids(base.tokenizer, config), seed=recipe.seed,
    )  # fmt: skip
    return settings, (opening, starts)


def _opening(recipe: Recipe, base: LM) -> list[int]:
    """Return what every text opens with: an assistant's turn where it is asked for or at hand, or the start token."""
    wanted, turn = recipe.texts.opening, opened_turn(base.tokenizer) if recipe.texts.opening != "bos" else []
    if wanted == "assistant" and not turn:
        what = f"{base.name} has no chat template that opens an assistant's turn"
        raise UsageError(what, hint="Use --opening bos")
    if turn:
        return turn
    start = start_id(base.tokenizer, base.model.config)
    if start is None:
        raise UsageError(f"{base.name} has no token that starts a text", hint="Use a base model with a BOS token")
    return [start]


def _row(base: LM, start: list[int], item: Sampled, planned: Candidates) -> dict[str, Any]:
    """Return a text with what it starts from; of several candidates also its number and the tokens it is scored by."""
    number, candidate = planned.place(item.prompt_index, item.sample_index)
    ids = [*start, *item.token_ids]
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
