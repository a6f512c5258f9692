"""Model cards and dataset cards: what was done to what with which texts, in the Hugging Face Hub's format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from unidetox.config.methods import method_name
from unidetox.core.hub import is_local
from unidetox.core.names import public_name
from unidetox.core.provenance import flatten
from unidetox.core.version import __version__
from unidetox.report.main_table import markdown_table

if TYPE_CHECKING:
    from jinja2 import Environment

# Models that methods need; what a method itself does is said in its own file.
_HELPERS = {
    "expert": "fine-tuned on text that is not toxic: one of the models that DExperts decodes with.",
    "toxic": "fine-tuned on toxic text **on purpose**: one of the two models that detoxifying texts are "
    "distilled from. Do not use it for anything else.",
}
_MORE_TAGS = {"toxic": ["toxic", "not-for-all-audiences"], "samples": ["control"]}
_CITATION = """If you use the method, please cite:

```bibtex
@inproceedings{lu2025unidetox,
  title     = {UniDetox: Universal Detoxification of Large Language Models via Dataset Distillation},
  author    = {Lu, Huimin and Isonuma, Masaru and Mori, Junichiro and Sakata, Ichiro},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2025}
}
```"""


def model_card(info: Mapping[str, Any], done: str = "") -> str:
    """Write the card of a model, with front matter that the Hub accepts.

    Args:
        info: The content of a ``unidetox.json``. Only ``base_model`` is needed; also used where present:

            - ``method`` (default ``unidetox``; ``toxic`` for the toxic model), ``name``
            - ``texts``: what it was fine-tuned on: ``{"source", "sha256", "number"}``
            - ``base_is_local``: True where ``base_model`` is the short name of a local model, not a Hub id
            - ``settings``: every setting, nested or not; ``lora`` without ``merge`` means a PEFT adapter
            - ``results``: the content of a ``results.json``
            - ``license``: the licence of the base model, if known
            - ``versions``: ``{package: version}``, and ``created``: a date
        done: What the method did: an end of the sentence "MODEL, ..."; its name where left out.

    Returns:
        The text of a ``README.md``. Local paths are shortened to names.

    Raises:
        KeyError: There is no ``base_model``.
    """
    base, method = str(info["base_model"]), str(info.get("method") or "unidetox")
    texts = _texts(info)
    name = public_name(str(info.get("name") or f"{_last(base)}-{method}"))
    adapter = _is_adapter(info)
    done = _HELPERS.get(method) or done or f"changed by {_plain(method_name(method))}."
    return _environment().get_template("model_card.md.j2").render(
        front=_front_matter(_model_metadata(info, base, method)),
        name=_plain(name),
        done=f"{_code(base)}, {done}",
        base=_code(base),
        method=_plain(method_name(method)),
        texts_source=_code(str(texts["source"])) if texts.get("source") else "",
        texts_n=_plain(str(texts.get("number") or "")),
        texts_sha256=_hex(texts.get("sha256")),
        kind={"toxic": "toxic", "samples": "control"}.get(method, "detoxified"),
        form="adapter (PEFT)" if adapter else "full weights (safetensors)",
        adapter=adapter,
        load_path=json.dumps(name if info.get("name") else "PATH-OR-HUB-ID"),
        results_table=markdown_table(info["results"]) if info.get("results") else "",
        licence_note=_licence_note(info, "base model"),
        **_common(info),
    )  # fmt: skip


def texts_card(info: Mapping[str, Any]) -> str:
    """Write the card of a set of detoxifying texts, with front matter that the Hub accepts.

    Args:
        info: What is known of the texts. Only ``base_model`` is needed; also used where present: ``name``, ``method``
            (``samples`` for plain samples), ``base_is_local``, ``toxic_model``, ``corpus`` (a name), ``sha256``,
            ``summary`` (``{"texts", "ended", "cut", "empty", "distinct", "tokens_mean"}``), ``settings``,
            ``license``, ``versions``, ``created``.

    Returns:
        The text of a ``README.md``. Local paths are shortened to names.

    Raises:
        KeyError: There is no ``base_model``.
    """
    base, plain = str(info["base_model"]), info.get("method") == "samples"
    name = public_name(str(info.get("name") or f"{_last(base)}-{'samples' if plain else 'detoxifying-texts'}"))
    done = (
        f"Plain samples of {_code(base)}: the control of an experiment on detoxification."
        if plain
        else "Texts that lower the toxicity of causal language models fine-tuned on them. Each token was drawn "
        f"from the contrast between {_code(base)} and a copy of it made toxic: of the tokens that the first finds "
        "plausible, those that the second favours least."
    )
    return _environment().get_template("texts_card.md.j2").render(
        front=_front_matter(_texts_metadata(info, name)),
        name=_plain(name),
        done=done,
        facts=list(_texts_facts(info, base)),
        load_path=_hub_id(info.get("name")) or "THIS-FOLDER",
        licence_note=_licence_note(info, "base model that wrote the texts"),
        **_common(info),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown is no HTML: escaping is done by `_plain` and `_code`, value by value.
    return Environment(
        loader=PackageLoader("unidetox.report", "templates"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _common(info: Mapping[str, Any]) -> dict[str, Any]:
    """Give what both cards end with."""
    versions = [(name, version) for name, version in (info.get("versions") or {}).items() if name != "unidetox"]
    return {
        "settings": [(_key(key), _value(value)) for key, value in flatten(info.get("settings") or {})],
        "versions": [(_plain(str(name)), _plain(str(version))) for name, version in versions],
        "version": __version__,
        "created": _plain(str(info["created"])) if info.get("created") else "",
        "citation": _CITATION,
    }


def _model_metadata(info: Mapping[str, Any], base: str, method: str) -> dict[str, Any]:
    adapter = _is_adapter(info)
    metadata: dict[str, Any] = _licence_metadata(info)
    if _hub_id(base) and not info.get("base_is_local"):  # the Hub refuses a base model that is not one of its own
        metadata |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if source := _hub_id(_texts(info).get("source"), with_owner=True):
        metadata["datasets"] = [source]
    return metadata | {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unidetox", "detoxification", *_MORE_TAGS.get(method, [method] if method != "unidetox" else [])],
    }


def _texts_metadata(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    n = (info.get("summary") or {}).get("texts")
    size = {"size_categories": [_size_category(n)]} if isinstance(n, int) else {}
    return {
        "pretty_name": name,
        **_licence_metadata(info),
        "task_categories": ["text-generation"],
        "tags": ["unidetox", "detoxification", "synthetic"],
        **size,
        "configs": [{"config_name": "default", "data_files": "texts.jsonl"}],
    }


def _texts_facts(info: Mapping[str, Any], base: str) -> Iterable[tuple[str, str]]:
    yield "Base model", _code(base)
    if info.get("toxic_model"):
        yield "Toxic model", _code(str(info["toxic_model"]))
    if info.get("corpus"):
        yield "Made toxic with", _code(str(info["corpus"]))
    summary = info.get("summary") or {}
    names = {"texts": "Texts", "ended": "Ended by the model (`eos`)", "cut": "Cut at the longest length (`length`)",
             "empty": "Empty", "distinct": "Distinct", "tokens_mean": "Tokens a text, on average"}  # fmt: skip
    for key, name in names.items():
        if key in summary:
            yield name, f"{summary[key]:.1f}" if isinstance(summary[key], float) else _plain(str(summary[key]))
    if _hex(info.get("sha256")):
        yield "SHA-256", f"`{_hex(info['sha256'])}`"
    yield "Made with", f"`unidetox` {__version__}"


def _texts(info: Mapping[str, Any]) -> Mapping[str, Any]:
    texts = info.get("texts") or {}
    return texts if isinstance(texts, Mapping) else {"source": texts}


def _is_adapter(info: Mapping[str, Any]) -> bool:
    settings = info.get("settings") or {}
    return bool(settings.get("lora")) and not settings.get("merge")


def _licence_metadata(info: Mapping[str, Any]) -> dict[str, Any]:
    licence = str(info.get("license") or "")
    return {"license": licence} if licence else {"license": "other", "license_name": "same-as-base-model"}


def _licence_note(info: Mapping[str, Any], what: str) -> str:
    licence = f" ({_plain(str(info['license']))})" if info.get("license") else ""
    return f"**Licence.** The licence of the {what} applies{licence}; UniDetox adds no terms of its own."


def _front_matter(metadata: Mapping[str, Any]) -> str:
    """Write YAML: every text is a JSON string, which YAML reads as the same text whatever is in it."""
    lines = []
    for key, value in metadata.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_yaml(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_yaml(value)}")
    return "\n".join(lines)


def _yaml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return json.dumps(public_name(value) if isinstance(value, str) else value, ensure_ascii=False)


def _key(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _value(value: object) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    return ", ".join(_plain(public_name(str(item))) for item in items)


def _plain(text: str) -> str:
    """Make a text harmless in Markdown: one line, no markup, no table cell."""
    return re.sub(r"([\\|`*_<>\[\]#&])", r"\\\1", public_name(text))


def _code(text: str) -> str:
    """Set a name as code, in which Markdown has no other marks than these."""
    return f"`{public_name(text).replace('`', '').replace('|', '')}`"


def _hex(value: object) -> str:
    return re.sub(r"[^0-9a-f]", "", str(value or "").lower())


def _last(name: str) -> str:
    return public_name(name).rsplit("/", 1)[-1]


def _hub_id(name: object, *, with_owner: bool = False) -> str:
    """Give a name back if it can be an id on the Hub, and is no file or folder here."""
    text = str(name or "")
    return "" if is_local(text) or (with_owner and "/" not in text) else text


def _size_category(n: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return names[min(max(len(str(n)) - 3, 0), 4)]
