"""What can be known of a model within a second, so that a mistake shows now and not after hours of work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.hub import cached_snapshot, download_command
from unidetox.models.adapters import TASKS, adapter_task
from unidetox.models.directories import Place, locate, require_base, require_weights
from unidetox.models.labels import activation_of, labels_of
from unidetox.models.loading import KINDS, load_config, load_skeleton, load_tokenizer
from unidetox.models.options import DEFAULTS, LoadOptions


@dataclass(frozen=True)
class Known:
    """What is known of a model without its weights.

    Attributes:
        name: A directory or a Hub id.
        tokenizer: Its tokenizer.
        config: Its configuration; of an adapter, its base model's.
    """

    name: str
    tokenizer: Any
    config: Any


def check_lm(name: str | Path, options: LoadOptions = DEFAULTS) -> Known:
    """See that a causal language model is there with all its parts, without reading its weights.

    Args:
        name: A directory or a Hub id.
        options: How to load it.

    Raises:
        MissingError: The model, its tokenizer or its weights are not there.
        UsageError: It is there but is no causal language model.
    """
    return _check(str(name), "AutoModelForCausalLM", options)


def check_classifier(name: str | Path, options: LoadOptions = DEFAULTS, tokenizer: str | None = None) -> list[str]:
    """See that a sequence classifier is there with all its parts, and return its labels.

    Args:
        name: A directory or a Hub id.
        options: How to load it.
        tokenizer: Where its tokenizer is, if not with it.

    Raises:
        MissingError: The model, its tokenizer or its weights are not there.
        UsageError: It is there but is no sequence classifier.
    """
    config = _check(str(name), "AutoModelForSequenceClassification", options, tokenizer=tokenizer).config
    labels = labels_of(config)
    activation_of(config, labels, str(name))
    return labels


def _check(name: str, auto: str, options: LoadOptions, *, has_head: bool = True, tokenizer: str | None = None) -> Known:
    loaded = load_tokenizer(tokenizer or name, options)
    place = locate(name)
    if (base := require_base(place.source)) is not None:
        task = adapter_task(place.source)
        if task not in (TASKS[auto], None):
            raise UsageError(f"the adapter {name} is for another task ({task})", hint=f"Give a {KINDS[auto]}")
        _check(base, auto, options, has_head=task != "SEQ_CLS", tokenizer=tokenizer)
        load_skeleton(name, auto, options)
        return Known(name, loaded, load_config(name, options))
    _check_weights(name, place)
    config = load_config(name, options)
    if has_head:
        _check_kind(name, config, auto)
    return Known(name, loaded, config)


def _check_weights(name: str, place: Place) -> None:
    """Raise MissingError where only files of this machine may be used and no weights are among them."""
    if Path(place.source).is_dir():
        require_weights(place.source)
    elif place.local:
        try:
            require_weights(str(cached_snapshot(name, "model")))
        except MissingError:
            hint = f"Fetch it whole with `{download_command(name, 'model')}`"
            raise MissingError(f"the Hugging Face cache holds no weights of {name}", hint=hint) from None


def _check_kind(name: str, config: Any, auto: str) -> None:
    """Raise UsageError where a checkpoint says that it was saved as another kind of model."""
    from transformers.models.auto import modeling_auto as known

    saved_as = set(getattr(config, "architectures", None) or ())
    classes = {
        "AutoModelForCausalLM": set(known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()),
        "AutoModelForSequenceClassification": set(known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()),
    }
    others = set().union(*(found for kind, found in classes.items() if kind != auto))
    if saved_as & others and not saved_as & classes[auto]:
        raise UsageError(f"{name} is of another kind of model ({', '.join(saved_as)})", hint=f"Give a {KINDS[auto]}")
