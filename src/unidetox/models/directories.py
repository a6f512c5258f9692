"""Where a model is: a directory that is checked before any library looks at it, or a Hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unidetox.core import console
from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import require_json
from unidetox.core.hub import cached_snapshot, explain_hub_error, is_offline, require_reachable
from unidetox.core.resolve import at_revision, is_local, resolve_source, split_revision

RULE_FILE = "detox.json"
"""What a directory holds in place of weights where a method acts while decoding."""

_CONFIGS = ("config.json", "adapter_config.json")
_WEIGHTS = ("*.safetensors", "*.bin")
_ADAPTER_FILES = ["*.json", "*.model", "*.txt", "*.jinja", *_WEIGHTS]
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip


class Place(NamedTuple):
    """Where a model is.

    Attributes:
        source: A directory or a Hub id.
        revision: Branch, tag or commit of a Hub id; None for its main branch.
        local: Whether only files of this machine may be used.
    """

    source: str
    revision: str | None
    local: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``from_pretrained`` must be told besides the source."""
        return {"revision": self.revision or "main", "local_files_only": self.local}


def locate(name: str) -> Place:
    """Find a model without loading it.

    Args:
        name: A directory or a Hub id, perhaps ``ID@REVISION``.

    Raises:
        MissingError: Nothing is there; said within seconds, where the Hub client would try for half a minute.
    """
    if not is_local(name):
        place = Place(*split_revision(name), _only_cached(name))
        adapter = _fetched_adapter(name, place)
        return Place(adapter, None, True) if adapter else place
    path = Path(name).expanduser()
    if not path.is_dir():
        state = "is a file, not a directory" if path.exists() else "does not exist"
        raise MissingError(f"model {name} {state}", hint="Give a model directory or a Hub id: ID or ID@REVISION")
    if not any((path / file).is_file() for file in _CONFIGS):
        raise MissingError(f"no config.json in {path}", hint="Give a model directory in the Hugging Face format")
    return Place(str(path), None, True)


def _only_cached(name: str) -> bool:
    snapshot = cached_snapshot(name, "model")
    cached = snapshot is not None and any((snapshot / file).is_file() for file in _CONFIGS)
    if cached and is_offline():
        return True
    try:
        require_reachable(name, "model")
    except MissingError:
        if not cached:
            raise
        console.detail(f"the Hugging Face Hub cannot be reached, taking {name} from the local cache")
        return True
    return False


def _fetched_adapter(name: str, place: Place) -> str | None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(place.source, "adapter_config.json", **place.arguments)
        return str(snapshot_download(place.source, allow_patterns=_ADAPTER_FILES, **place.arguments))
    except EntryNotFoundError:
        return None
    except Exception as exc:
        raise explain_hub_error(exc, name, "model") from exc


def require_weights(source: str) -> None:
    """Raise MissingError where a model directory has no weights."""
    if Path(source).is_dir() and not any(any(Path(source).glob(pattern)) for pattern in _WEIGHTS):
        raise MissingError(f"no weights (*.safetensors) in {source}", hint="Give a complete model directory")


def lacks_tokenizer(source: str) -> bool:
    """Whether a model directory has no tokenizer; False for a Hub id, whose files are not known yet."""
    return Path(source).is_dir() and not any((Path(source) / file).is_file() for file in _TOKENIZERS)


def adapter_base(source: str | Path) -> str | None:
    """The base model that an adapter directory names, with its revision; None for anything else.

    Raises:
        UsageError: It is an adapter and names none.
    """
    file = Path(source) / "adapter_config.json"
    if not file.is_file():
        return None
    content = require_json(file)
    base = str(content.get("base_model_name_or_path") or "")
    if not base:
        raise UsageError(f"{file} does not name its base model", hint="Set base_model_name_or_path in it")
    beside = Path(source).expanduser() / base  # an absolute path stays what it is
    if any((beside / file).is_file() for file in _CONFIGS):
        return str(beside.resolve())
    return base if is_local(base) else at_revision(base, content.get("revision"))


def require_base(source: str | Path) -> str | None:
    """The base model that an adapter directory names, see `adapter_base`; it is there.

    Raises:
        MissingError: It is not; the message says who named it.
        UsageError: The adapter names none, or comes back to itself.
    """
    base = adapter_base(source)
    if base is None:
        return None
    file = Path(source) / "adapter_config.json"
    hint = f"Set base_model_name_or_path in {file} to where it is now"
    seen, link = {Path(source).expanduser().resolve()}, adapter_base(source)
    while link is not None and Path(link).is_dir():
        if Path(link).resolve() in seen:
            raise UsageError(f"the adapter {source} has itself as its base model ({base})", hint=hint)
        seen.add(Path(link).resolve())
        link = adapter_base(link)
    try:
        locate(base)
    except MissingError as exc:
        raise MissingError(f"the base model of the adapter {source} is missing ({exc.message})", hint=hint) from exc
    return base


def read_unidetox(source: str) -> dict[str, Any] | None:
    """The content of the ``unidetox.json`` beside a model's weights; None for a model that is not ours."""
    file = Path(source).expanduser() / "unidetox.json"
    return require_json(file) if file.is_file() else None


@dataclass(frozen=True)
class Rule:
    """What a ``detox.json`` says.

    Attributes:
        method: The method that acts.
        models: Directories or Hub ids; the first one's tokenizer counts.
        options: The method's own.
    """

    method: str
    models: tuple[str, ...]
    options: dict[str, Any]


def read_rule(source: str | Path) -> Rule | None:
    """Read a directory's ``detox.json``; None for an ordinary model.

    Paths in it are relative to the directory, so that a run may move as a whole.

    Raises:
        UsageError: It does not say what it must.
        MissingError: A model that it names is not there.
    """
    folder = Path(source).expanduser()
    file = folder / RULE_FILE
    if not file.is_file():
        return None
    content = require_json(file)
    method, models, options = content.get("method"), content.get("models"), content.get("options", {})
    names = models if isinstance(models, list) and all(isinstance(name, str) for name in models) else []
    if not isinstance(method, str) or not names or not isinstance(options, dict):
        raise UsageError(f"{file} does not name its method, models and options", hint="Make it again")
    return Rule(method, tuple(resolve_source(name, folder.absolute()) for name in names), options)
