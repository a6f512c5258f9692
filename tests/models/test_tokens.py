"""Tokens are what their files say, wherever a text begins, ends or is filled up; and what is saved is like its base."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import call
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from unidetox.core.errors import UniDetoxError
from unidetox.decoding import SamplingSettings, contrast, lm, sample
from unidetox.evaluation.prompt_encoding import encode_pairs, encode_prompt, start_of
from unidetox.models import LoadOptions, load_lm, load_tokenizer, pad_id, save_lm, start_id, unreachable_ids
from unidetox.training.encoding import encode_texts

OPTIONS = LoadOptions("cpu", "float32")


@dataclass
class Text:
    text: str
    finish_reason: str | None = "eos"


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


@pytest.fixture
def model(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


# --- tokenizer.json


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("digits", [True, False])
def test_a_tokenizer_reads_as_its_file_says(model: Path, tmp_path: Path, kind: str, digits: bool):
    its_own = Tokenizer.from_file(str(model / "tokenizer.json"))
    if digits:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        its_own.pre_tokenizer = pre_tokenizers.Sequence(parts)
        its_own.save(str(model / "tokenizer.json"))
    edit(model / "tokenizer_config.json", tokenizer_class=kind)
    text = "in 1999 the people of 2020  are 12,345"
    loaded = load_tokenizer(model, OPTIONS)
    assert loaded(text, add_special_tokens=False)["input_ids"] == its_own.encode(text, add_special_tokens=False).ids
    assert loaded.bos_token_id == loaded.eos_token_id == 0
    loaded.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == loaded(text)["input_ids"]


# --- where texts begin


def test_without_a_bos_texts_begin_with_what_ends_them(model: Path):
    tokenizer = load_tokenizer(model, OPTIONS)
    tokenizer.bos_token = None
    config = AutoModelForCausalLM.from_pretrained(model).config
    config.bos_token_id = None
    assert start_id(tokenizer, config) == 0
    (row,) = encode_texts([Text("the fox")], tokenizer, config, 32).input_ids
    assert row[0] == row[-1] == 0
    loaded = load_lm(model, OPTIONS)
    loaded.tokenizer, loaded.model.config.bos_token_id = tokenizer, None
    assert start_of(loaded) == [0] == encode_prompt(loaded, "", 4)[0]


@pytest.mark.parametrize("prefix", ["", "be kind. "])
def test_a_bos_that_a_prompt_spells_out_is_read_once(tiny_llama: Path, prefix: str):
    loaded = load_lm(tiny_llama, OPTIONS)
    bos = loaded.tokenizer.bos_token
    from tokenizers.processors import TemplateProcessing

    template = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, loaded.tokenizer.bos_token_id)])
    loaded.tokenizer.backend_tokenizer.post_processor = template
    loaded.prefix = prefix
    plain, _ = encode_prompt(loaded, "the fox", 4)
    assert plain[0] == 0 and plain.count(0) == 1
    assert encode_prompt(loaded, f"{bos}the fox", 4)[0] == plain
    one, other = encode_pairs(loaded, ["the fox", f"{bos}the fox"], [" jumps", " jumps"])
    assert one == other


# --- rows and tokens that the other side does not know


@pytest.mark.parametrize("pad", [320, 10_000, -1, None])
def test_rows_are_filled_with_a_token_that_has_an_embedding(model: Path, pad: int | None):
    loaded = load_lm(model, OPTIONS)
    loaded.model.config.pad_token_id = pad
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    assert 0 <= pad_id(loaded.tokenizer, loaded.model.config) < rows


def test_a_pad_without_an_embedding_does_not_stop_a_training(model: Path, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model)
    (tmp_path / "t.txt").write_text("the quick brown fox\nthe\n")
    said = call("detoxify", model, "--texts", tmp_path / "t.txt", "--steps", 1, "-o", tmp_path / "out")
    assert said.code == 0, said.err


def widened(path: Path, more: int) -> Any:
    """A model with more rows than its tokenizer has tokens; the last is by far the likeliest."""
    loaded = load_lm(path, OPTIONS)
    loaded.model.resize_token_embeddings(len(loaded.tokenizer) + more)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight[-more:] *= 100
    return loaded


@pytest.mark.parametrize("more", [1, 7])
def test_a_row_that_no_token_stands_for_is_never_drawn(tiny_llama: Path, more: int):
    base, toxic = (widened(tiny_llama, more) for _ in range(2))
    words = len(base.tokenizer)
    never = unreachable_ids(base.tokenizer, base.model.config)
    assert never == tuple(range(words, words + more))
    for source in (lm(base.model), contrast(base.model, toxic.model, alpha=0.1, beta=1.0)):
        for settings in (SamplingSettings(8, never=never), SamplingSettings(8, never=never, top_p=0.9, top_k=5)):
            drawn = [one for part in sample(source, [[0, 5]], 8, settings) for one in part]
            assert max(token for one in drawn for token in one.token_ids) < words
    free = [one for part in sample(lm(base.model), [[0, 5]], 8, SamplingSettings(8)) for one in part]
    assert max(token for one in free for token in one.token_ids) >= words


# --- what is saved


@pytest.mark.parametrize(
    "decoding", [{"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"pad_token_id": -1}, {"num_beams": 3}]
)
def test_defaults_of_decoding_stay_what_they_are(model: Path, tmp_path: Path, decoding: dict[str, Any]):
    edit(model / "generation_config.json", **decoding)
    loaded = load_lm(model, OPTIONS)
    save_lm(loaded.model, loaded.tokenizer, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    kept = {key: saved.get(key, False if key == "do_sample" else None) for key in decoding}
    assert kept == decoding
    assert (
        load_lm(tmp_path / "out", OPTIONS).model.generation_config.to_dict() == loaded.model.generation_config.to_dict()
    )


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700])
def test_whoever_may_read_the_folder_may_read_the_files(model: Path, tmp_path: Path, mode: int):
    loaded = load_lm(model, OPTIONS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(mode)
    save_lm(loaded.model, loaded.tokenizer, tmp_path / "out")
    found = {file.stat().st_mode & 0o444 for file in (tmp_path / "out").iterdir()}
    assert found >= {mode & 0o444}
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o444 == mode & 0o444


def test_a_model_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from safetensors import SafetensorError

    loaded = load_lm(model, OPTIONS)
    for fault in (OSError(28, "No space left on device"), SafetensorError("I/O error: File too large")):

        def full(*_: Any, fault: Exception = fault, **__: Any) -> None:
            raise fault

        monkeypatch.setattr(loaded.model, "save_pretrained", full)
        with pytest.raises(UniDetoxError, match=r"cannot be written to .*(No space|too large)"):
            save_lm(loaded.model, loaded.tokenizer, tmp_path / "out")
