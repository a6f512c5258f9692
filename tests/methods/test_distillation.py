"""Small parts of making texts; the stages as a whole are in tests/e2e."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unidetox.core.resolve import resolve_source
from unidetox.data import TextSet, read_texts
from unidetox.methods import checkpoint_stage, distillation
from unidetox.methods.best_of import Candidates
from unidetox.models import load_tokenizer


def test_texts_are_what_the_model_wrote(tiny_gpt2: Path):
    """Some tokenizers are set to "clean up" spaces when they decode, which the model never saw."""
    tokenizer = load_tokenizer(tiny_gpt2)
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True  # newer transformers
    written = "the cat does n't sleep , nobody is late ."
    ids = tokenizer(written)["input_ids"]
    assert tokenizer.decode(ids) != written
    item: Any = SimpleNamespace(prompt_index=0, sample_index=0, token_ids=ids, finish_reason="eos")
    base: Any = SimpleNamespace(tokenizer=tokenizer)
    row = distillation._row(base, [0], item, Candidates(texts=1, starts=1, best_of=1))
    assert row["text"] == written


def test_what_may_be_published_names_no_folder_of_this_machine(tmp_path: Path):
    file = tmp_path / "texts.csv"
    file.write_text("text\nthe fox\n")
    assert checkpoint_stage.texts_info(read_texts(str(file)))["source"] == "texts.csv"
    for source in ("somebody/texts", "dghs"):
        assert checkpoint_stage.texts_info(TextSet((), source, "0"))["source"] == source
    inside = resolve_source("sandbox:toxic_corpus.csv", None)
    assert checkpoint_stage.texts_info(TextSet((), inside, "0"))["source"] == "sandbox:toxic_corpus.csv"
