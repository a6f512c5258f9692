"""The stages that make texts: a toxic copy of the base model (or one that is not), then samples from the contrast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.files import JsonlWriter, read_jsonl, write_jsonl, write_text
from unidetox.core.names import short_name
from unidetox.core.provenance import versions
from unidetox.core.stages import Stage
from unidetox.data import TextSet, load_civil_texts, load_toxic_corpus, texts_of_rows
from unidetox.methods.best_of import Candidates, encoded_starts, keep_best, read_starts
from unidetox.methods.checkpoint_stage import fine_tune_into
from unidetox.models import fingerprint
from unidetox.report.cards import texts_card

if TYPE_CHECKING:
    from unidetox.decoding import LogitSource, SamplingSettings
    from unidetox.decoding.sampling import Sampled
    from unidetox.models import LM

TEXTS_FILE = "texts.jsonl"

Kind = Literal["toxic", "expert"]
"""A copy of a model fine-tuned on toxic texts, or on texts that are not: an expert."""


def toxic_corpus(recipe: Recipe) -> TextSet:
    """Read the toxic texts that a recipe names."""
    toxic = recipe.toxic
    return load_toxic_corpus(
        toxic.corpus, column=toxic.column, duplicates=toxic.duplicates, limit=toxic.limit, seed=recipe.seed
    )


def civil_texts(recipe: Recipe) -> TextSet:
    """Read the texts that are not toxic: those that a recipe names, or those of its corpus that are marked so."""
    toxic = recipe.toxic
    return load_civil_texts(
        toxic.civil, toxic.corpus, column=toxic.column if toxic.civil is None else None, duplicates=toxic.duplicates,
        limit=toxic.limit, seed=recipe.seed,
    )  # fmt: skip


def toxic_stage(recipe: Recipe, directory: Path, corpus: TextSet, kind: Kind = "toxic") -> Stage:
    """Describe the stage that makes the toxic model, or in the same way an expert that is not toxic."""
    settings = recipe.toxic.model_dump(exclude={"model", "corpus", "column", "duplicates", "limit", "civil"})
    settings |= {"seed": recipe.seed, "dtype": recipe.dtype}
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
    if not fresh and stage.status().state == "fresh":
        return directory
    from unidetox.training import TrainSettings

    toxic = recipe.toxic
    settings = TrainSettings(
        lr=toxic.lr, batch_size=toxic.batch_size, max_length=toxic.max_length, steps=toxic.steps,
        epochs=None if toxic.steps else toxic.epochs, seed=recipe.seed, dtype=recipe.dtype,
    )  # fmt: skip
    fine_tune_into(stage, recipe, kind, recipe.base.model, corpus, settings, fresh=fresh, replace=replace)
    return directory


def texts_stage(recipe: Recipe, directory: Path, toxic: str | None) -> Stage:
    """Describe the stage that samples texts: from the contrast with a toxic model, or plainly where there is none."""
    settings = recipe.texts.model_dump(exclude={"source", "batch_size", "starts"})
    inputs = {"base": fingerprint(recipe.base.model)}
    starts = read_starts(recipe)
    if starts is not None:
        inputs["starts"] = starts.sha256
    if toxic is None:
        settings = {k: v for k, v in settings.items() if k not in ("alpha", "beta", "best_of")}
    else:
        inputs["toxic"] = fingerprint(toxic)
    settings |= {"seed": recipe.seed, "dtype": recipe.dtype}
    # 2: both heads of the contrast in float32.
    return Stage(directory, "distill" if toxic else "sample-texts", settings, inputs, code_version=2)


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

    def contrasted(base: LM) -> LogitSource:
        from unidetox.decoding import contrast
        from unidetox.models import check_same_vocabulary, load_lm

        other = load_lm(toxic, device=recipe.device, dtype=recipe.dtype, trust_remote_code=recipe.trust_remote_code)
        check_same_vocabulary(base, other)
        return contrast(base.model, other.model, alpha=recipe.texts.alpha, beta=recipe.texts.beta)

    stage = texts_stage(recipe, directory, toxic)
    _make_texts(recipe, stage, contrasted, fresh, replace)
    return directory


def sample_texts(recipe: Recipe, directory: Path, *, fresh: bool = False, replace: bool = True) -> Path:
    """Sample as many texts of the same length from the base model alone: the control of the paper ("Samples").

    Args:
        recipe: Its sections ``base`` and ``texts`` count.
        directory: Where ``texts.jsonl`` and its card go.
        fresh: Start over.
        replace: Whether texts made with other settings may be replaced.
    """

    def plain(base: LM) -> LogitSource:
        from unidetox.decoding import lm

        return lm(base.model)

    _make_texts(recipe, texts_stage(recipe, directory, None), plain, fresh, replace)
    return directory


def _make_texts(
    recipe: Recipe, stage: Stage, make_source: Callable[[LM], LogitSource], fresh: bool, replace: bool
) -> None:
    if not fresh and stage.status().state == "fresh":
        return
    with stage.open(fresh=fresh, replace=replace) as work:
        from unidetox.models import load_lm

        base = load_lm(
            recipe.base.model, device=recipe.device, dtype=recipe.dtype, trust_remote_code=recipe.trust_remote_code
        )
        source, settings, starts = make_source(base), *_sampling(recipe, base)
        # Plain samples have no contrast to choose by.
        best_of = recipe.texts.best_of if len(source.models) > 1 else 1
        planned = Candidates(recipe.texts.num_texts, len(starts), best_of)
        number = planned.texts * best_of
        parts = work / "texts.part.jsonl"
        have = {_place(row) for row in read_jsonl(parts)} if parts.exists() else set()
        console.info(f"{stage.name}: {number} texts from {short_name(recipe.base.model)}")
        with JsonlWriter(parts) as writer, console.progress("sampling texts", number) as advance:
            advance(len(have))
            for rows in _sampled_rows(base, source, settings, starts, planned, have, recipe.texts.batch_size):
                writer.write(rows)
                have.update(map(_place, rows))
                stage.report_progress(len(have), number, "texts")
                advance(len(rows))
        rows = sorted(read_jsonl(parts), key=_place)
        if best_of > 1:
            rows = list(keep_best(source, starts, rows, work / "scores.part.jsonl"))
        write_jsonl(stage.out_dir / TEXTS_FILE, [rows])
        summary = _summary(rows)
        texts = texts_of_rows(rows, str(stage.directory))
        info = {
            "method": "unidetox" if stage.name == "distill" else "samples",
            "base_model": recipe.base.model,
            "settings": stage.settings,
            "sha256": texts.sha256,
            "summary": summary,
            "versions": versions(),
        }
        write_text(stage.out_dir / "README.md", texts_card(info))
        stage.commit(summary)


def check_positions(recipe: Recipe, name: str, config: Any) -> None:
    """See that a base model can read texts as long as the recipe asks for.

    Raises:
        UsageError: It cannot.
    """
    longest = recipe.texts.max_length
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
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


def _sampled_rows(
    base: LM,
    source: LogitSource,
    settings: SamplingSettings,
    starts: list[list[int]],
    planned: Candidates,
    have: set[tuple[int, int]],
    batch_size: int | Literal["auto"],
) -> Iterator[list[dict[str, Any]]]:
    """Sample the texts that are still missing; each has a random stream of its own, so it does not matter which."""
    from unidetox.decoding import sample

    skip = planned.skipped(have)
    for batch in sample(source, starts, planned.samples, settings, skip=skip, batch_size=batch_size):
        yield [_row(base, starts[item.prompt_index], item, planned) for item in batch]


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
