"""Language models, tokenizers, adapters and classifiers from a directory or the Hub."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidetox.core import console
from unidetox.core.errors import MissingError, UniDetoxError, UsageError
from unidetox.core.hub import cached_snapshot, explain_hub_error
from unidetox.core.resolve import is_local
from unidetox.models.adapters import brought_along, check_adapter, load_adapter, with_labels
from unidetox.models.devices import choose_dtype
from unidetox.models.directories import (
    Place,
    lacks_tokenizer,
    locate,
    read_unidetox,
    require_base,
    require_weights,
)  # fmt: skip
from unidetox.models.files import check_files, stored_dtype_name
from unidetox.models.labels import Activation, activation_of, labels_of
from unidetox.models.options import CLASSIFIER_DEFAULTS, DEFAULTS, LoadOptions
from unidetox.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

    from unidetox.decoding import LogitSource

KINDS = {"AutoModelForCausalLM": "causal language model", "AutoModelForSequenceClassification": "sequence classifier"}


@dataclass
class LM:
    """A causal language model with its tokenizer, ready to be asked.

    Attributes:
        model: The Hugging Face model, in evaluation mode on ``device``.
        tokenizer: Its tokenizer.
        name: The name or path that it was loaded by.
        device: Where the weights are.
        dtype: The dtype of the weights.
        unidetox: Content of the ``unidetox.json`` beside the weights, None for a model that is not ours.
        prefix: What it reads before every prompt, right after BOS; no part of what it is asked to continue.
        rule: What says the next token's scores in its place, where a method acts while decoding.
    """

    model: Any
    tokenizer: Any
    name: str
    device: torch.device
    dtype: torch.dtype
    unidetox: dict[str, Any] | None = None
    prefix: str = ""
    rule: LogitSource | None = None

    @property
    def source(self) -> LogitSource:
        """What says the next token's scores: the rule where there is one, else the model."""
        from unidetox.decoding import lm

        return self.rule or lm(self.model)


@dataclass
class Classifier:
    """A sequence classifier that gives a score to each label.

    Attributes:
        model: The Hugging Face model, in evaluation mode.
        tokenizer: Its tokenizer.
        name: The name or path that it was loaded by.
        labels: The label names in the order of the logits.
        activation: What makes scores of its logits.
    """

    model: Any
    tokenizer: Any
    name: str
    labels: list[str]
    activation: Activation


def load_lm(name: str | Path, options: LoadOptions = DEFAULTS) -> LM:
    """Load a causal language model and its tokenizer.

    A directory with a PEFT adapter loads its base model and merges the adapter into it in memory.

    Args:
        name: A local directory or a Hub id, perhaps ``ID@REVISION``.
        options: How to load it.

    Raises:
        MissingError: The model or its tokenizer is not there, or access is not granted.
        UsageError: It is there but is no causal language model.
    """
    name = str(name)
    device, dtype = options.resolve()
    if isinstance(options.dtype, str):
        _announce_dtype(options.dtype, device)
    tokenizer = load_tokenizer(name, options)
    model = _load_model(name, "AutoModelForCausalLM", dtype, options).to(device).eval()
    return LM(model, tokenizer, name, device, dtype, read_unidetox(name))


def load_classifier(
    name: str | Path, options: LoadOptions = CLASSIFIER_DEFAULTS, tokenizer: str | None = None
) -> Classifier:
    """Load a sequence classifier and its tokenizer.

    Args:
        name: A local directory or a Hub id, perhaps ``ID@REVISION``, e.g. ``unitary/toxic-bert``.
        options: How to load it.
        tokenizer: Where its tokenizer is, if not with it.

    Raises:
        MissingError: The model or its tokenizer is not there, or access is not granted.
        UsageError: It is there but is no sequence classifier.
    """
    name = str(name)
    device, dtype = options.resolve()
    loaded = load_tokenizer(tokenizer or name, options)
    model = _load_model(name, "AutoModelForSequenceClassification", dtype, options).to(device).eval()
    labels = labels_of(model.config)
    return Classifier(model, loaded, name, labels, activation_of(model.config, labels, name))


def load_tokenizer(name: str | Path, options: LoadOptions = DEFAULTS) -> Any:
    """Load a tokenizer from a directory or a Hub id; an adapter without one takes that of its base model.

    Raises:
        MissingError: There is none.
    """
    name = str(name)
    place = locate(name)
    if not place.gguf and lacks_tokenizer(place.source):
        if (base := require_base(place.source)) is not None:
            return load_tokenizer(base, options)
        raise MissingError(f"no tokenizer in {name}", hint="Copy tokenizer.json and tokenizer_config.json there")
    tokenizer = _as_its_file_says(_from_pretrained("AutoTokenizer", name, place, options), name, place, options)
    # Where the files are missing, transformers makes an empty tokenizer of the model's class without a word.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise MissingError(f"no tokenizer with {name}", hint="Use a model directory or Hub id that has one")
    return tokenizer


_PROBES = (
    "In 1999 they're 12,345.67 of 2020", "  two  spaces\n\nNEW Lines\t", "caf\u00e9 \u2460 \u4f60\u597d", "x=a_b->c();",
)  # fmt: skip


def _as_its_file_says(tokenizer: Any, name: str, place: Place, options: LoadOptions) -> Any:
    """Return a tokenizer that reads texts as its tokenizer.json does, where its class has another idea of them."""
    if place.gguf:
        return tokenizer
    from transformers.utils import cached_file

    missing_ok = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(place.source, "tokenizer.json", **place.arguments, **missing_ok)
    if file is None or not Path(file).is_file():
        return tokenizer
    from tokenizers import Tokenizer

    with _loading(name):
        its_own = Tokenizer.from_file(str(file))
    ours = tokenizer(list(_PROBES), add_special_tokens=False, verbose=False)["input_ids"]
    if ours == [its_own.encode(text, add_special_tokens=False).ids for text in _PROBES]:
        return tokenizer
    console.detail(f"{name}: read as its tokenizer.json says, not as {type(tokenizer).__name__} would")
    return _from_pretrained("PreTrainedTokenizerFast", name, place, options)


@functools.cache
def _announce_dtype(name: str, device: torch.device) -> None:
    """Say once what is computed in, and why."""
    dtype, reason = choose_dtype(name, device)
    console.info(f"computing in {str(dtype).removeprefix('torch.')} on {device} ({reason})")


def saved_dtype(name: str | Path, options: LoadOptions = DEFAULTS) -> torch.dtype:
    """The dtype in which a checkpoint's weights are stored, as its files and else its configuration say; else float32.

    Args:
        name: A local directory or a Hub id, perhaps ``ID@REVISION``; an adapter counts as its base model.
        options: How to load it.
    """
    import torch

    place = locate(str(name))
    if place.gguf:
        return torch.float16  # quantised; that is what its numbers were rounded from, or more
    if (base := require_base(place.source)) is not None:
        return saved_dtype(base, options)
    folder = Path(place.source) if Path(place.source).is_dir() else cached_snapshot(str(name), "model")
    if folder is not None and (stored := stored_dtype_name(folder)) is not None:
        return getattr(torch, stored)  # type: ignore[no-any-return]
    dtype = load_config(name, options).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def load_config(name: str | Path, options: LoadOptions = DEFAULTS) -> Any:
    """Load a model's configuration.

    Args:
        name: A local directory or a Hub id, perhaps ``ID@REVISION``; an adapter has its base's, with its own labels.
        options: How to load it.

    Raises:
        MissingError: It is not there.
        UsageError: It cannot be read.
    """
    place = locate(str(name))
    if (base := require_base(place.source)) is not None:
        config = load_config(base, options)
        with _loading(str(name)):
            return with_labels(place.source, config)
    return _from_pretrained("AutoConfig", str(name), place, options)


def load_skeleton(name: str, auto: str, options: LoadOptions = DEFAULTS, config: Any = None) -> Any:
    """Make a model without memory: shapes and names of its weights, with those of its adapters.

    Args:
        name: A local directory or a Hub id, perhaps ``ID@REVISION``.
        auto: One of `KINDS`.
        options: How to load it.
        config: Its configuration; read where left out.

    Raises:
        MissingError: A part of it is not there.
        UsageError: It cannot be read, or an adapter does not fit its base.
    """
    import torch
    import transformers

    place, config = locate(name), config or load_config(name, options)
    if (base := require_base(place.source)) is not None:
        model = load_skeleton(base, auto, options, config)
        with _loading(name):
            return check_adapter(place.source, model)
    with _loading(name), torch.device("meta"):
        return getattr(transformers, auto).from_config(config, trust_remote_code=options.trust_remote_code)


def _load_model(
    name: str, auto: str, dtype: torch.dtype, options: LoadOptions, given: Set[str] = frozenset(), config: Any = None
) -> Any:
    """A model of one of transformers' auto classes; refuses one whose head would be made up at random.

    What is ``given`` may be missing or of another shape: an adapter brings it along, and labels in its ``config``.
    """
    place = locate(name)
    if (base := require_base(place.source)) is not None:
        config = config or load_config(name, options)
        model = _load_model(base, auto, dtype, options, given | brought_along(place.source), config)
        with _loading(name):
            return load_adapter(place.source, model)
    if Path(place.source).is_dir() and not place.gguf:
        check_files(Path(place.source))
        require_weights(place.source)
    adapters = {"local_files_only": place.local}  # else it asks the Hub for half a minute
    more = {"dtype": dtype, "adapter_kwargs": adapters, "output_loading_info": True}
    if config is not None:
        more |= {"config": config, "ignore_mismatched_sizes": True}
    model, notes = _from_pretrained(auto, name, place, options, **more)
    missing = sorted({*notes["missing_keys"], *(key[0] for key in notes["mismatched_keys"])} - given)
    if missing:
        what = KINDS[auto]
        raise UsageError(f"{name} is not a complete {what}: no weights for {missing[0]}", hint=f"Give a {what}")
    if unused := sorted(notes["unexpected_keys"]):
        what = (
            f"{len(unused)} of its stored tensors ({unused[0]}, ...)" if len(unused) > 1 else f"its stored {unused[0]}"
        )
        console.warn(f"{name}: {what} are not used: its config.json does not speak of them")
    _check_numbers(model, name)
    return _unpacked(model) if place.gguf else model


def _unpacked(model: Any) -> Any:
    """Return a model read from a GGUF file as an ordinary one: its weights are de-quantised, so its notes go too."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    return model


def _check_numbers(model: Any, name: str) -> None:
    """See that the weights are numbers.

    Raises:
        UniDetoxError: One is not.
    """
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.detach().abs().amax().isfinite():
            what = f"{name} is broken: {key} holds values that are no numbers (NaN or infinite)"
            raise UniDetoxError(what, hint="Make, fetch or copy the checkpoint again")


def _from_pretrained(auto: str, name: str, place: Place, options: LoadOptions, **more: Any) -> Any:
    """What one of transformers' auto classes makes of the files at a place."""
    with _loading(f"the GGUF file {Path(place.source) / place.gguf}" if place.gguf else name):
        import transformers

        # The bar of the reader of GGUF files knows no terminal.
        with contextlib.redirect_stderr(io.StringIO()) if place.gguf else contextlib.nullcontext():
            return getattr(transformers, auto).from_pretrained(
                place.source, trust_remote_code=options.trust_remote_code, **place.arguments, **more
            )


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Quiet while the libraries load ``name``, and one line to act on where they fail."""
    try:
        with quiet_transformers():
            yield
    except Exception as exc:  # whatever a library makes of files that are cut off, of another kind or version
        from unidetox.decoding.memory import is_out_of_memory

        if isinstance(exc, UniDetoxError) or is_out_of_memory(exc):
            raise
        raise _explain(exc, name) from exc


def _explain(exc: Exception, name: str) -> UniDetoxError:
    text = str(exc)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(exc).__name__)[:300].rstrip(".")
    if "trust_remote_code" in text:
        hint = "If you trust its authors, add --trust-remote-code"
        return UsageError(f"{name} needs Python code of its own", hint=hint)
    if "Unrecognized configuration class" in text:
        return UsageError(f"{name} is of another kind of model", hint=f"Needed is a {' or a '.join(KINDS.values())}")
    if isinstance(exc, ImportError):
        return MissingError(f"{name} needs a package that is not installed ({first})", hint="Install it with pip")
    if isinstance(exc, OSError) and not is_local(name):
        return explain_hub_error(exc, name, "model")
    if type(exc) is Exception:  # of the package tokenizers
        hint = "Is it complete? If a newer version made it, upgrade transformers and tokenizers"
        return UsageError(f"cannot read the tokenizer of {name} ({first})", hint=hint)
    return UsageError(f"cannot load {name} ({first})", hint="Is it complete, and of a kind that transformers knows?")
