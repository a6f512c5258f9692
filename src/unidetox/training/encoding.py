"""Texts to token ids as they are trained on: start token, text, and an end token where the text really ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unidetox.core.errors import UsageError
from unidetox.decoding.sequences import max_positions
from unidetox.models.tokens import eos_ids, start_id


class TextLike(Protocol):
    """A text and how it ended; `unidetox.data.Text` is one."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def finish_reason(self) -> str | None:
        """``eos`` where the text is complete, else ``length`` or None."""


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as token ids.

    Attributes:
        input_ids: A row a text, not padded; the first token of each is not learnt.
        n_truncated: Texts cut at the maximum length.
        n_dropped: Texts without a token to learn.
    """

    input_ids: list[list[int]]
    n_truncated: int
    n_dropped: int


def encode_texts(texts: Sequence[TextLike], tokenizer: Any, config: Any, max_length: int) -> EncodedTexts:
    """Encode texts for causal-LM training.

    A row is the start token (`models.start_id`, if there is one), the text, and the end token if the text is known to
    be complete and is not cut. The published code let the tokenizer decide, and taught the padding instead (audit 4,
    31).

    Args:
        texts: The texts.
        tokenizer: Of the model to train.
        config: Configuration of the model to train.
        max_length: Most tokens a row, special ones included; the model's own limit holds too.

    Raises:
        UsageError: There is nothing to train on.
    """
    if not texts:
        raise UsageError("there are no texts to train on", hint="Give a file with at least one text")
    limit = min(max_length, max_positions(config) or max_length)
    start, ends = start_id(tokenizer, config), eos_ids(tokenizer, config)
    # Text is text, even where it spells a special token.
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    bodies = tokenizer([t.text for t in texts], **options)["input_ids"]
    first, last = [] if start is None else [start], list(ends[:1])
    rows = [
        [*first, *body, *(last if text.finish_reason == "eos" and body else [])]
        for text, body in zip(texts, bodies, strict=True)
    ]
    kept = [row[:limit] for row in rows if len(row) > 1]
    if not kept:
        raise UsageError("the texts have no words to train on", hint="Give a file with longer texts")
    return EncodedTexts(kept, sum(len(row) > limit for row in rows), len(rows) - len(kept))
