"""What a tokenizer's chat template puts around turns."""

from __future__ import annotations

from typing import Any

from unidetox.core.errors import UsageError

_MARK = "mark"


def opened_turn(tokenizer: Any) -> list[int]:
    """Return the tokens that open an assistant's turn, the start token before them where the template puts one.

    It is what the template adds for ``add_generation_prompt``, thinking switched off where the template can; empty
    where the tokenizer has no template, or its template opens no turn (Mistral's).

    Raises:
        UsageError: The template cannot render one user turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        return []
    before, after = (_rendered(tokenizer, prompted) for prompted in (False, True))
    opening = after[len(before) :] if after.startswith(before) else ""
    if not opening:
        return []
    start = tokenizer.bos_token or ""
    if start and after.startswith(start) and not opening.startswith(start):
        opening = start + opening
    return list(tokenizer(opening, add_special_tokens=False, verbose=False)["input_ids"])


def _rendered(tokenizer: Any, prompted: bool) -> str:
    turns = [{"role": "user", "content": _MARK}]
    options = {"add_generation_prompt": prompted, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception as exc:  # a template is a program of the model's maker
        what = f"the chat template of {tokenizer.name_or_path} cannot render a user turn: {exc}"
        raise UsageError(what, hint="Use --opening bos, or mend the template") from exc
