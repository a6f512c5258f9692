"""Files of a model that are missing, cut off, empty or no files at all are named before anything is loaded."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipes import call
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from unidetox.core.content import content_hash
from unidetox.core.errors import MissingError, UniDetoxError
from unidetox.models import LoadOptions, check_lm, fingerprint, load_lm, saved_dtype

OPTIONS = LoadOptions("cpu", "float32")


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def sharded(tiny_llama: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _pointer(file: Path) -> None:
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("../blobs/0123")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [(_empty, "is empty"), (_pointer, "is a pointer of Git LFS"), (_dangling, "is a link to ../blobs/0123")],
)
def test_a_file_that_is_none_is_named(model: Path, file: str, fault: Callable[[Path], None], words: str):
    fault(model / file)
    with pytest.raises(UniDetoxError) as caught:
        check_lm(model, OPTIONS)
    said = str(caught.value)
    assert (file in said and words in said) or (file == "config.json" and "no config.json" in said)


def test_weights_that_are_cut_off_are_named(model: Path, sharded: Path):
    _cut(model / "model.safetensors")
    with pytest.raises(MissingError, match=r"model.safetensors is cut off: [\d,]+ of [\d,]+ bytes"):
        check_lm(model, OPTIONS)
    last = sorted(sharded.glob("model-*.safetensors"))[-1]
    _cut(last)
    with pytest.raises(MissingError, match=f"{last.name} is cut off"):
        check_lm(sharded, OPTIONS)
    last.unlink()
    with pytest.raises(MissingError, match=f"lacks {last.name}, which model.safetensors.index.json names"):
        check_lm(sharded, OPTIONS)


def test_a_pickle_that_is_cut_off_is_named(model: Path):
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert saved_dtype(model, OPTIONS) == torch.float32
    _cut(model / "pytorch_model.bin")
    with pytest.raises(MissingError, match=r"pytorch_model\.bin is cut off"):
        check_lm(model, OPTIONS)


def test_files_that_loading_does_not_read_do_not_count(model: Path):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "notes.json"):
        (model / name).write_bytes(b"")
    check_lm(model, OPTIONS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_checkpoint_has_the_type_of_its_tensors(model: Path, dtype: torch.dtype):
    weights = {name: weight.to(dtype) for name, weight in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    for said in ({}, {"dtype": "float32"}):
        rest = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (model / "config.json").write_text(json.dumps(rest | said))
        assert saved_dtype(model, OPTIONS) == dtype


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(model: Path, value: float):
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UniDetoxError, match=r"model.layers.1.mlp.up_proj.weight holds values that are no numbers"):
        load_lm(model, OPTIONS)


def test_weights_that_the_configuration_does_not_speak_of_are_said(model: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr("unidetox.models.loading.console.warn", said.append)
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"model.layers.0.extra.bias": torch.zeros(3)}, model / "model.safetensors", {"format": "pt"})
    load_lm(model, OPTIONS)
    assert "its stored model.layers.0.extra.bias are not used" in said[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "another kind of model .BertForMaskedLM."),
        ({"architectures": ["T5ForConditionalGeneration"]}, "another kind of model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised weights that cannot be read here"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
    ],
)
def test_a_configuration_of_something_else_is_refused(model: Path, changes: dict[str, object], words: str):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UniDetoxError, match=words) as caught:
        check_lm(model, OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("saved_as", [[], ["BertLMHeadModel"]])
def test_a_bert_counts_where_it_reads_in_one_direction(model: Path, decoder: bool, saved_as: list[str]):
    from transformers import BertConfig, BertLMHeadModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(**small, vocab_size=320, is_decoder=decoder)).save_pretrained(model)
    written = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(written | {"architectures": saved_as}))
    if decoder:
        check_lm(model, OPTIONS)
    else:
        with pytest.raises(UniDetoxError, match="another kind of model"):
            check_lm(model, OPTIONS)


def test_quantised_weights_are_not_trained(model: Path, tmp_path: Path):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq", "bits": 4}}))
    said = call("detoxify", model, "-o", tmp_path / "out")
    assert said.code == 2 and "quantised weights (awq), which cannot be trained" in said.err
    assert not (tmp_path / "out").exists()


def test_a_broken_fourth_model_is_said_before_anything_is_made(
    sharded: Path, tiny_gpt2: Path, tiny_opt: Path, tmp_path: Path, tiny_classifier: Path
):
    next(sharded.glob("model-00002*")).unlink()
    prompts = tmp_path / "p.csv"
    prompts.write_text("text\nhello\n", encoding="utf-8")
    said = call("evaluate", tiny_gpt2, tiny_opt, sharded, "--prompts", prompts, "--scorer", tiny_classifier, "-o",
                tmp_path / "out", "--ppl-model", tiny_gpt2)  # fmt: skip
    assert said.code == 3 and "model-00002" in said.err
    assert not (tmp_path / "out" / "evaluation").exists()


# --- fingerprints


def test_any_byte_of_any_file_that_loading_reads_is_noticed(model: Path):
    rng = random.Random(0)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool.jinja").write_text("x")
    (model / "modeling_own.py").write_text("pass")
    save_file({"pad": torch.zeros(3 << 20)}, model / "extra.safetensors")  # 12 MiB: not read whole each time
    files = [file for file in model.rglob("*") if file.is_file()]
    known = {fingerprint(model)}
    for file in files:
        if file.suffix not in (".json", ".safetensors", ".jinja", ".py", ".txt"):
            continue
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        changed = fingerprint(model)
        assert changed not in known, file.name
        known.add(changed)


def test_a_hash_is_kept_while_the_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    from unidetox.core import content

    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(content, "_SETTLED_SECONDS", -1.0)
    asked: list[Path] = []
    own = content._hash
    monkeypatch.setattr(content, "_hash", lambda path, size: asked.append(path) or own(path, size))
    file = tmp_path / "weights"
    file.write_bytes(random.Random(1).randbytes(20 << 20))
    first = content_hash(file)
    assert content_hash(file) == first and len(asked) == 1
    with file.open("r+b") as stream:
        stream.seek(17 << 20)
        stream.write(b"changed")
    assert content_hash(file) != first and len(asked) == 2
    os.utime(file)
    content_hash(file)
    assert len(asked) == 3
    monkeypatch.setenv("UNIDETOX_HOME", "/proc/nowhere")
    assert content_hash(file) == content_hash(file)
