"""What can be known of a model within a second, so that a mistake shows now and not after hours of work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.hub import cached_snapshot, download_command
from unidetox.models.adapters import TASKS, adapter_task
from unidetox.models.directories import Place, locate, require_base, require_weights
from unidetox.models.files import check_files
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
    place = locate(name)
    if Path(place.source).is_dir() and not place.gguf:
        check_files(Path(place.source))
    loaded = load_tokenizer(tokenizer or name, options)
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
    _check_quantised(name, config)
    return Known(name, loaded, config)


def _check_weights(name: str, place: Place) -> None:
    """Raise MissingError where only files of this machine may be used and no weights are among them."""
    if place.gguf:
        return
    if Path(place.source).is_dir():
        require_weights(place.source)
    elif place.local:
        try:
            snapshot = Path(str(cached_snapshot(name, "model")))
            require_weights(str(snapshot))
            check_files(snapshot)
        except MissingError:
            hint = f"Fetch it whole with `{download_command(name, 'model')}`"
            raise MissingError(f"the Hugging Face cache holds no weights of {name}", hint=hint) from None


def _check_kind(name: str, config: Any, auto: str) -> None:
    """Raise UsageError where a checkpoint says that it was saved as another kind of model."""
    from transformers.models.auto import modeling_auto as known

    saved_as = set(getattr(config, "architectures", None) or ())
    kinds = {
        "AutoModelForCausalLM": known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSequenceClassification": known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "masked": known.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "encoder and decoder": known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    classes = {kind: set(names.values()) for kind, names in kinds.items()}
    others = set().union(*(found for kind, found in classes.items() if kind != auto))
    # What reads in both directions (BERT) has a causal class too, which is right where the configuration says decoder.
    known_as = {kind for kind, names in kinds.items() if config.model_type in names}
    both_ways = {"masked", auto} <= known_as and "encoder and decoder" not in known_as
    undecided = auto == "AutoModelForCausalLM" and both_ways and not getattr(config, "is_decoder", True)
    if undecided or (saved_as & others and not saved_as & classes[auto]):
        kind = ", ".join(sorted(saved_as)) or f"{config.model_type}, which reads in both directions"
        raise UsageError(f"{name} is of another kind of model ({kind})", hint=f"Give a {KINDS[auto]}")


def _check_quantised(name: str, config: Any) -> None:
    """Raise MissingError where the package that reads a quantised checkpoint is not installed, or cannot work here."""
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is None:
        return
    from transformers.quantizers import AutoHfQuantizer

    try:
        AutoHfQuantizer.from_config(quantisation, pre_quantized=True).validate_environment(device_map=None)
    except Exception as exc:  # each method has its own ways to say it
        said = str(exc).strip().splitlines()[0].rstrip(".")
        hint = "Take the full-precision model that it was made of"
        raise MissingError(f"{name} holds quantised weights that cannot be read here ({said})", hint=hint) from exc
