"""Two revisions of one Hub id are two models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hub_cache import COMMIT, OLD, lay

from unidetox.core import hub
from unidetox.core.errors import MissingError
from unidetox.core.names import short_name, slug, unique_slugs
from unidetox.models import (
    LoadOptions,
    check_classifier,
    check_lm,
    fingerprint,
    load_classifier,
    load_lm,
    load_tokenizer,
    save_lm,
    saved_dtype,
)
from unidetox.models.loading import load_config

CPU = LoadOptions("cpu", "float32")
PROMPT = torch.tensor([[5, 9, 30, 7]])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def two(cache: Path, tiny_gpt2: Path, tiny_opt: Path) -> None:
    """A GPT-2 whose tag v1 was an OPT: everything about it differs, the tokenizer too."""
    lay(cache, "model", "tiny/lm", tiny_gpt2.iterdir())
    lay(cache, "model", "tiny/lm", tiny_opt.iterdir(), commit=OLD, revision="v1")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("revision", ["v1", OLD])
def test_every_part_is_of_the_revision_that_is_asked_for(revision: str, tiny_opt: Path):
    name = f"tiny/lm@{revision}"
    assert load_config("tiny/lm").model_type == "gpt2"
    assert load_config(name).model_type == "opt"
    assert load_tokenizer(name).pad_token == load_tokenizer(tiny_opt).pad_token
    assert load_tokenizer(name).pad_token != load_tokenizer("tiny/lm").pad_token
    lm = load_lm(name, CPU)
    assert lm.name == name
    torch.testing.assert_close(lm.model(PROMPT).logits, load_lm(tiny_opt, CPU).model(PROMPT).logits)
    assert check_lm(name).config.model_type == "opt"
    assert saved_dtype(name) == torch.float32


def test_a_classifier_has_revisions_too(cache: Path, tiny_classifier: Path, toxic_bert: Path):
    lay(cache, "model", "tiny/judge", tiny_classifier.iterdir())
    lay(cache, "model", "tiny/judge", toxic_bert.iterdir(), commit=OLD, revision="v1")
    assert check_classifier("tiny/judge") == ["toxic"]
    assert load_classifier("tiny/judge@v1", CPU).labels == check_classifier("tiny/judge@v1")
    assert len(check_classifier("tiny/judge@v1")) == 6


@pytest.mark.usefixtures("two")
def test_an_adapter_names_the_revision_of_its_base_and_has_its_own(cache: Path, tmp_path: Path):
    from unidetox.training import TrainSettings, add_lora

    made = {}
    for number, revision in enumerate(("v1", None)):
        base = load_lm("tiny/lm@v1", CPU)
        adapted = add_lora(base.model, TrainSettings(steps=1, lora=True, lora_rank=4))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
            made[revision] = adapted.eval()(PROMPT).logits
        folder = tmp_path / f"adapter-{number}"
        save_lm(adapted, base.tokenizer, folder, base_revision="v1")
        assert json.loads((folder / "adapter_config.json").read_text())["revision"] == "v1"
        states = {"commit": OLD, "revision": "v1"} if revision else {}
        lay(cache, "model", "tiny/adapter", folder.iterdir(), **states)
        torch.testing.assert_close(load_lm(folder, CPU).model(PROMPT).logits, made[revision], atol=1e-4, rtol=1e-4)
    for name, revision in (("tiny/adapter", None), ("tiny/adapter@v1", "v1")):
        assert check_lm(name).config.model_type == "opt"
        torch.testing.assert_close(load_lm(name, CPU).model(PROMPT).logits, made[revision], atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("two")
def test_a_revision_is_part_of_what_a_model_is():
    assert fingerprint("tiny/lm") == f"tiny/lm@{COMMIT}", "as before"
    assert fingerprint("tiny/lm@main") == fingerprint("tiny/lm")
    assert fingerprint("tiny/lm@v1") == fingerprint(f"tiny/lm@{OLD}") == f"tiny/lm@{OLD}"
    assert hub.commit_of("tiny/lm@v1", "model") == OLD
    assert fingerprint("tiny/lm@v2") == "tiny/lm@v2"
    assert hub.commit_of("tiny/lm@v2", "model") is None


def test_names_tell_revisions_apart():
    assert short_name("facebook/opt-6.7b@v1") == "opt-6.7b@v1"
    assert short_name(f"facebook/opt-6.7b@{OLD}") == "opt-6.7b@fedcba9"
    assert short_name("org/name@refs/pr/3") == "name@refs/pr/3"
    assert slug("org/name@refs/pr/3") == "name-refs-pr-3"
    assert unique_slugs(["org/name", "org/name@v1", "org/name@v2"]) == ["name", "name-v1", "name-v2"]
    assert short_name("/runs/me@home/model") == "me@home"


@pytest.mark.usefixtures("two")
def test_a_revision_that_is_not_there_is_named():
    for load in (load_lm, load_tokenizer, check_lm, check_classifier):
        with pytest.raises(MissingError) as caught:
            load("tiny/lm@v2")
        assert "model tiny/lm@v2 is neither on this disk nor in the Hugging Face cache" in caught.value.message
        assert "hf download tiny/lm --revision v2" in caught.value.hint
