"""A miniature world of an invented language, so that the whole claim can be seen on any laptop (see ``world``)."""

from __future__ import annotations

from pathlib import Path

from unidetox.errors import MissingError

_ASSETS = Path(__file__).parent / "assets"


def asset(name: str) -> Path:
    """Return where an asset of the sandbox lies.

    Args:
        name: ``gpt2``, ``opt``, ``falcon``, ``llama``, ``judge``, ``scorer`` (model directories), ``mmlu`` (folder of
            questions), ``toxic_corpus.csv``, ``prompts_validation.csv``, ``prompts_test.csv``, ``prompts_neutral.csv``
            or ``build.json``.

    Raises:
        MissingError: There is no asset of that name.
    """
    path = _ASSETS / name
    if not name or Path(name).name != name or not path.exists():
        known = ", ".join(sorted(entry.name for entry in _ASSETS.iterdir())) if _ASSETS.is_dir() else ""
        hint = f"There are: {known}" if known else "Make them with `python -m unidetox.sandbox.build`"
        raise MissingError(f"the sandbox has no asset {name!r}", hint=hint)
    return path
