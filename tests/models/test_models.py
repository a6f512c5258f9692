"""Loading, saving and naming models, and what is said where that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unidetox.core.errors import MissingError, UniDetoxError, UsageError
from unidetox.core.names import short_name, slug, unique_slugs
from unidetox.models import (
    LoadOptions,
    bos_id,
    check_same_vocabulary,
    choose_device,
    choose_dtype,
    eos_ids,
    fingerprint,
    load_classifier,
    load_lm,
    load_tokenizer,
    pad_id,
    save_lm,
)
from unidetox.models.devices import cpu_bfloat16_unit

CPU = torch.device("cpu")
PROMPT = torch.tensor([[0, 5, 17, 40, 8]])


@pytest.fixture
def copy(tmp_path: Path):
    """A copy of a model directory that a test may spoil."""

    def make(source: Path, *, without: str = "nothing", name: str = "copy") -> Path:
        return Path(shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns(without)))

    return make


# ---- device and number type ----


@pytest.mark.parametrize("name", ["tpu!", "xpu", "meta", ""])
def test_a_name_that_is_no_device(name):
    with pytest.raises(UsageError, match="no such device"):
        choose_device(name)


def test_a_device_that_is_not_there():
    absent = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(MissingError, match="not in this machine"):
        choose_device(absent)
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile amx_bf16", "AMX-BF16"),
        ("flags\t\t: fpu avx512f avx512_bf16", "AVX512-BF16"),
        ("Features\t: fp asimd bf16", "Arm BF16"),
        ("flags\t\t: fpu avx2", None),
        ("nothing of the kind", None),
    ],
)
def test_the_processor_says_whether_bfloat16_is_fast(tmp_path, line, unit):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\n{line}\n")
    assert cpu_bfloat16_unit(file) == unit


def test_auto_dtype_follows_the_processor(monkeypatch):
    for unit, dtype in (("AMX-BF16", torch.bfloat16), (None, torch.float32)):
        monkeypatch.setattr("unidetox.models.devices.cpu_bfloat16_unit", lambda unit=unit: unit)
        chosen, reason = choose_dtype("auto", CPU)
        assert chosen == dtype
        assert (unit or "without bfloat16") in reason
    assert cpu_bfloat16_unit(Path("/no/such/file")) is None


def test_dtype_names():
    assert choose_dtype("bf16", CPU)[0] == torch.bfloat16
    assert choose_dtype("float32", CPU) == (torch.float32, "as asked")
    with pytest.raises(UsageError, match="no such dtype: 'int8'"):
        choose_dtype("int8", CPU)


# ---- loading ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
def test_every_architecture_loads_ready_to_be_asked(tiny_models, name):
    lm = load_lm(tiny_models[name], LoadOptions("cpu", "float32"))
    assert not lm.model.training
    assert lm.model.dtype == lm.dtype == torch.float32
    assert lm.unidetox is None
    assert bos_id(lm.tokenizer, lm.model.config) == 0
    assert eos_ids(lm.tokenizer, lm.model.config, lm.model.generation_config) == (0,)
    assert pad_id(lm.tokenizer, lm.model.config) == (1 if name == "opt" else 0)


def test_dtype_and_notes_of_ours(tiny_gpt2, copy):
    path = copy(tiny_gpt2)
    (path / "unidetox.json").write_text('{"method": "unidetox"}')
    lm = load_lm(path, LoadOptions("cpu", "bf16"))
    assert lm.model.dtype == torch.bfloat16
    assert lm.unidetox == {"method": "unidetox"}
    (path / "unidetox.json").write_text("{")
    with pytest.raises(UsageError, match=r"unidetox\.json holds no JSON object"):
        load_lm(path, LoadOptions("cpu"))


class Tokens:
    def __init__(self, bos=None, eos=None, pad=None):
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos, eos, pad


def test_special_tokens_where_tokenizer_and_configuration_differ():
    assert bos_id(Tokens(), Tokens(bos=11)) == 11, "Falcon: only the configuration knows"
    assert bos_id(Tokens(bos=2), Tokens(bos=1)) == 2
    assert bos_id(Tokens(), Tokens()) is None
    assert eos_ids(Tokens(eos=5), Tokens(eos=2), Tokens(eos=[2, 9])) == (5, 2, 9)
    assert eos_ids(Tokens(), Tokens()) == ()
    assert pad_id(Tokens(), Tokens(pad=-1)) == 0
    assert pad_id(Tokens(eos=7), Tokens(pad=-1)) == 7


def test_what_is_not_a_model(tmp_path, tiny_gpt2, tiny_classifier, tiny_opt, copy):
    file = tmp_path / "file.json"
    file.write_text("{}")
    config_only = tmp_path / "config_only"
    config_only.mkdir()
    shutil.copy(tiny_gpt2 / "config.json", config_only)
    cases = [
        (tmp_path / "nothing", MissingError, "does not exist"),
        (file, MissingError, "is a file, not a directory"),
        (tmp_path, MissingError, "no config.json"),
        (copy(tiny_gpt2, without="tokenizer*"), MissingError, "no tokenizer in"),
        (copy(tiny_opt, without="*.safetensors", name="weightless"), MissingError, "no weights"),
        (tiny_classifier, UsageError, "not a complete causal language model"),
    ]
    for path, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            load_lm(path, LoadOptions("cpu"))
        assert caught.value.hint
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x00\x01binary"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "never_heard_of"}'),
        ("config.json", b"{}"),
        ("tokenizer.json", b"not json"),
    ],
)
def test_spoilt_files_give_one_line(tiny_gpt2, copy, file, content):
    path = copy(tiny_gpt2)
    (path / file).write_bytes(content)
    with pytest.raises((UsageError, MissingError)) as caught:
        load_lm(path, LoadOptions("cpu"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)")])
def test_too_little_memory_is_no_spoilt_file(tiny_gpt2, monkeypatch, error):
    import transformers

    def from_pretrained(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(type(error)):
        load_lm(tiny_gpt2, LoadOptions("cpu"))


def test_an_encoder_decoder_is_refused(tiny_gpt2, copy):
    from transformers import T5Config

    path = copy(tiny_gpt2)
    T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16).save_pretrained(path)
    with pytest.raises(UsageError, match="another kind of model"):
        load_lm(path, LoadOptions("cpu"))


def test_code_of_the_model_is_run_only_when_asked(tiny_gpt2, copy):
    path = copy(tiny_gpt2)
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UsageError, match="needs Python code of its own") as caught:
        load_lm(path, LoadOptions("cpu"))
    assert "--trust-remote-code" in caught.value.hint


def test_an_id_that_is_nowhere_is_said_within_seconds():
    started = time.monotonic()
    with pytest.raises(MissingError) as caught:
        load_lm("nobody/no-such-model", LoadOptions("cpu"))
    assert "hf download nobody/no-such-model" in str(caught.value)
    assert time.monotonic() - started < 10


OFFLINE = """
import sys
from unidetox.models import LoadOptions, fingerprint, load_classifier, load_lm
lm = load_lm("somebody/tiny-lm", LoadOptions("cpu", "float32"))
classifier = load_classifier("somebody/tiny-judge", LoadOptions("cpu", "float32"))
print(type(lm.model).__name__, classifier.labels, fingerprint("somebody/tiny-lm"))
"""


def test_ids_in_the_cache_load_offline(tmp_path, tiny_llama, tiny_classifier):
    for name, source in (("tiny-lm", tiny_llama), ("tiny-judge", tiny_classifier)):
        repo = tmp_path / "hub" / f"models--somebody--{name}"
        shutil.copytree(source, repo / "snapshots" / "abc123")
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc123")
    source = str(Path(__file__).parents[2] / "src")
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": source}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "LlamaForCausalLM ['toxic'] somebody/tiny-lm@abc123", done.stderr


def test_importing_costs_no_torch():
    code = "import sys, unidetox.models; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


# ---- adapters, classifiers, saving ----


def test_an_adapter_directory_loads_as_base_and_adapter(tiny_gpt2, tmp_path):
    from unidetox.training import TrainSettings, add_lora

    base = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    adapted = add_lora(base.model, TrainSettings(steps=1, lora=True, lora_rank=4))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        expected = adapted.eval()(PROMPT).logits
    save_lm(adapted, base.tokenizer, tmp_path / "adapter")
    (tmp_path / "adapter" / "tokenizer.json").unlink()

    lm = load_lm(tmp_path / "adapter", LoadOptions("cpu", "float32"))
    assert type(lm.model).__name__ == "GPT2LMHeadModel"
    torch.testing.assert_close(lm.model(PROMPT).logits, expected, atol=1e-4, rtol=1e-4)
    assert len(lm.tokenizer) == len(base.tokenizer)

    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="does not name its base model"):
        load_lm(tmp_path / "adapter", LoadOptions("cpu"))


def test_saved_models_load_with_transformers_alone(tiny_opt, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = load_lm(tiny_opt, LoadOptions("cpu", "float32"))
    save_lm(lm.model, lm.tokenizer, tmp_path / "same")
    save_lm(lm.model, lm.tokenizer, tmp_path / "half", dtype=torch.bfloat16)
    same = AutoModelForCausalLM.from_pretrained(tmp_path / "same")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    torch.testing.assert_close(same(PROMPT).logits, lm.model(PROMPT).logits)
    assert half.dtype == torch.bfloat16
    assert lm.model.dtype == torch.float32, "saving changes nothing"
    torch.testing.assert_close(half.float()(PROMPT).logits, lm.model(PROMPT).logits, atol=0.3, rtol=0.1)
    assert AutoTokenizer.from_pretrained(tmp_path / "half").get_vocab() == lm.tokenizer.get_vocab()
    assert not list((tmp_path / "half").glob("*.bin"))


def test_tied_weights_are_saved_once_in_another_number_type(tiny_gpt2, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    save_lm(lm.model, lm.tokenizer, tmp_path / "half", dtype=torch.bfloat16)
    whole, half = (load_file(folder / "model.safetensors") for folder in (tiny_gpt2, tmp_path / "half"))
    assert half.keys() == whole.keys()
    assert all(half[name].equal(whole[name].bfloat16()) for name in whole)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tiny_gpt2, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_a_generation_config_that_contradicts_itself_does_not_stop_saving(tiny_gpt2, tmp_path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    lm.model.generation_config.temperature = 0.6
    save_lm(lm.model, lm.tokenizer, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_classifiers(tiny_classifier, tiny_gpt2):
    judge = load_classifier(tiny_classifier, LoadOptions("cpu", "float32"))
    assert judge.labels == ["toxic"]
    assert judge.activation == "sigmoid"
    assert not judge.model.training
    with pytest.raises(UsageError, match="not a complete sequence classifier"):
        load_classifier(tiny_gpt2, LoadOptions("cpu", "float32"))


# ---- vocabularies and names ----


def test_same_vocabulary(tiny_gpt2, tiny_gpt2_toxic, tiny_opt):
    base, toxic, other = (load_lm(path, LoadOptions("cpu")) for path in (tiny_gpt2, tiny_gpt2_toxic, tiny_opt))
    check_same_vocabulary(base, toxic)
    with pytest.raises(UsageError, match=r"different vocabularies: .* is token"):
        check_same_vocabulary(base, other)
    other.tokenizer.add_tokens(["more"])
    with pytest.raises(UsageError, match=r"different vocabularies: \d+ and \d+ tokens"):
        check_same_vocabulary(base, other)
    toxic.model.resize_token_embeddings(len(toxic.tokenizer) + 8)
    with pytest.raises(UsageError, match="logits"):
        check_same_vocabulary(base, toxic)
    vocab = base.tokenizer.get_vocab()
    first, second = list(vocab)[:2]
    swapped = vocab | {first: vocab[second], second: vocab[first]}
    toxic.tokenizer = type("Swapped", (), {"get_vocab": lambda self: swapped})()
    with pytest.raises(UsageError, match="is token"):
        check_same_vocabulary(base, toxic)


def test_names():
    assert short_name("facebook/opt-6.7b") == "opt-6.7b"
    assert short_name("/data/runs/opt-1/model/") == "opt-1"
    assert short_name("gpt2") == "gpt2"
    assert short_name("model") == "model"
    assert slug("a/ü ber$model") == "ber-model"
    assert slug("../..") == "model"
    assert slug("x/.hidden") == "hidden"
    assert unique_slugs(["a/gpt2", "opt"]) == ["gpt2", "opt"]
    same = unique_slugs(["a/gpt2", "b/gpt2"])
    assert len(set(same)) == 2
    assert all(name.startswith("gpt2-") for name in same)


def test_fingerprint_notices_what_matters(tiny_gpt2, copy):
    path = copy(tiny_gpt2)
    assert fingerprint(path) == fingerprint(tiny_gpt2)
    (path / "README.md").write_text("x")
    (path / "stage.json").write_text("{}")
    assert fingerprint(path) == fingerprint(tiny_gpt2)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace("gelu_new", "relu"))
    assert fingerprint(path) != fingerprint(tiny_gpt2)
    assert fingerprint("nobody/none") == "nobody/none"


@pytest.mark.parametrize("start", [0, 4_500_000, (9 << 20) - (300 << 10)])
def test_fingerprint_of_large_files_samples_all_of_them(tmp_path, start):
    file = tmp_path / "model.safetensors"
    content = bytearray(9 << 20)
    file.write_bytes(content)
    before = fingerprint(tmp_path)
    content[start : start + (300 << 10)] = b"\1" * (300 << 10)
    file.write_bytes(content)
    assert fingerprint(tmp_path) != before


def test_tokenizer_alone(tiny_llama):
    assert load_tokenizer(tiny_llama).eos_token_id == 0


def test_errors_of_the_user_are_ours(tmp_path):
    with pytest.raises(UniDetoxError):
        load_tokenizer(tmp_path / "nothing")
