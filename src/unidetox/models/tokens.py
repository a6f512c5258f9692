"""Special tokens of a model, and whether two models speak the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unidetox.core.errors import UsageError

if TYPE_CHECKING:
    from unidetox.models.checking import Known
    from unidetox.models.loading import LM

_SAME_MODEL = "Both must come from the same model, e.g. a model and a fine-tuned copy of it"


def bos_id(tokenizer: Any, config: Any) -> int | None:
    """The token that starts a text: the tokenizer's, else the configuration's, else None."""
    candidates = (getattr(source, "bos_token_id", None) for source in (tokenizer, config))
    return next((token for token in candidates if isinstance(token, int)), None)


def eos_ids(tokenizer: Any, config: Any, generation_config: Any = None) -> tuple[int, ...]:
    """All tokens that end a text, without repeats.

    Args:
        tokenizer: Asked first: its end token is the one to end a training text with.
        config: The model's configuration.
        generation_config: May name several.

    Returns:
        Token ids, empty where nobody names one.
    """
    found: list[Any] = []
    for source in (tokenizer, generation_config, config):
        value = getattr(source, "eos_token_id", None)
        found += list(value) if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))


def pad_id(tokenizer: Any, config: Any) -> int:
    """A token to fill rows with, never looked at: the pad token, else an end token, else 0."""
    pads = (getattr(source, "pad_token_id", None) for source in (tokenizer, config))
    # LLaMA configurations of old say -1 where they mean none; a token that was added may have no embedding.
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(text_config, "vocab_size", None) or float("inf")
    candidates = (*pads, *eos_ids(tokenizer, config))
    return next((token for token in candidates if isinstance(token, int) and 0 <= token < rows), 0)


def start_id(tokenizer: Any, config: Any) -> int | None:
    """The token that a text begins with, be it learnt, sampled or scored: BOS, else the one that ends texts."""
    bos = bos_id(tokenizer, config)
    return next(iter(eos_ids(tokenizer, config)), None) if bos is None else bos


def unreachable_ids(tokenizer: Any, config: Any) -> tuple[int, ...]:
    """The rows of the LM head that no token of the tokenizer stands for: they are never to be sampled."""
    rows = int(getattr(config.get_text_config(), "vocab_size", 0) or 0)
    return tuple(sorted(set(range(rows)).difference(tokenizer.get_vocab().values())))


def check_same_vocabulary(base: LM, other: LM) -> None:
    """Make sure that two models speak the same tokens, so that their logits can be subtracted.

    Raises:
        UsageError: They do not; the message says what differs.
    """
    check_same_tokens(base, other)
    widths = [_logits_width(lm.model) for lm in (base, other)]
    if widths[0] != widths[1]:
        raise UsageError(f"{_differ(base, other)}: {widths[0]} and {widths[1]} logits", hint=_SAME_MODEL)


def check_same_tokens(base: LM | Known, other: LM | Known) -> None:
    """Make sure that the tokenizers of two models are the same.

    Raises:
        UsageError: They are not; the message says what differs.
    """
    ours, theirs = base.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if len(ours) != len(theirs):
        raise UsageError(f"{_differ(base, other)}: {len(ours)} and {len(theirs)} tokens", hint=_SAME_MODEL)
    for token, index in ours.items():
        if theirs.get(token) != index:
            what = f"{token!r} is token {index} and {theirs.get(token, 'none')}"
            raise UsageError(f"{_differ(base, other)}: {what}", hint=_SAME_MODEL)


def _differ(base: LM | Known, other: LM | Known) -> str:
    return f"{base.name} and {other.name} have different vocabularies"


def _logits_width(model: Any) -> int:
    head = model.get_output_embeddings()
    return int(head.weight.shape[0] if head is not None else model.config.get_text_config().vocab_size)
