"""Any Hugging Face sequence classifier as a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from unidetox.core.errors import UniDetoxError
from unidetox.evaluation.scorers.interface import Scorer, find_label
from unidetox.models import Classifier, LoadOptions, check_classifier, fingerprint, load_classifier
from unidetox.models.memory import free_memory, model_bytes
from unidetox.models.options import CLASSIFIER_DEFAULTS

if TYPE_CHECKING:
    import torch


class ClassifierScorer(Scorer):
    """Scores texts with a sequence classifier: distinct texts once, batched by length under a token budget.

    Args:
        source: A directory or a Hub id; or a classifier that is loaded already.
        label: Which of its labels is the toxicity, whatever the case of its letters; None for the first.
        options: How to load it.
        tokens_per_batch: At most so many tokens, padding included, go through the classifier at once.
    """

    def __init__(
        self,
        source: str | Classifier,
        label: str | None = None,
        options: LoadOptions = CLASSIFIER_DEFAULTS,
        *,
        tokens_per_batch: int = 4096,
    ) -> None:
        if isinstance(source, Classifier):
            self.classifier, source = source, source.name
        self.source, self.label, self.options = source, label, options
        self.tokens_per_batch = tokens_per_batch

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, loaded when it is first asked for."""
        return load_classifier(self.source, self.options)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's files."""
        return fingerprint(self.source)

    @property
    def multi_label(self) -> bool:
        """Whether each label has a sigmoid of its own, in place of one soft-max over all."""
        return self.classifier.multi_label

    def check(self) -> None:
        """See that model, tokenizer and label are there."""
        labels = check_classifier(self.source, self.options)
        if self.label is not None:
            find_label(labels, self.label, self.source)

    def close(self) -> None:
        """Give back the classifier's memory."""
        if "classifier" in vars(self):
            size = model_bytes(self.classifier.model)
            del self.classifier
            free_memory(size)

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return every label's probability, as `Scorer.score`; an empty text is scored as the empty string."""
        distinct = list(dict.fromkeys(texts))
        encoded = self._encode(distinct)
        scores: dict[str, dict[str, float]] = {}
        for batch in self._batches([len(ids) for ids in encoded]):
            rows = self._probabilities([encoded[i] for i in batch])
            scores |= {distinct[i]: row for i, row in zip(batch, rows, strict=True)}
        return [scores[text] for text in texts]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize with the classifier's special tokens; cut what is too long and count it."""
        tokenizer, limit = self.classifier.tokenizer, max_tokens(self.classifier)
        encoded: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"] if texts else []
        for i, ids in enumerate(encoded):
            if len(ids) > limit:
                self.n_truncated += 1
                encoded[i] = tokenizer(texts[i], truncation=True, max_length=limit)["input_ids"]
        return [ids or [_filler(tokenizer)] for ids in encoded]

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield indices, longest first, so that a memory error comes at the start and padding stays small."""
        one_by_one = (
            self.classifier.model.config.pad_token_id is None and self.classifier.tokenizer.pad_token_id is None
        )
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            if batch and (one_by_one or lengths[batch[0]] * (len(batch) + 1) > self.tokens_per_batch):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _probabilities(self, rows: list[list[int]]) -> list[dict[str, float]]:
        from unidetox.decoding.memory import is_out_of_memory

        try:
            logits = self._logits(rows)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            if len(rows) == 1:
                name = self.classifier.name
                raise UniDetoxError(
                    f"no memory for one text in the classifier {name}", hint="try --device cpu"
                ) from None
            half = len(rows) // 2
            return self._probabilities(rows[:half]) + self._probabilities(rows[half:])
        values = logits.sigmoid() if self.classifier.multi_label else logits.softmax(-1)
        if bool(values.isnan().any()):
            raise UniDetoxError(f"the classifier {self.classifier.name} answers NaN", hint="use another --scorer")
        return [dict(zip(self.classifier.labels, row, strict=True)) for row in values.tolist()]

    def _logits(self, rows: list[list[int]]) -> torch.Tensor:
        """Return float32 logits ``[len(rows), labels]``."""
        import torch

        from unidetox.decoding.kernels import inference_kernels

        model, tokenizer = self.classifier.model, self.classifier.tokenizer
        pad = next((p for p in (model.config.pad_token_id, tokenizer.pad_token_id) if p is not None), 0)
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode(), inference_kernels(model.device):
            logits: torch.Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        return logits.float().cpu()


def max_tokens(classifier: Classifier) -> int:
    """Return how many tokens, special ones included, the classifier can read."""
    from unidetox.decoding.sequences import max_positions

    return int(min(max_positions(classifier.model.config) or 512, classifier.tokenizer.model_max_length))


def _filler(tokenizer: object) -> int:
    """Return the token that stands for an empty text where the tokenizer adds no special token by itself."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
    return next((found for name in names if (found := getattr(tokenizer, name, None)) is not None), 0)
