"""PEFT adapters: load them into their base model, and see that what their files hold finds its place there."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.core import console
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import require_json

if TYPE_CHECKING:
    import torch

TASKS = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSequenceClassification": "SEQ_CLS"}
"""Auto class of transformers -> what PEFT calls its task."""

_BEFORE = "base_model.model."
# What torch.compile, DDP, FSDP and activation checkpointing put into the names of what they wrap.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_NEWER = "Is it complete, and does the installed PEFT know its kind?"


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT still asks transformers by the old name whether gradient checkpointing is on, and is told off for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        yield


def adapter_task(directory: str) -> str | None:
    """What an adapter was trained for, in PEFT's words; None where it does not say."""
    return require_json(Path(directory) / "adapter_config.json").get("task_type")


def load_adapter(directory: str, model: Any) -> Any:
    """Add the adapter in a directory to the weights of its base model.

    Args:
        directory: What `PeftModel.save_pretrained` wrote.
        model: The base model; it is changed.

    Returns:
        The base model, so that the engine meets an ordinary model of a class that it knows, with weights that can be
        trained. The sum of weights is rounded once, as it would be in any other order.

    Raises:
        UsageError: Its weights do not fit the base, some are missing, or it cannot be merged.
    """
    adapted, left_out = _applied(directory, model)
    if left_out:
        console.warn(f"of the adapter {directory} are left out, as its base has no place for them: {_some(left_out)}")
    tied = _untie(adapted.get_base_model())
    try:
        with quiet_peft():
            merged = adapted.merge_and_unload()
    except (ValueError, NotImplementedError) as exc:
        raise UsageError(
            f"the adapter {directory} cannot be merged ({_first(exc)})", hint="Merge it with PEFT"
        ) from exc
    if tied:
        _tie_equals(merged)
    for parameter in merged.parameters():  # PEFT froze them
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    merged.config._name_or_path = merged.name_or_path = directory  # an adapter on top has this one as its base
    return merged


def check_adapter(directory: str, model: Any) -> Any:
    """See that an adapter fits its base model, without computing anything.

    Args:
        directory: What `PeftModel.save_pretrained` wrote.
        model: The base model without memory, on the device ``meta``; it is changed.

    Returns:
        The model as it is with the adapter.

    Raises:
        UsageError: Its weights do not fit the base, or some are missing.
    """
    import torch

    try:
        with torch.device("meta"):
            return _applied(directory, model)[0].unload()
    except UsageError as exc:
        if "meta tensor" not in str(exc.__cause__):
            raise
        return model  # a kind that looks at numbers as it is made: loading will tell


def adapter_weights(directory: str) -> dict[str, torch.Tensor]:
    """All weights of an adapter by the names that they have in its file.

    Raises:
        MissingError: There is no file with them.
        UsageError: It cannot be read.
    """
    from peft.utils import load_peft_weights

    if not any((Path(directory) / file).is_file() for file in ("adapter_model.safetensors", "adapter_model.bin")):
        hint = "Give a complete adapter, or a merged model"
        raise MissingError(f"no weights (adapter_model.safetensors) in the adapter {directory}", hint=hint)
    try:
        return dict(load_peft_weights(directory, device="cpu"))
    except Exception as exc:  # torch and safetensors raise anything for a file that was cut off
        raise UsageError(f"cannot read the weights of the adapter {directory} ({_first(exc)})", hint=_NEWER) from exc


def brought_along(directory: str) -> set[str]:
    """Names of those weights of the base model that an adapter holds whole, e.g. a classifier's head."""
    return {name.removeprefix(_BEFORE) for name in _unwrapped(adapter_weights(directory), set())}


def with_labels(directory: str, config: Any) -> Any:
    """Return the configuration of an adapter: that of its base, and of a classifier the adapter's own labels.

    PEFT saves no labels, only the head: they are those of a ``config.json`` beside it, else the base's, else numbered,
    as many as the head has.
    """
    if adapter_task(directory) != TASKS["AutoModelForSequenceClassification"]:
        return config
    file = Path(directory) / "config.json"
    beside = require_json(file) if file.is_file() else {}
    own = {key: beside[key] for key in ("id2label", "label2id", "problem_type", "function_to_apply") if key in beside}
    own |= {"id2label": {int(index): label for index, label in own["id2label"].items()}} if "id2label" in own else {}
    config = copy.deepcopy(config)
    for key, value in own.items():
        setattr(config, key, value)
    if (count := _labels_of_head(directory, config)) not in (None, config.num_labels):
        config.num_labels = count  # names them anew
    return config


def _labels_of_head(directory: str, config: Any) -> int | None:
    """Return how many labels the head in an adapter has; None where it holds none.

    Which weights are the head's end shows in what grows with the number of labels.
    """
    held = {
        name.removeprefix(_BEFORE): weight for name, weight in _unwrapped(adapter_weights(directory), set()).items()
    }
    two, three = (_shapes(config, labels) for labels in (2, 3))
    return next((len(held[name]) for name, shape in two.items() if shape != three[name] and name in held), None)


def _shapes(config: Any, labels: int) -> dict[str, torch.Size]:
    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    config.num_labels = labels
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return {name: weight.shape for name, weight in model.named_parameters()}


def _applied(directory: str, model: Any) -> tuple[Any, list[str]]:
    """The base model with the adapter around it, not merged, and the names of the weights that have no place there."""
    from peft import PeftModel
    from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    config = _config(directory)
    places = {part for name, _ in model.named_modules() for part in name.split(".")}
    weights = _unwrapped(adapter_weights(directory), places)
    _fit_vocabulary(directory, model, weights, config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what counts is asked for below
            adapted = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(model, config)
            told = set_peft_model_state_dict(adapted, weights)
            expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except KeyError as exc:  # what is to be saved as a whole
        raise UsageError(f"the adapter {directory} is not complete: no weights for {exc}", hint=_NEWER) from exc
    except (ValueError, RuntimeError) as exc:
        hint = "Does base_model_name_or_path in its adapter_config.json name the model that it was trained on?"
        raise UsageError(f"the adapter {directory} does not fit its base model ({_first(exc)})", hint=hint) from exc
    # PEFT's report has all weights of the base in it, too.
    missing = [key for key in told.missing_keys if ".default" in key and key.replace(".default", "") in expected]
    if missing:
        message = f"the adapter {directory} cannot be used: of its weights are missing: {_some(missing)}"
        if told.unexpected_keys:
            message += f"; of its file have no place in the base model: {_some(told.unexpected_keys)}"
        raise UsageError(message, hint=_NEWER)
    # PEFT saves some things twice, under the name of a wrapper too.
    twice = ("modules_to_save", "token_adapter")
    return adapted, [key for key in told.unexpected_keys if not any(part in key.split(".") for part in twice)]


def _config(directory: str) -> Any:
    """An adapter's configuration, of a kind that can be merged; says what of it PEFT does not know."""
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            config = PeftConfig.from_pretrained(directory)
    except (LookupError, TypeError, ValueError) as exc:
        raise UsageError(f"cannot read adapter_config.json of {directory} ({_first(exc)})", hint=_NEWER) from exc
    for warning in said:
        console.warn(f"adapter {directory}: {_first(warning.message)}")
    kind = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    if config.is_prompt_learning or not hasattr(kind, "merge_and_unload"):
        name = getattr(config.peft_type, "value", config.peft_type)
        hint = "Give one that changes weights, e.g. LoRA, or a whole model"
        raise UsageError(f"{directory} is an adapter of the kind {name}, which cannot be merged", hint=hint)
    if getattr(config, "layer_replication", None):
        raise UsageError(f"the adapter {directory} repeats layers of its base", hint="Give a whole model")
    config.inference_mode = True
    return config


def _unwrapped(weights: Mapping[str, torch.Tensor], places: set[str]) -> dict[str, torch.Tensor]:
    """Weights by names without the parts that wrappers of training put in; ``places`` are parts that must stay."""
    strange = _WRAPPERS - places
    return {".".join(part for part in name.split(".") if part not in strange): w for name, w in weights.items()}


def _fit_vocabulary(directory: str, model: Any, weights: Mapping[str, torch.Tensor], config: Any) -> None:
    """Give the embeddings as many rows as the adapter was trained on, where it holds those that the base lacks."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): f"{_BEFORE}{name}." for name, module in model.named_modules()}
    indices = _trained_rows(config)
    have, held = len(embeddings.weight), set[int]()
    rows = max([*indices, 0]) + 1 if max([*indices, 0]) >= have else have
    for module in (embeddings, head) if head is not None else (embeddings,):
        for name, weight in weights.items():
            if not name.startswith(names[id(module)]):
                continue
            if name.endswith("lora_embedding_A"):
                rows = weight.shape[1]
            elif name.endswith("lora_B.weight") and module is head:
                rows = weight.shape[0]
            elif "lora_" not in name and name.endswith(".weight") and weight.dim() == 2:
                rows = weight.shape[0]
                held.add(id(module.weight))
    if rows == have:
        return
    needed = {id(embeddings.weight)} | ({id(head.weight)} if head is not None else set())
    if rows > have and not (needed <= held or (len(needed) == 1 and indices >= set(range(have, rows)))):
        message = f"the adapter {directory} was trained on a vocabulary of {rows} rows, its base model has {have}"
        raise UsageError(message, hint="Save it again with save_embedding_layers=True, or resize its base model")
    model.resize_token_embeddings(rows, mean_resizing=False)


def _trained_rows(config: Any) -> set[int]:
    """Rows of the embeddings that an adapter holds one by one."""
    found = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    lists = found.values() if isinstance(found, dict) else [found]
    return {int(index) for rows in lists for index in rows}


def _innermost(module: Any) -> Any:
    """The layer that PEFT wrapped."""
    while (inner := getattr(module, "base_layer", getattr(module, "original_module", None))) is not None:
        module = inner
    return module


def _untie(model: Any) -> bool:
    """Give a head that shares its weights weights of its own, where an adapter changes it or the embeddings."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or (embeddings is _innermost(embeddings) and head is _innermost(head)):
        return False
    inner = _innermost(head)
    tied = inner.weight is _innermost(embeddings).weight
    if tied:
        inner.weight = type(inner.weight)(inner.weight.detach().clone())
    return tied


def _tie_equals(model: Any) -> None:
    """Share the weights of head and embeddings again where they are still the same, else note that they differ."""
    import torch

    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    same = torch.equal(embeddings.weight, head.weight)
    for config in (model.config, model.config.get_text_config()):  # PEFT may have changed it
        config.tie_word_embeddings = same
    if same:
        head.weight = embeddings.weight
    else:
        model.all_tied_weights_keys = {}


def _some(names: Sequence[str]) -> str:
    """A few names of weights, and how many there are."""
    first = names[0].removeprefix(_BEFORE).replace(".default", "")
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def _first(exc: Any) -> str:
    """The first line of a message that has something to say."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    # torch begins with a heading
    return next((line for line in lines if not line.endswith(":")), type(exc).__name__)[:300].rstrip(".")
