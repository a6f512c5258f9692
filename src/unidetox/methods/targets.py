"""What is measured: an ordinary model, or models and a rule that a ``detox.json`` names. One function loads either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unidetox.config.methods import load_method, method_names
from unidetox.core.errors import UsageError
from unidetox.models import LM, Known, LoadOptions, check_lm, check_same_tokens, check_same_vocabulary, load_lm
from unidetox.models.directories import RULE_FILE, Rule, read_rule, read_unidetox
from unidetox.models.options import DEFAULTS


def load_target(name: str | Path, options: LoadOptions = DEFAULTS) -> LM:
    """Load what is to be measured.

    Args:
        name: A directory (with weights, an adapter, or a ``detox.json``) or a Hub id.
        options: How to load its models.

    Returns:
        The model; what says the next token's scores is its ``source``.

    Raises:
        MissingError: A model is not there.
        UsageError: It cannot be used, or the models of a rule have different vocabularies.
    """
    rule = read_rule(name)
    if rule is None:
        return load_lm(name, options)
    load, chosen = _loading(rule, name)
    models = [load_lm(model, options) for model in rule.models]
    for other in models[1:]:
        check_same_vocabulary(models[0], other)
    model: LM = load(models, chosen)
    return replace(model, name=str(name), unidetox=read_unidetox(str(name)))


def check_target(name: str | Path, options: LoadOptions = DEFAULTS) -> Known:
    """See that something can be measured, without reading weights.

    Args:
        name: As for `load_target`.
        options: How to load its models.

    Returns:
        What is known of the model whose tokenizer counts.

    Raises:
        MissingError: A model is not there.
        UsageError: It cannot be used.
    """
    rule = read_rule(name)
    if rule is None:
        return check_lm(name, options)
    _loading(rule, name)
    first, *others = [check_lm(model, options) for model in rule.models]
    for other in others:
        check_same_tokens(first, other)
    return replace(first, name=str(name))


def _loading(rule: Rule, name: str | Path) -> tuple[Any, Any]:
    """Return what a method does with loaded models, and its checked options."""
    file = Path(name) / RULE_FILE
    method = load_method(rule.method) if rule.method in method_names() else None
    if method is None or method.load is None:
        raise UsageError(f"{file} names no method that acts while decoding: {rule.method}", hint="Make it again")
    try:
        return method.load, method.options.model_validate({**rule.options, "name": rule.method})
    except ValidationError as exc:
        error = exc.errors()[0]
        key = ".".join(map(str, error["loc"]))
        raise UsageError(f"{file}: options.{key}: {error['msg']}", hint="Make it again") from None
