"""Collect what is measured, bit by bit on disk: continuations, toxicity scores, likelihoods, answers.

Every part survives a kill and goes on where it stopped, with the same result:

    continuations   appended as they end, one JSONL file; each has a random stream of its own
    all others      a small file for each chunk of a fixed list, written atomically: there whole or not at all
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidetox.core import console
from unidetox.core.files import JsonlWriter, read_json, read_jsonl, write_json, write_text
from unidetox.evaluation.likelihoods import continuation_nll
from unidetox.evaluation.metrics.mmlu import Answer
from unidetox.evaluation.mmlu import score_questions
from unidetox.evaluation.parts import used_top_k
from unidetox.evaluation.prompt_encoding import encode_prompt, shared_tokens

if TYPE_CHECKING:
    from unidetox.config.settings import Evaluate
    from unidetox.data import Prompt, QuestionSet
    from unidetox.decoding.sampling import Sampled, SamplingSettings
    from unidetox.evaluation.metrics.mmlu import Protocol
    from unidetox.evaluation.scorers.interface import Scorer
    from unidetox.models import LM

CHUNK = 2000
"""Continuations a chunk: what a kill can cost, and what is held in memory at once."""

_APPEND_SECONDS = 2.0
_TAIL = 8
_NOTES = "notes.json"

Report = Callable[[int, int, str], None]
"""Told how many are done, how many there are, and of what: ``Stage.report_progress``."""


class Chunks:
    """Results of a fixed list of items, a file a chunk.

    Args:
        directory: Where the files are; made when the first is written.
        total: How many items there are.
        size: How many items a chunk has.
    """

    def __init__(self, directory: Path, total: int, size: int = CHUNK) -> None:
        self.directory, self.total, self.size = directory, total, size

    def missing(self) -> list[slice]:
        """Return the chunks that are still to be done, as slices of the items."""
        return [part for part in self._slices() if not self._path(part).exists()]

    def put(self, part: slice, rows: Sequence[Any], **counts: int) -> None:
        """Write the results of a chunk atomically.

        Args:
            part: Which items.
            rows: One JSON value an item.
            counts: Whatever else was counted in this chunk.
        """
        write_text(self._path(part), json.dumps({"rows": list(rows), "counts": counts}, ensure_ascii=False))

    def rows(self) -> Iterator[Any]:
        """Yield the results of all items in order."""
        for part in self._slices():
            yield from self._read(part)["rows"]

    def count(self, name: str) -> int:
        """Return the sum of a count over all chunks."""
        return sum(self._read(part)["counts"].get(name, 0) for part in self._slices())

    def _slices(self) -> list[slice]:
        return [slice(i, min(i + self.size, self.total)) for i in range(0, self.total, self.size)]

    def _path(self, part: slice) -> Path:
        return self.directory / f"{part.start:08d}.json"

    def _read(self, part: slice) -> dict[str, Any]:
        content = read_json(self._path(part))
        assert content is not None, f"{self._path(part)} was written atomically"
        return content


@dataclass(frozen=True)
class Continuations:
    """The sampled continuations of some prompts under one seed, on disk.

    Attributes:
        directory: Holds ``rows.jsonl`` with ``prompt`` (its place in the set), ``sample``, ``continuation``,
            ``finish_reason``, ``n_tokens``, in the order in which they ended.
        n_prompts: How many prompts.
        n_samples: How many continuations a prompt.
    """

    directory: Path
    n_prompts: int
    n_samples: int

    @property
    def path(self) -> Path:
        """The file of the rows."""
        return self.directory / "rows.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """Return what is there, sorted by prompt and sample."""
        rows = read_jsonl(self.path) if self.path.exists() else []
        unique = {(row["prompt"], row["sample"]): row for row in rows}
        return [unique[key] for key in sorted(unique)]

    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.rows()) == self.n_prompts * self.n_samples

    @property
    def n_prompts_cut(self) -> int:
        """How many prompts were cut on the left to fit the model's context."""
        return int((read_json(self.directory / _NOTES) or {}).get("n_prompts_cut", 0))

    def note(self, n_prompts_cut: int) -> None:
        """Keep what cannot be seen in the rows."""
        write_json(self.directory / _NOTES, {"n_prompts_cut": n_prompts_cut})


def sampling_settings(lm: LM, chosen: Evaluate, *, seed: int = 0, ends: tuple[int, ...] = ()) -> SamplingSettings:
    """Return how continuations of a model are drawn; a rule that filters takes the place of top-p.

    Args:
        lm: The model.
        chosen: The recipe's section.
        seed: Root of the random streams.
        ends: Tokens that end a continuation; none where all must be of one length.
    """
    from unidetox.decoding.sampling import SamplingSettings

    return SamplingSettings(
        max_new_tokens=chosen.max_new_tokens, temperature=chosen.temperature, top_k=used_top_k(chosen),
        top_p=1.0 if lm.source.filters else chosen.top_p, eos_token_ids=ends, seed=seed,
    )  # fmt: skip


def sample_continuations(
    lm: LM,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    part: Continuations,
    *,
    batch_size: int | Literal["auto"] = "auto",
    report: Report | None = None,
    what: str = "sampling",
) -> None:
    """Sample what is missing of one seed.

    A continuation's random stream depends on the seed, the prompt's id and the sample's number only: a part of the
    prompts gives the same continuations, and two models meet the same random numbers, which makes their
    difference sharper.

    Args:
        lm: The model.
        prompts: All prompts.
        settings: How to draw; its ``seed`` is the seed of this part.
        part: Where they go.
        batch_size: Rows decoded together.
        report: Told how far it is.
        what: What to call the work meanwhile.

    Raises:
        UniDetoxError: If the model's logits are NaN.
    """
    from unidetox.decoding.sampling import sample

    encoded = [encode_prompt(lm, prompt.text, settings.max_new_tokens) for prompt in prompts]
    part.note(sum(cut for _, cut in encoded))
    ids, done = [ids for ids, _ in encoded], {(row["prompt"], row["sample"]) for row in part.rows()}
    keys = [stream_key(prompt.prompt_id) for prompt in prompts]
    total = part.n_prompts * part.n_samples
    with (
        _counting(f"{what}, seed {settings.seed}", total, report) as advance,
        JsonlWriter(part.path) as writer,
    ):
        advance(len(done))
        finished = sample(
            lm.source, ids, part.n_samples, settings,
            keys=keys, skip=done, batch_size=batch_size, shared=shared_tokens(lm), advance=advance,
        )  # fmt: skip
        for batch in _every(_APPEND_SECONDS, finished):
            writer.write(_row(lm, ids[s.prompt_index], s) for s in batch)


def stream_key(prompt_id: str) -> int:
    """Return the number that names a prompt's random streams, 0 to 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") >> 1


def continuation_text(tokenizer: Any, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> str:
    """Decode new tokens as they read after their prompt.

    Some tokenizers drop the space before the first word of whatever they decode, so the end of the prompt is
    decoded with them and taken off again.

    Args:
        tokenizer: The model's tokenizer.
        prompt_ids: The prompt's tokens, one or more.
        new_ids: The continuation's tokens.
    """
    tail = list(prompt_ids[-_TAIL:])
    before, whole = _decode(tokenizer, tail), _decode(tokenizer, [*tail, *new_ids])
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, new_ids)


def score_toxicity(scorer: Scorer, texts: Sequence[str], chunks: Chunks, *, report: Report | None = None) -> None:
    """Score the chunks of texts that are missing: a row is ``{label: score}``, all labels of the scorer."""
    with _counting("scoring toxicity", chunks.total, report) as advance:
        todo = chunks.missing()
        advance(chunks.total - sum(part.stop - part.start for part in todo))
        for part in todo:
            before = scorer.n_truncated
            rows = scorer.score(texts[part])
            chunks.put(part, rows, n_truncated=scorer.n_truncated - before)
            advance(len(rows))


def score_likelihood(
    lm: LM,
    prompts: Sequence[str],
    continuations: Sequence[str],
    chunks: Chunks,
    *,
    alone: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    report: Report | None = None,
) -> None:
    """Score the chunks of continuations that are missing, given their prompts or alone: a row is ``[nll, n_tokens]``.

    Counted are the continuations that are empty, those that alone are longer than the model's context (neither has a
    perplexity), and those whose prompt was cut on the left to fit.
    """
    with _counting("relevance" if alone else "perplexity", chunks.total, report) as advance:
        todo = chunks.missing()
        advance(chunks.total - sum(part.stop - part.start for part in todo))
        for part in todo:
            rows: list[Any] = [None] * (part.stop - part.start)
            counts = {"n_empty": 0, "n_too_long": 0, "n_cut": 0}
            scored = continuation_nll(lm, prompts[part], continuations[part], alone=alone, batch_size=batch_size)
            for nll in scored:
                rows[nll.index] = [nll.nll, nll.n_tokens]
                unscored = "n_too_long" if nll.cut else "n_empty"
                if nll.cut or nll.n_tokens == 0:
                    counts["n_cut" if nll.n_tokens else unscored] += 1
                advance(1)
            chunks.put(part, rows, **counts)


def answer_questions(
    lm: LM,
    questions: QuestionSet,
    shots: int,
    directory: Path,
    *,
    protocol: Protocol = "paper",
    batch_size: int | Literal["auto"] = "auto",
    report: Report | None = None,
) -> None:
    """Answer the subjects that are missing, a file a subject."""
    files = {directory / f"{number:08d}.json": asked for number, asked in enumerate(_subjects(questions))}
    todo = {path: asked for path, asked in files.items() if not path.exists()}
    with _counting("questions", len(questions.questions), report) as advance:
        advance(len(questions.questions) - sum(map(len, todo.values())))
        for path, asked in todo.items():
            answers = score_questions(lm, asked, questions.dev, shots=shots, protocol=protocol, batch_size=batch_size)
            write_json(path, {"answers": [asdict(answer) for answer in answers]})
            advance(len(asked))


def read_answers(questions: QuestionSet, directory: Path) -> list[Answer] | None:
    """Return the answers by subject, or None where one is missing."""
    answers = []
    for number, _ in enumerate(_subjects(questions)):
        content = read_json(directory / f"{number:08d}.json")
        if content is None:
            return None
        answers += [Answer(**a | {key: tuple(a[key]) for key in ("logprobs", "lengths")}) for a in content["answers"]]
    return answers


def _subjects(questions: QuestionSet) -> list[list[Any]]:
    ordered = sorted(questions.questions, key=lambda question: question.subject)
    return [list(group) for _, group in groupby(ordered, key=lambda question: question.subject)]


def _row(lm: LM, prompt_ids: Sequence[int], sampled: Sampled) -> dict[str, Any]:
    return {
        "prompt": sampled.prompt_index,
        "sample": sampled.sample_index,
        "continuation": continuation_text(lm.tokenizer, prompt_ids, sampled.token_ids),
        "finish_reason": sampled.finish_reason,
        "n_tokens": len(sampled.token_ids),
    }


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@contextlib.contextmanager
def _counting(what: str, total: int, report: Report | None) -> Iterator[Callable[[float], None]]:
    """Show progress, and tell it at most every other second."""
    done, told = 0.0, 0.0
    with console.progress(what, total) as advance:

        def step(count: float) -> None:
            nonlocal done, told
            done += count
            advance(count)
            if report is not None and time.monotonic() - told > _APPEND_SECONDS:
                told = time.monotonic()
                report(int(done), total, what)

        yield step


def _every(seconds: float, lists: Iterable[list[Sampled]]) -> Iterator[list[Sampled]]:
    """Join lists until some time has passed, so that not every step waits for the disk."""
    joined: list[Sampled] = []
    last = time.monotonic()
    for items in lists:
        joined += items
        if time.monotonic() - last >= seconds:
            yield joined
            joined, last = [], time.monotonic()
    if joined:
        yield joined
