"""A list of words or patterns as a scorer: ``words:FILE``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from unidetox.core.errors import MissingError, UsageError
from unidetox.evaluation.scorers.interface import Scorer, find_label
from unidetox.models import LoadOptions

_LABEL = "toxic"


class WordScorer(Scorer):
    """Scores a text 1 where a line of a file is in it, else 0, whatever the case of letters.

    A line is one or more whole words, or a regular expression between slashes: ``/idiot(s|ic)?/``. Empty lines do not
    count.

    Args:
        source: ``words:FILE``.
        label: Its one label, ``toxic``.
        options: Not used.
    """

    def __init__(self, source: str, label: str | None, options: LoadOptions) -> None:
        self.source, self.label = source, label
        self.file = Path(source.partition(":")[2]).expanduser()

    @cached_property
    def _lines(self) -> list[str]:
        if not self.file.is_file():
            raise MissingError(f"no word list {self.file}", hint="Give words:FILE, a text file with a word a line")
        return self.file.read_text("utf-8-sig", errors="replace").splitlines()

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        patterns = [self._pattern(i, line.strip()) for i, line in enumerate(self._lines, 1) if line.strip()]
        if not patterns:
            raise UsageError(f"the word list {self.file} is empty", hint="Write a word or a /pattern/ on each line")
        return patterns

    def _pattern(self, number: int, line: str) -> re.Pattern[str]:
        if len(line) > 2 and line.startswith("/") and line.endswith("/"):
            try:
                return re.compile(line[1:-1], re.IGNORECASE)
            except re.error as exc:
                raise UsageError(f"line {number} of {self.file} is no pattern ({exc})", hint="Correct it") from exc
        words = r"\s+".join(map(re.escape, line.split()))
        return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)

    @property
    def fingerprint(self) -> str:
        """A hash of the file's lines."""
        return "words " + hashlib.sha256("\n".join(self._lines).encode()).hexdigest()

    def check(self) -> None:
        """See that the file is there, that its patterns are some, and that the label is the one there is."""
        find_label([_LABEL] if self._patterns else [], self.label or _LABEL, self.source)

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return 1 for each text with a word or pattern of the list in it, else 0, as `Scorer.score`."""
        return [{_LABEL: float(any(pattern.search(text) for pattern in self._patterns))} for text in texts]
