"""Several candidates for each text: what they start from, which belongs to which text, and the one that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.config.settings import Recipe
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.files import JsonlWriter, read_jsonl
from unidetox.data import PromptSet, load_prompts
from unidetox.models import LM

if TYPE_CHECKING:
    from unidetox.decoding import LogitSource

_CHUNK = 256


def read_starts(recipe: Recipe) -> PromptSet | None:
    """Read what texts start from; None where they start from nothing.

    Args:
        recipe: Its setting ``texts.starts`` counts.
    """
    return load_prompts(recipe.texts.starts, split="all") if recipe.texts.starts is not None else None


def check_starts(recipe: Recipe, prompts: PromptSet) -> None:
    """See that no text starts from a prompt that the result is measured on.

    Args:
        recipe: Its setting ``texts.starts`` counts.
        prompts: What is measured on.

    Raises:
        UsageError: One does.
    """
    starts, measured = read_starts(recipe), {prompt.text.strip() for prompt in prompts.prompts}
    if starts and (found := sum(start.text.strip() in measured for start in starts.prompts)):
        what = f"{found} of the {len(starts.prompts)} starts in texts.starts are prompts that are measured on"
        raise UsageError(what, hint="Give mentions of groups that the evaluation does not use")


@dataclass(frozen=True)
class Candidates:
    """Which sample of which start is which candidate of which text.

    Texts take the starts in turn: text ``i`` has start ``i % starts``, and its candidates are neighbours among the
    samples of that start.

    Attributes:
        texts: How many texts.
        starts: How many starts.
        best_of: Candidates of each text.
    """

    texts: int
    starts: int
    best_of: int

    @property
    def samples(self) -> int:
        """Samples of each start, of which some may not be needed."""
        return -(-self.texts // self.starts) * self.best_of

    def place(self, start: int, sample: int) -> tuple[int, int]:
        """Return (text, candidate) of a sample of a start."""
        return sample // self.best_of * self.starts + start, sample % self.best_of

    def skipped(self, have: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return the (start, sample) that need not be drawn: those that are there, and those beyond the last text."""
        pairs = ((p, s) for p in range(self.starts) for s in range(self.samples))
        return {pair for pair in pairs if self.place(*pair)[0] >= self.texts or self.place(*pair) in have}


def encoded_starts(recipe: Recipe, base: LM, opening: list[int]) -> list[list[int]]:
    """Return the tokens that texts start from, those that open each first.

    Args:
        recipe: Its section ``texts`` counts.
        base: The base model.
        opening: What every text opens with, and is no part of it: the start token, or an assistant's turn.

    Raises:
        UsageError: A start leaves no room for a text.
    """
    starts = read_starts(recipe)
    if starts is None:
        return [opening]
    texts, room = [start.text for start in starts.prompts], recipe.texts.max_length
    rows = base.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    encoded = [[*opening, *row] for row in rows]
    if (longest := max(map(len, encoded))) >= room:
        what = f"a start in texts.starts has {longest} tokens, which leaves no room in texts of {room}"
        raise UsageError(what, hint="Give shorter starts, or a larger texts.max_length")
    return encoded


def contrast_scores_of(
    source: LogitSource, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> list[float | None]:
    """Score texts by how much likelier the base model finds them than its toxic copy.

    ``s(x) = mean over tokens t of log p_base(x_t | x_<t) - log p_toxic(x_t | x_<t)``, in nats. The mean and not the
    sum, so that length does not decide; a text without a token has no score.

    Args:
        source: The contrast; its models are the base and the toxic one.
        contexts: What each text starts from.
        continuations: Its tokens after that.

    Reference: UniDetox (Lu et al., ICLR 2025), Eq. 1, there for a whole text and summed.
    """
    from unidetox.decoding import loglikelihood

    means = []
    for model in source.models:
        found = dict(loglikelihood(model, contexts, continuations))
        means.append([float(found[i].mean()) if len(found[i]) else 0.0 for i in range(len(contexts))])
    rows = zip(*means, continuations, strict=True)
    return [first - second if len(tokens) else None for first, second, tokens in rows]


def keep_best(
    source: LogitSource, starts: Sequence[Sequence[int]], rows: Sequence[Mapping[str, Any]], scores_file: Path
) -> Iterator[dict[str, Any]]:
    """Yield the best candidate of each text, with its score; what is scored already in the file is not scored again.

    Args:
        source: The contrast.
        starts: What texts start from.
        rows: All candidates: ``id``, ``candidate``, ``token_ids`` and what a text has; sorted.
        scores_file: Where scores are kept.
    """
    which = itemgetter("id", "candidate")
    scores = {which(row): row["score"] for row in (read_jsonl(scores_file) if scores_file.exists() else [])}
    todo = [row for row in rows if which(row) not in scores]
    with JsonlWriter(scores_file) as writer, console.progress("scoring candidates", len(rows)) as advance:
        advance(len(rows) - len(todo))
        for place in range(0, len(todo), _CHUNK):
            part = todo[place : place + _CHUNK]
            contexts = [starts[row["id"] % len(starts)] for row in part]
            found = contrast_scores_of(source, contexts, [row["token_ids"] for row in part])
            # A text of nothing but white space is no text, whatever it scores.
            new = {which(row): s if row["text"].strip() else None for row, s in zip(part, found, strict=True)}
            writer.write({"id": text, "candidate": number, "score": s} for (text, number), s in new.items())
            scores |= new
            advance(len(part))
    for _, candidates in groupby(rows, key=itemgetter("id")):
        best = max(candidates, key=lambda row: -math.inf if (s := scores[which(row)]) is None else s)
        kept = {key: value for key, value in best.items() if key not in ("candidate", "token_ids")}
        yield kept | {"score": scores[which(best)]}
