"""Sets of texts to one JSON object: reading them, asking classifiers, and every number with its interval."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, mode
from typing import Any

import numpy as np

from unidetox.config.settings import DGHS
from unidetox.core import console
from unidetox.core.callers import apart, name_of, names_of
from unidetox.core.errors import UsageError
from unidetox.core.files import require_json, write_json
from unidetox.core.names import sandbox_name, short_name, slug
from unidetox.core.resolve import after_kind, output_path, resolve_source
from unidetox.core.stages import Stage, check_stage_directory
from unidetox.data import TextSet, load_toxic_corpus, read_texts
from unidetox.evaluation.collect import Chunks, score_toxicity
from unidetox.evaluation.metrics.diversity import distinct_n
from unidetox.evaluation.metrics.stats import bootstrap_ci
from unidetox.evaluation.metrics.toxicity import is_toxic
from unidetox.evaluation.scorers import open_scorer
from unidetox.evaluation.scorers.interface import Scorer
from unidetox.evaluation.texts import wording
from unidetox.models import LoadOptions, fingerprint, load_tokenizer
from unidetox.report.analysis_page import render_analysis

SCHEMA_VERSION = 1
CODE_VERSION = 1
NGRAMS = (1, 2, 3, 4)
TERMS = 20
THRESHOLD = 0.5
_BINS = 10
_RESULT = "analysis.json"

Scores = list[dict[str, float]]


@dataclass(frozen=True)
class _Asked:
    """What an analysis was asked to do, names resolved."""

    sets: dict[str, TextSet]
    corpus: TextSet | None
    reference: TextSet | None
    scorer: str | None
    scorer_label: str
    classifiers: tuple[str, ...]
    judges: dict[str, Scorer]
    tokenizer: str | None
    seed: int
    load_options: LoadOptions


@apart()
def analyze(
    texts: str | Path | Sequence[str | Path],
    *,
    corpus: str | Path | None = None,
    column: str | None = None,
    reference: str | Path | None = None,
    scorer: str | Path | None = None,
    scorer_label: str = "toxic",
    classifiers: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    seed: int = 42,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    limit: int | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Say what is in one or more sets of texts, side by side.

    Args:
        texts: Files, directories or Hub ids.
        corpus: Toxic texts to look for in them: ``"dghs"``, a file, a directory or a Hub id; filtered as for the toxic
            model.
        column: Column of the corpus with the text.
        reference: Texts that key terms are taken against, e.g. plain samples of the base model.
        scorer: Sequence classifier that scores toxicity.
        scorer_label: Its label that is the toxicity.
        classifiers: Further classifiers; the share of each label is reported (topic, political lean, ...).
        tokenizer: A model or tokenizer that lengths are also counted with.
        output: Directory for ``analysis.json`` and ``analysis.html``; without it nothing is written.
        seed: Seed of the bootstrap.
        device: Where the classifiers compute.
        dtype: Number format of the classifiers.
        trust_remote_code: Run code that a classifier's repository brings along.
        limit: Take only the first so many texts of each set, and of the reference.
        fresh: Start over where the output exists.

    Returns:
        ``{"schema_version", "settings", "sets"}``; an entry of ``sets`` is what is known of one set.

    Raises:
        UniDetoxError: Any of its children; the message says what to do.
    """
    names, more = names_of(texts, "texts"), names_of(classifiers, "classifiers")
    if fresh and output is None:
        raise UsageError("fresh has no effect without an output", hint="Give -o as well, or leave it out")
    if output is not None:
        check_stage_directory(output_path(output), "analyze")
    load, main = LoadOptions(device, dtype, trust_remote_code), _scorer(scorer) if scorer is not None else None
    others = tuple(dict.fromkeys(map(_scorer, more)))
    judges = {
        name: open_scorer(name, scorer_label if name == main else None, load)
        for name in ([main] if main is not None else []) + list(others)
    }
    for judge in judges.values():
        judge.check()
    asked = _Asked(
        _read_sets(names, limit),
        load_toxic_corpus(_source(corpus), column=column) if corpus is not None else None,
        read_texts(_source(reference), limit=limit) if reference is not None else None,
        main, scorer_label, others, judges,
        _source(tokenizer) if tokenizer is not None else None,
        seed, load,
    )  # fmt: skip
    if output is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _analysis(asked, Path(scratch))
    return _into(output_path(output), asked, fresh)


def _into(directory: Path, asked: _Asked, fresh: bool) -> dict[str, Any]:
    """Fill a directory, or take what it holds already."""
    stage = _stage(directory, asked)

    def make(work: Path) -> dict[str, int]:
        content = _analysis(asked, work)
        write_json(stage.out_dir / _RESULT, content)
        render_analysis(content, stage.out_dir)
        return {"sets": len(asked.sets), "texts": sum(len(found.texts) for found in asked.sets.values())}

    if not stage.run(make, fresh=fresh, replace=False):
        console.info(f"{directory}: analyzed already, nothing to do")
    return require_json(directory / _RESULT)


def _stage(directory: Path, asked: _Asked) -> Stage:
    sets = {f"texts {name}": found.sha256 for name, found in asked.sets.items()}
    others = {"corpus": asked.corpus, "reference": asked.reference}
    inputs = sets | {name: found.sha256 for name, found in others.items() if found is not None}
    inputs |= {f"model {name}": judge.fingerprint for name, judge in asked.judges.items()}
    if asked.tokenizer is not None:
        inputs[f"model {asked.tokenizer}"] = fingerprint(asked.tokenizer)
    settings: dict[str, Any] = {"scorer": asked.scorer, "scorer_label": asked.scorer_label}
    settings |= {"classifiers": asked.classifiers, "tokenizer": asked.tokenizer}
    settings |= {"seed": asked.seed, "dtype": asked.load_options.dtype}
    return Stage(directory, "analyze", settings, inputs, CODE_VERSION)


def _source(name: str | Path) -> str:
    given = name_of(name, "a source")
    return DGHS if given == DGHS else resolve_source(given, None)


def _scorer(name: str | Path) -> str:
    return after_kind(_source, name_of(name, "a scorer"))


def _read_sets(names: Sequence[str], limit: int | None) -> dict[str, TextSet]:
    """Read the sets, each under a name that is its own."""
    if not names:
        raise UsageError("no texts to analyse", hint="Name a file, a directory or a Hub id")
    sources = list(dict.fromkeys(map(_source, names)))
    return dict(zip(titles(sources), (read_texts(source, limit=limit) for source in sources), strict=True))


def titles(sources: Sequence[str]) -> list[str]:
    """Name each source by as few of the last parts of its path as tell it apart from the others."""
    parts = [Path(sandbox_name(source)).parts for source in sources]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(path[-depth:]) for path in parts]
        if len(set(short)) == len(short):
            return short
    return list(sources)


# --- from texts to numbers


def _analysis(asked: _Asked, work_dir: Path) -> dict[str, Any]:
    split = {name: [wording.words(t.text) for t in found.texts] for name, found in asked.sets.items()}
    sets = [_one_set(name, found, split[name], asked) for name, found in asked.sets.items()]
    _add_overlap(sets, split, asked.corpus, asked.seed)
    _add_terms(sets, split, asked.reference)
    _add_lengths(sets, asked)
    for name, judge in asked.judges.items():
        with contextlib.closing(judge):
            _add_scores(sets, name, judge, asked, work_dir)
    return {"schema_version": SCHEMA_VERSION, "settings": _settings(asked), "sets": sets}


def _settings(asked: _Asked) -> dict[str, Any]:
    def about(found: TextSet | None) -> dict[str, Any] | None:
        if found is None:
            return None
        name = sandbox_name(found.source)
        return {"name": short_name(name), "sha256": found.sha256, "texts": len(found.texts), "dropped": found.dropped}

    return {
        "corpus": about(asked.corpus),
        "reference": about(asked.reference),
        "scorer": short_name(asked.scorer) if asked.scorer else None,
        "scorer_label": asked.scorer_label,
        "classifiers": [short_name(name) for name in asked.classifiers],
        "tokenizer": short_name(asked.tokenizer) if asked.tokenizer else None,
        "threshold": THRESHOLD,
        "seed": asked.seed,
        "interval": "95 % bootstrap over texts, 2000 resamples",
        "near_copy": "Jaccard of 5-word n-grams >= 0.5 with another distinct text",
    }


def _one_set(name: str, found: TextSet, split: Sequence[Sequence[str]], asked: _Asked) -> dict[str, Any]:
    """Say what needs nothing but the texts themselves."""
    texts = [text.text for text in found.texts]
    first = {text.strip(): index for index, text in reversed(list(enumerate(texts)))}
    known = [text.finish_reason for text in found.texts]
    ends = [float(wording.ends_sentence(text)) for text in texts]
    return {
        "name": name,
        "sha256": found.sha256,
        "texts": len(texts),
        "dropped": found.dropped,
        "distinct": len(first),
        "near_copies": sum(wording.near_copies([split[index] for index in first.values()])),
        "words": _lengths([len(text.split()) for text in texts], asked.seed),
        "tokens": None,
        "ended": known.count("eos"),
        "cut": known.count("length"),
        "unknown_end": known.count(None),
        "ends_sentence": _mean(ends, asked.seed, share=True),
        "with_line_breaks": sum("\n" in text for text in texts),
        "dist": {str(n): distinct_n(texts, n) for n in (1, 2, 3)},
        "overlap": None,
        "terms": None,
        "toxicity": None,
        "labels": {},
    }


def _mean(values: Sequence[float], seed: int, *, share: bool = False) -> dict[str, float | None]:
    low, high = bootstrap_ci(values, seed=seed, share=share)
    return {"value": fmean(values), "ci_low": low, "ci_high": high, "n": len(values)}


def _lengths(values: Sequence[int], seed: int) -> dict[str, Any]:
    p5, median, p95 = (float(q) for q in np.percentile(values, [5, 50, 95]))
    common = mode(values)
    return {
        "total": sum(values), "mean": _mean([float(v) for v in values], seed), "min": min(values), "p5": p5,
        "median": median, "p95": p95, "max": max(values), "mode": common, "at_mode": values.count(common),
    }  # fmt: skip


def _add_overlap(
    sets: list[dict[str, Any]], split: Mapping[str, list[list[str]]], corpus: TextSet | None, seed: int
) -> None:
    """Compare n-grams with those of the toxic corpus, one n at a time to save memory."""
    if corpus is None:
        return
    toxic = [wording.words(text.text) for text in corpus.texts]
    rows: dict[str, list[dict[str, Any]]] = {entry["name"]: [] for entry in sets}
    for n in NGRAMS:
        theirs = wording.all_ngrams(toxic, n)
        for name, texts in split.items():
            own = wording.all_ngrams(texts, n)
            holding = [float(not theirs.isdisjoint(wording.ngrams(text, n))) for text in texts]
            rows[name].append(
                {
                    "n": n, "jaccard": wording.jaccard(own, theirs), "shared": len(own & theirs), "ngrams": len(own),
                    "corpus_ngrams": len(theirs), "texts_with_any": _mean(holding, seed, share=True),
                }
            )  # fmt: skip
    for entry in sets:
        entry["overlap"] = rows[entry["name"]]


def _add_terms(sets: list[dict[str, Any]], split: Mapping[str, list[list[str]]], reference: TextSet | None) -> None:
    if reference is None:
        return
    theirs = [wording.words(text.text) for text in reference.texts]
    for entry in sets:
        entry["terms"] = [asdict(term) for term in wording.key_terms(split[entry["name"]], theirs, TERMS)]


def _add_lengths(sets: list[dict[str, Any]], asked: _Asked) -> None:
    """Count tokens, where there is a tokenizer."""
    if asked.tokenizer is None:
        return
    tokenizer = load_tokenizer(asked.tokenizer, asked.load_options)
    for entry in sets:
        texts = [text.text for text in asked.sets[entry["name"]].texts]
        ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        entry["tokens"] = _lengths([len(row) for row in ids], asked.seed)


# --- scorers


def _add_scores(sets: list[dict[str, Any]], name: str, judge: Scorer, asked: _Asked, work_dir: Path) -> None:
    """Ask one scorer about every text; what is scored already in the work directory is kept."""
    for number, entry in enumerate(sets):
        texts = [text.text for text in asked.sets[entry["name"]].texts]
        chunks = Chunks(work_dir / "scores" / f"{slug(name)}-{len(name)}" / str(number), len(texts))
        score_toxicity(judge, texts, chunks)
        scores: Scores = list(chunks.rows())
        cut = chunks.count("n_truncated")
        if name == asked.scorer:
            entry["toxicity"] = _toxicity([judge.toxicity(row) for row in scores], cut, asked.seed)
        if name in asked.classifiers:
            shares = _labels(scores, judge.multi_label, asked.seed)
            entry["labels"][judge.name] = {"multi_label": judge.multi_label, "texts_cut": cut, "shares": shares}


def _toxicity(values: list[float], cut: int, seed: int) -> dict[str, Any]:
    toxic = [float(flag) for flag in is_toxic(values, THRESHOLD)]
    counts, _ = np.histogram(np.clip(values, 0.0, 1.0), bins=_BINS, range=(0.0, 1.0))
    quantiles = np.percentile(values, [50, 90, 99])
    return {
        "mean": _mean(values, seed),
        "toxic_fraction": _mean(toxic, seed, share=True),
        "quantiles": dict(zip(("p50", "p90", "p99"), map(float, quantiles), strict=True)) | {"max": max(values)},
        "histogram": [int(count) for count in counts],
        "texts_cut": cut,
    }


def _labels(scores: Scores, multi_label: bool, seed: int) -> dict[str, dict[str, float | None]]:
    """Return the share of texts with each label: the likeliest one, or each that reaches the threshold."""
    shares = {}
    for label in scores[0]:
        if multi_label:
            held = [float(row[label] >= THRESHOLD) for row in scores]
        else:
            held = [float(max(row, key=lambda other: row[other]) == label) for row in scores]
        shares[label] = _mean(held, seed, share=True)
    return shares
