"""How far a model is from the one that it was made of, on neutral texts: kept on disk like all other parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.core.files import read_json, write_json
from unidetox.data import PromptSet
from unidetox.evaluation.metrics.stats import bootstrap_ci, statistic_of
from unidetox.evaluation.metrics.summary import Row
from unidetox.evaluation.prompt_encoding import encode_prompt

if TYPE_CHECKING:
    from unidetox.models import LM


@dataclass(frozen=True)
class Divergence:
    """The divergence of one model from its base on disk.

    Attributes:
        directory: Holds one file, written when all is done.
        base: The base model, a directory or a Hub id.
        texts: What both read.
    """

    directory: Path
    base: str
    texts: PromptSet

    def content(self) -> dict[str, Any] | None:
        """Return ``{"sums": [...], "counts": [...]}`` by text, or ``{"reason": ...}``, or None where it is missing."""
        return read_json(self.directory / "divergence.json")

    def fail(self, reason: UniDetoxError) -> None:
        """Note why it cannot be measured."""
        write_json(self.directory / "divergence.json", {"reason": str(reason)})

    def measure(self, target: LM, base: LM, batch_size: int | Literal["auto"]) -> None:
        """Measure it.

        Args:
            target: The model.
            base: Its base, in memory at the same time.
            batch_size: Texts side by side.
        """
        from unidetox.decoding.divergence import kl_divergence
        from unidetox.models import check_same_vocabulary

        try:
            check_same_vocabulary(base, target)
        except UsageError as exc:
            self.fail(exc)
            return
        texts = [prompt.text for prompt in self.texts.prompts]
        read, own = ([encode_prompt(lm, text, 0)[0] for text in texts] for lm in (base, target))
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        for i, values in kl_divergence(target.source, base.source, read, source_sequences=own, batch_size=batch_size):
            sums[i], counts[i] = float(values.double().sum()), len(values)
        write_json(self.directory / "divergence.json", {"sums": sums, "counts": counts})

    def rows(self, *, target: str, method: str) -> list[Row]:
        """Return the row ``kl_base``: KL(model || base) in nats a token, with an interval over texts."""
        content = self.content() or {}
        kept = [pair for pair in zip(content.get("sums", ()), content.get("counts", ()), strict=True) if pair[1]]
        if not kept:
            return []
        sums, counts = zip(*kept, strict=True)
        value = statistic_of(sums, "ratio", weights=counts)
        interval = bootstrap_ci(sums, "ratio", weights=counts)
        dropped = len(self.texts.prompts) - len(kept)
        return [Row(target, method, "kl_base", "all", None, None, value, *interval, len(kept), dropped, None)]
