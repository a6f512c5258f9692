"""What callers give as names and lists, and what they have set up in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unidetox.core.callers import apart, listed, name_of, names_of
from unidetox.core.errors import UsageError

WORDS = ["one", "two"]


@pytest.mark.parametrize(
    "given",
    [
        WORDS, tuple(WORDS), (word for word in WORDS), map(str, WORDS), pd.Series(WORDS), np.array(WORDS),
        pd.Series(WORDS, dtype="string"), np.array(WORDS, dtype=object), dict.fromkeys(WORDS).keys(),
    ],
)  # fmt: skip
def test_whatever_gives_one_after_the_other_is_a_list(given: Any):
    assert listed(given, "texts") == WORDS


@pytest.mark.parametrize(
    "given",
    [
        "one", "a.csv", b"one", Path("a.csv"), None, 3, float("nan"), {"text": "one"}, pd.DataFrame({"text": WORDS}),
        np.array("one"), object(), len,
    ],
)  # fmt: skip
def test_what_is_no_list(given: Any):
    with pytest.raises(UsageError, match=r"^texts: .* is no list. Give a list") as caught:
        listed(given, "texts")
    assert len(str(caught.value)) < 160 and "\n" not in str(caught.value)


def test_names_are_texts_and_paths():
    assert name_of(np.str_("gpt2"), "model") == name_of("gpt2", "model") == name_of(Path("gpt2"), "model") == "gpt2"
    assert (
        names_of("gpt2", "models") == names_of(Path("gpt2"), "models") == names_of(iter(["gpt2"]), "models") == ["gpt2"]
    )
    assert names_of([], "models") == []


@pytest.mark.parametrize("given", ["", "  ", None, 3, float("nan"), b"gpt2", {"a": 1}, ["gpt2"], torch.nn.Linear(1, 1)])
def test_what_is_no_name(given: Any):
    with pytest.raises(UsageError, match=r"^model: .* is no name"):
        name_of(given, "model")
    with pytest.raises(UsageError, match=r"^model: .* is no (name|list)"):
        names_of([given], "model")


def settings() -> tuple[Any, ...]:
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return torch.get_default_dtype(), torch.get_default_device(), *modes


FRESH = (torch.float32, torch.device("cpu"), True, False, False)


@pytest.mark.parametrize(
    "other",
    [
        torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"), lambda: torch.device("cpu"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("failing", [False, True])
def test_a_call_meets_torch_as_it_is_in_a_fresh_process(other: Callable[[], Any], dtype: torch.dtype, failing: bool):
    @apart()
    def call() -> Any:
        if failing:
            raise UsageError("no")
        return settings(), torch.zeros(1).device, torch.zeros(1).dtype

    torch.set_default_dtype(dtype)
    try:
        with other():
            before = settings()
            if failing:
                with pytest.raises(UsageError):
                    call()
            else:
                assert call() == (FRESH, torch.device("cpu"), torch.float32)
            assert settings() == before
    finally:
        torch.set_default_dtype(torch.float32)
