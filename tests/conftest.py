"""Tiny real models, made on the spot: random weights, real architectures, real tokenizers, real directories."""

from __future__ import annotations

import os
from pathlib import Path

# Before any library reads them, and for every process that a test starts: no network, and one thread of torch each, as
# several workers share the cores and bits are compared between processes.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("COLUMNS", "200")

import pytest
from needs import (  # noqa: F401
    SHARED,
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
)


@pytest.fixture(autouse=True)
def said_as_usual() -> None:
    """A command with ``--quiet`` in this process does not silence the tests after it."""
    from unidetox.core import console

    console.configure()


CORPUS = [
    "the quick brown fox jumps over the lazy dog and then it sleeps all day",
    "a small town by the sea has a market where people meet on sunday morning",
    "she reads a book about the history of the river while he cooks dinner",
    "they walked home, talked about music; nobody was late (not even the cat).",
] * 8

ARCHITECTURES = ("gpt2", "llama", "opt", "falcon")


def make_tokenizer(
    directory: Path, *, special: str = "<|endoftext|>", pad: str | None = None, seed_word: str = ""
) -> None:
    """Train a byte-level BPE on a few sentences and save it in the Hugging Face format."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    specials = [special] + ([pad] if pad else [])
    bpe.train_from_iterator(
        [*CORPUS, seed_word * 4],
        vocab_size=320,
        min_frequency=2,
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=special,
        eos_token=special,
        pad_token=pad,
        model_max_length=128,
    )
    tokenizer.save_pretrained(directory)


def make_lm(directory: Path, architecture: str, seed: int) -> Path:
    """Save a random causal LM of two layers, 32 wide, with a tokenizer of its own."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        FalconConfig,
        GPT2Config,
        LlamaConfig,
        OPTConfig,
    )

    make_tokenizer(directory, pad="<pad>" if architecture == "opt" else None)
    vocab = len(AutoTokenizer.from_pretrained(directory))
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1 if architecture == "opt" else None}
    configs = {
        "gpt2": lambda: GPT2Config(
            vocab_size=vocab, n_positions=128, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0, initializer_range=0.3, **ids,
        ),
        "llama": lambda: LlamaConfig(
            vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, **ids,
        ),
        "opt": lambda: OPTConfig(
            vocab_size=vocab, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=128, word_embed_proj_dim=32, dropout=0.0, init_std=0.3, **ids,
        ),
        "falcon": lambda: FalconConfig(
            vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, alibi=False, bias=False,
            max_position_embeddings=128, initializer_range=0.3, hidden_dropout=0.0, attention_dropout=0.0, **ids,
        ),
    }  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(configs[architecture]()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All tiny LMs by name; ``gpt2`` and ``gpt2_toxic`` share a vocabulary."""
    root = tmp_path_factory.mktemp("models")
    models = {name: make_lm(root / name, name, seed) for seed, name in enumerate(ARCHITECTURES)}
    models["gpt2_toxic"] = make_lm(root / "gpt2_toxic", "gpt2", 100)
    return models


@pytest.fixture
def tiny_gpt2(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["gpt2"]


@pytest.fixture
def tiny_gpt2_toxic(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["gpt2_toxic"]


@pytest.fixture
def tiny_llama(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["llama"]


@pytest.fixture
def tiny_opt(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["opt"]


@pytest.fixture
def tiny_falcon(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["falcon"]


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with one sigmoid label ``toxic``."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    directory = tmp_path_factory.mktemp("classifier")
    make_tokenizer(directory, pad="<pad>")
    vocab = len(AutoTokenizer.from_pretrained(directory))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=1, num_labels=1, id2label={0: "toxic"}, label2id={"toxic": 0},
        problem_type="multi_label_classification", initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def toxic_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the labels of ``unitary/toxic-bert``, in their order, and no word on how to read them."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    directory = tmp_path_factory.mktemp("toxic-bert")
    make_tokenizer(directory, pad="<pad>")
    labels = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(directory)), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64, pad_token_id=1,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models; who asks for it is marked `real_data`."""
    return SHARED
