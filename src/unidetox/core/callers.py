"""What callers of Python functions give, and what they have set up: neither felt in our work nor changed by it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from unidetox.core.errors import UsageError


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Compute as in a fresh process, and leave the caller's settings of torch as they were; for every public function.

    Another default number type or device, autocast and modes without gradients would change what comes out.
    """
    torch: Any = sys.modules.get("torch")  # where it is not loaded, nobody has set anything
    with contextlib.ExitStack() as stack:
        if torch is not None:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
            for mode in (torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False)):
                stack.enter_context(mode)
            if torch.cuda.is_available():
                stack.enter_context(torch.autocast("cuda", enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
        yield


def listed(given: Any, what: str) -> list[Any]:
    """Return the items of a list, tuple, generator, array or column.

    Args:
        given: What a caller gave.
        what: What to call it in a message: ``texts``.

    Raises:
        UsageError: It is something else: one text, whose items are its letters, or a table, with columns as items.
    """
    if not isinstance(given, str | bytes | os.PathLike | Mapping) and not hasattr(given, "columns"):
        with contextlib.suppress(TypeError):
            return list(given)
    raise UsageError(f"{what}: {_shown(given)} is no list", hint="Give a list, also of one, or a column of a table")


def name_of(given: Any, what: str) -> str:
    """Return a name as text.

    Args:
        given: A text or a path.
        what: What to call it in a message: ``model``.

    Raises:
        UsageError: It is something else, or empty.
    """
    found = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(found, str) or not found.strip():
        raise UsageError(f"{what}: {_shown(given)} is no name", hint="Give a name or a path that is not empty")
    return str(found)


def names_of(given: Any, what: str) -> list[str]:
    """Return one name or several as texts, see `name_of`.

    Raises:
        UsageError: One is something else.
    """
    items = [given] if isinstance(given, str | os.PathLike) else listed(given, what)
    return [name_of(item, what) for item in items]


def _shown(given: Any) -> str:
    return f"{' '.join(repr(given).split()):.60}"
