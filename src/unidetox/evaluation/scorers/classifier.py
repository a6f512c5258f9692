"""Any Hugging Face sequence classifier as a scorer."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.evaluation.scorers.interface import Scorer, find_label
from unidetox.evaluation.scorers.known import known_scorer, repository_of
from unidetox.models import Classifier, LoadOptions, check_classifier, fingerprint, load_classifier
from unidetox.models.labels import Activation
from unidetox.models.memory import free_memory, model_bytes
from unidetox.models.options import CLASSIFIER_DEFAULTS

if TYPE_CHECKING:
    import torch

Side = Literal["left", "right"]
_ACTIVATIONS: Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": lambda logits: logits.sigmoid(),
    "softmax": lambda logits: logits.softmax(-1),
    "none": lambda logits: logits,
}


class ClassifierScorer(Scorer):
    """Scores texts with a sequence classifier: distinct texts once, batched by length under a token budget.

    Args:
        source: A directory or a Hub id; or a classifier that is loaded already.
        label: Which of its labels is the toxicity, whatever the case of its letters; None for the first.
        options: How to load it.
        activation: What makes scores of its logits; None for what `KnownScorer` or its configuration say.
        tokenizer: Where its tokenizer is, if not with it.
        tokens_per_batch: At most so many tokens, padding included, go through the classifier at once.
    """

    def __init__(
        self,
        source: str | Classifier,
        label: str | None = None,
        options: LoadOptions = CLASSIFIER_DEFAULTS,
        *,
        activation: Activation | None = None,
        tokenizer: str | None = None,
        tokens_per_batch: int = 4096,
    ) -> None:
        if isinstance(source, Classifier):
            self.classifier, source = source, source.name
        known = known_scorer(source)
        if known is not None:
            activation, tokenizer = activation or known.activation, tokenizer or known.tokenizer
        self.source, self.label, self.options = repository_of(source), label, options
        self.activation, self.tokenizer, self.context = activation, tokenizer, known.context if known else None
        self.tokens_per_batch = tokens_per_batch

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, loaded when it is first asked for."""
        loaded = load_classifier(self.source, self.options, self.tokenizer)
        return loaded if self.activation is None else replace(loaded, activation=self.activation)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's files, and of its tokenizer's where they are elsewhere."""
        return " ".join(map(fingerprint, [self.source, *([self.tokenizer] if self.tokenizer else [])]))

    @property
    def multi_label(self) -> bool:
        """Whether each label has a score of its own, in place of one soft-max over all."""
        return self.classifier.activation != "softmax"

    def check(self) -> None:
        """See that model, tokenizer and label are there."""
        labels = check_classifier(self.source, self.options, self.tokenizer)
        if self.label is not None:
            find_label(labels, self.label, self.source)

    def close(self) -> None:
        """Give back the classifier's memory."""
        if "classifier" in vars(self):
            size = model_bytes(self.classifier.model)
            del self.classifier
            free_memory(size)

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return every label's score, as `Scorer.score`; an empty text is scored as the empty string."""
        distinct = list(dict.fromkeys(texts))
        encoded = self._encode(distinct)
        scores: dict[str, dict[str, float]] = {}
        for batch in self._batches([len(ids) for ids in encoded]):
            rows = self._scores([encoded[i] for i in batch])
            scores |= {distinct[i]: row for i, row in zip(batch, rows, strict=True)}
        return [scores[text] for text in texts]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize with the classifier's special tokens; cut what is too long and count it."""
        tokenizer, limit = self.classifier.tokenizer, min(max_tokens(self.classifier), self.context or sys.maxsize)
        encoded: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"] if texts else []
        for i, ids in enumerate(encoded):
            if len(ids) > limit:
                self.n_truncated += 1
                encoded[i] = tokenizer(texts[i], truncation=True, max_length=limit)["input_ids"]
        rows = [ids or [_filler(tokenizer)] for ids in encoded]
        self._require_known(max(map(max, rows), default=0))
        return rows

    def _require_known(self, highest: int) -> None:
        """Raise UsageError where a text has a token that the model has no embedding of."""
        rows = _embeddings(self.classifier.model)
        if rows is not None and highest >= rows:
            token = self.classifier.tokenizer.convert_ids_to_tokens(highest)
            raise UsageError(
                f"the classifier {self.classifier.name} has {rows} embeddings and none for its tokenizer's token "
                f"{token!r} ({highest})",
                hint="Use the tokenizer that it was trained with",
            )

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield indices, longest first, so that a memory error comes at the start and padding stays small."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            full = batch and lengths[batch[0]] * (len(batch) + 1) > self.tokens_per_batch
            if full or (batch and lengths[i] < lengths[batch[0]] and self._padding is None):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @cached_property
    def _padding(self) -> Side | None:
        """The side on which padding changes no score, tried with two short texts; None for neither.

        Models differ in what they take for a text's end, and in what they number positions from.
        """
        import torch

        limit = max_tokens(self.classifier)
        short, long = (self.classifier.tokenizer(text)["input_ids"][:limit] for text in ("a", "a b c d e f g h"))
        if not short:
            return None
        alone = self._logits([short])[0]
        # Rounding differs with the width, by so much at the most; what is wrong differs by the size of the logits.
        nearly = torch.finfo(self.classifier.model.dtype).eps ** 0.6 * float(alone.abs().max())
        sides: tuple[Side, ...] = ("right", "left")
        for side in sides:
            if float((self._logits([short, long], side)[0] - alone).abs().max()) <= nearly:
                return side
        return None

    def _scores(self, rows: list[list[int]]) -> list[dict[str, float]]:
        from unidetox.decoding.memory import is_out_of_memory

        try:
            logits = self._logits(rows, (len(set(map(len, rows))) > 1 and self._padding) or "right")
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            if len(rows) == 1:
                name = self.classifier.name
                raise UniDetoxError(
                    f"no memory for one text in the classifier {name}", hint="try --device cpu"
                ) from None
            half = len(rows) // 2
            return self._scores(rows[:half]) + self._scores(rows[half:])
        values = _ACTIVATIONS[self.classifier.activation](logits)
        if bool(values.isnan().any()):
            raise UniDetoxError(f"the classifier {self.classifier.name} answers NaN", hint="use another --scorer")
        return [dict(zip(self.classifier.labels, row, strict=True)) for row in values.tolist()]

    def _logits(self, rows: list[list[int]], side: Side = "right") -> torch.Tensor:
        """Return float32 logits ``[len(rows), labels]``."""
        import torch

        from unidetox.decoding.kernels import inference_kernels

        model, width = self.classifier.model, max(len(row) for row in rows)
        with torch.inference_mode(), inference_kernels(model.device), _pad_token(model, rows) as pad:
            ids = torch.full((len(rows), width), pad, dtype=torch.long)
            mask = torch.zeros((len(rows), width), dtype=torch.long)
            for i, row in enumerate(rows):
                place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
                ids[i, place], mask[i, place] = torch.tensor(row), 1
            try:
                found = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            except (TypeError, ValueError, LookupError, AttributeError) as exc:
                said = str(exc).partition("\n")[0][:200]
                hint = "Is its config.json right? Some models need its pad_token_id"
                raise UsageError(
                    f"the classifier {self.classifier.name} cannot read texts ({said})", hint=hint
                ) from exc
        logits: torch.Tensor = found.float().cpu()
        return logits


@contextlib.contextmanager
def _pad_token(model: Any, rows: list[list[int]]) -> Iterator[int]:
    """The token to fill rows with, of which the model's configuration knows meanwhile.

    Classifiers on a decoder read the last token that is not this one. Where the configuration names none, or one
    without an embedding, that is the last of all; so it becomes any token that ends no row.
    """
    config = model.config.get_text_config()
    known, embeddings = getattr(config, "pad_token_id", None), _embeddings(model)
    valid = isinstance(known, int) and known >= 0 and (embeddings is None or known < embeddings)
    last = {row[-1] for row in rows}
    config.pad_token_id = known if valid else next(i for i in itertools.count() if i not in last)
    try:
        yield config.pad_token_id
    finally:
        config.pad_token_id = known


def _embeddings(model: Any) -> int | None:
    """Return how many tokens a model has embeddings of; None where it makes them in another way."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        return None


def max_tokens(classifier: Classifier) -> int:
    """Return how many tokens, special ones included, the classifier can read."""
    from unidetox.decoding.sequences import max_positions

    return int(min(max_positions(classifier.model) or 512, classifier.tokenizer.model_max_length))


def _filler(tokenizer: object) -> int:
    """Return the token that stands for an empty text where the tokenizer adds no special token by itself."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
    return next((found for name in names if (found := getattr(tokenizer, name, None)) is not None), 0)
