"""Model cards and dataset cards: what was done to what with which texts, with the Hugging Face Hub's own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from unidetox.config.messages import toml_value
from unidetox.config.methods import method_name
from unidetox.core.names import public_name
from unidetox.core.provenance import flatten
from unidetox.core.resolve import at_revision, is_local, split_revision
from unidetox.core.version import __version__
from unidetox.report.main_table import COLUMNS, markdown_table
from unidetox.report.page import environment
from unidetox.report.words import is_number

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# Models that methods need; what a method itself does is said in its own file.
_HELPERS = {
    "expert": "fine-tuned on text that is not toxic: one of the models that DExperts decodes with.",
    "toxic": "fine-tuned on toxic text **on purpose**: one of the two models that detoxifying texts are "
    "distilled from. Do not use it for anything else.",
}
_TAGS = ("unidetox", "detoxification")
_MORE_TAGS = {"toxic": ["toxic", "not-for-all-audiences"], "samples": ["control"]}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
_SUMMARY = {
    "texts": "Texts", "ended": "Ended by the model (`eos`)", "cut": "Cut at the longest length (`length`)",
    "empty": "Empty", "distinct": "Distinct", "tokens_mean": "Tokens a text, on average",
}  # fmt: skip


def model_card(info: Mapping[str, Any], done: str = "") -> str:
    """Write the card of a model, with front matter that the Hub accepts.

    Args:
        info: The content of a ``unidetox.json``. Only ``base_model`` is needed; also used where present:

            - ``method`` (default ``unidetox``; ``toxic`` for the toxic model)
            - ``texts``: what it was fine-tuned on: ``{"source", "sha256", "number"}``
            - ``datasets``: Hub ids of all data that it learned from
            - ``base_revision``: what was asked for of it, and ``base_commit``: the commit that was read
            - ``base_is_local``: True where ``base_model`` is the short name of a local model, not a Hub id
            - ``settings``: every setting, nested or not; ``lora`` without ``merge`` means a PEFT adapter
            - ``rule``: True where there are no weights, but a rule by which to decode
            - ``results``: ``results.json``, or the rows of it that are about this model and its base
            - ``license``, ``license_name``, ``license_link``: those of the base model, if known
            - ``versions``: ``{package: version}``
        done: What the method did: an end of the sentence "MODEL, ..."; its name where left out.

    Returns:
        The text of a ``README.md``. Local paths are shortened to names.

    Raises:
        KeyError: There is no ``base_model``.
    """
    base, method = str(info["base_model"]), str(info.get("method") or "unidetox")
    texts, title = info.get("texts") or {}, _plain(method_name(method))
    name = f"{_last(base)}-{public_name(method)}"
    settings = info.get("settings") or {}
    form = "rule" if info.get("rule") else "adapter" if settings.get("lora") and not settings.get("merge") else "model"
    return _render(
        "model_card.md.j2", info, _model_metadata(info, name, base, method, form),
        name=_plain(name), base=_base(info), method=title, form=form,
        done=f"{_code(base)}, {_HELPERS.get(method) or done or f'changed by {title}.'}",
        texts_source=_code(str(texts["source"])) if texts.get("source") else "",
        texts_n=_plain(str(texts.get("number") or "")), texts_sha256=_hex(texts.get("sha256")),
        kind={"toxic": "toxic", "samples": "control"}.get(method, "detoxified"),
        results_table=markdown_table(info["results"]) if info.get("results") else "",
    )  # fmt: skip


def texts_card(info: Mapping[str, Any]) -> str:
    """Write the card of a set of detoxifying texts, with front matter that the Hub accepts.

    Args:
        info: What is known of the texts. Only ``base_model`` is needed; also used where present: ``method``
            (``samples`` for plain samples), ``toxic_model``, ``corpus`` (a name), ``sha256``, ``summary`` (``{"texts",
            "ended", "cut", "empty", "distinct", "tokens_mean"}``), and what `model_card` says of the base model, its
            license, ``settings`` and ``versions``.

    Returns:
        The text of a ``README.md``. Local paths are shortened to names.

    Raises:
        KeyError: There is no ``base_model``.
    """
    base, plain = str(info["base_model"]), info.get("method") == "samples"
    name = f"{_last(base)}-{'samples' if plain else 'detoxifying-texts'}"
    facts = {"name": _plain(name), "base": _code(base), "plain": plain, "facts": list(_texts_facts(info))}
    return _render("texts_card.md.j2", info, _texts_metadata(info, name), **facts)


def _render(template: str, info: Mapping[str, Any], metadata: Mapping[str, Any], **values: Any) -> str:
    """Fill a template; to both cards belong front matter, license, versions and settings."""
    from huggingface_hub import DatasetCardData, ModelCardData

    kind = ModelCardData if template == "model_card.md.j2" else DatasetCardData
    versions = [(_plain(str(name)), _plain(str(version))) for name, version in (info.get("versions") or {}).items()]
    # Markdown is no HTML: escaping is done by `_plain` and `_code`, value by value.
    return environment(html=False).get_template(template).render(
        front=kind(**metadata).to_yaml(), version=__version__,
        license=f" ({_plain(str(info['license']))})" if info.get("license") else "",
        settings="\n".join(_toml_lines(info.get("settings") or {})),
        versions=[pair for pair in versions if pair[0] != "unidetox"], **values,
    )  # fmt: skip


def _model_metadata(info: Mapping[str, Any], name: str, base: str, method: str, form: str) -> dict[str, Any]:
    of_hub = bool(_hub_id(base)) and not info.get("base_is_local")  # the Hub refuses a base that is not one of its own
    relation, library = {"adapter": ("adapter", "peft"), "model": ("finetune", "transformers")}.get(form, (None, None))
    sources = [*info.get("datasets", ()), (info.get("texts") or {}).get("source")]
    return {
        **_license(info),
        "base_model": public_name(base) if of_hub else None,
        "base_model_relation": relation if of_hub else None,
        "datasets": list(dict.fromkeys(filter(None, (_hub_id(source, with_owner=True) for source in sources)))) or None,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": [*_TAGS, *map(public_name, _MORE_TAGS.get(method, [method] if method != "unidetox" else []))],
        "model_name": name if info.get("results") else None,
        "eval_results": list(_eval_results(info["results"])) or None if info.get("results") else None,
    }


def _eval_results(results: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Yield the numbers of the main table that are not of the base model, pooled over seeds where there are several."""
    from huggingface_hub import EvalResult

    titles = {(metric, column.domain): column.title for column in COLUMNS for metric in column.metrics}
    prompts = public_name(str((results.get("settings") or {}).get("prompts") or "prompts"))
    rows: dict[tuple[str, str | None], Mapping[str, Any]] = {}
    for row in sorted(results["rows"], key=lambda row: (row["seed"] is not None, row["seed"])):
        further = row["method"] == "base" or row["group"] is not None or row.get("form") or row.get("scorer")
        key = (row["metric"], row["domain"])
        if key in titles and not further and is_number(row["value"]):
            rows.setdefault(key, row)
    for (metric, domain), row in rows.items():
        yield EvalResult(
            "text-generation", prompts, prompts, metric, round(row["value"], 4),
            dataset_config=domain, metric_name=titles[metric, domain],
        )  # fmt: skip


def _texts_metadata(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    n = (info.get("summary") or {}).get("texts")
    size = _SIZES[min(max(len(str(n)) - 3, 0), len(_SIZES) - 1)] if isinstance(n, int) else None
    return {
        **_license(info),
        "pretty_name": name,
        "task_categories": ["text-generation"],
        "tags": [*_TAGS, "synthetic"],
        "size_categories": [size] if size else None,
        "configs": [{"config_name": "default", "data_files": "texts.jsonl"}],
    }


def _texts_facts(info: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "Base model", _base(info)
    for key, title in (("toxic_model", "Toxic model"), ("corpus", "Made toxic with")):
        if info.get(key):
            yield title, _code(str(info[key]))
    summary = info.get("summary") or {}
    for key, title in _SUMMARY.items():
        if key in summary:
            yield title, f"{summary[key]:.1f}" if isinstance(summary[key], float) else _plain(str(summary[key]))
    if _hex(info.get("sha256")):
        yield "SHA-256", f"`{_hex(info['sha256'])}`"


def _license(info: Mapping[str, Any]) -> dict[str, str]:
    keys = ("license", "license_name", "license_link")
    return {key: public_name(str(info[key])) for key in keys if info.get("license") and info.get(key)}


def _base(info: Mapping[str, Any]) -> str:
    """Name the base model with the state of it that was read."""
    name = _code(at_revision(str(info["base_model"]), info.get("base_revision")))
    return f"{name}, commit `{_hex(info['base_commit'])}`" if info.get("base_commit") else name


def _toml_lines(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield every setting as a recipe has it; what is not set is left out."""
    for key, value in flatten(settings):
        if value is not None:
            yield f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)} = {toml_value(_public(value))}"


def _public(value: Any) -> Any:
    """Shorten the paths in a setting; infinity, which a record has as a text, is a number in a recipe."""
    if isinstance(value, list | tuple):
        return [_public(item) for item in value if item is not None]
    if value in ("inf", "-inf"):
        return float(value)
    return public_name(value).replace("`", "'") if isinstance(value, str) else value


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
    return "" if is_local(text) or (with_owner and "/" not in text) else split_revision(text)[0]
