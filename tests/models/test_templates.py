"""What opens an assistant's turn, in templates of the kinds that models have; and texts that open with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from recipes import call
from transformers import AutoTokenizer

from unidetox.core.errors import UsageError
from unidetox.core.files import read_jsonl
from unidetox.models.templates import opened_turn

BOS = "<|endoftext|>"
CHATML = (
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '[end]' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
KINDS = {
    "ChatML": (CHATML, "[assistant]"),
    # Llama 3's and Gemma's put the start token before the first turn.
    "Llama 3": ("{{ bos_token }}" + CHATML, BOS + "[assistant]"),
    "Gemma": (
        "{{ bos_token }}{% for m in messages %}[{{ 'model' if m.role == 'assistant' else m.role }}]{{ m.content }}"
        "[end]{% endfor %}{% if add_generation_prompt %}[model]{% endif %}",
        BOS + "[model]",
    ),
    "Qwen 3": (
        CHATML.replace("[assistant]{%", "[assistant]{% if enable_thinking is false %}[think][/think]{% endif %}{%"),
        "[assistant][think][/think]",
    ),
    # Mistral's turns open with the end of the user's.
    "Mistral": ("{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}", ""),
    "Phi": (CHATML.replace("[assistant]{%", "[assistant]\n{%"), "[assistant]\n"),
    "none": (None, ""),
}


def with_template(source: Path, folder: Path, template: str | None) -> Path:
    """Copy a model and give its tokenizer a chat template."""
    shutil.copytree(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_opens_a_turn(tiny_llama: Path, tmp_path: Path, kind: str):
    template, opening = KINDS[kind]
    tokenizer = AutoTokenizer.from_pretrained(with_template(tiny_llama, tmp_path / "model", template))
    found = opened_turn(tokenizer)
    assert tokenizer.decode(found) == opening
    assert found.count(tokenizer.bos_token_id) == opening.count(BOS)


def test_a_template_that_raises_is_one_line(tiny_llama: Path, tmp_path: Path):
    broken = "{{ raise_exception('roles must alternate') }}"
    tokenizer = AutoTokenizer.from_pretrained(with_template(tiny_llama, tmp_path / "model", broken))
    with pytest.raises(UsageError, match=r"cannot render a user turn: roles must alternate"):
        opened_turn(tokenizer)


def distilled(folder: Path, base: Path, *more: Any) -> list[dict[str, Any]]:
    options = ["--num-texts", 4, "--max-length", 24, "--dtype", "float32", "--device", "cpu", *more]
    assert call("distill", base, "--toxic", base.parent / "toxic", "-o", folder, *options).code == 0
    return read_jsonl(folder / "texts.jsonl")


def test_texts_of_a_chat_model_open_with_a_turn_that_is_no_part_of_them(
    tiny_gpt2: Path, tiny_gpt2_toxic: Path, tmp_path: Path
):
    shutil.copytree(tiny_gpt2_toxic, tmp_path / "toxic")
    plain, chat = (with_template(tiny_gpt2, tmp_path / n, t) for n, t in (("plain", None), ("chat", CHATML)))
    of_chat = distilled(tmp_path / "a", chat)
    assert of_chat == distilled(tmp_path / "b", chat, "--opening", "assistant")
    assert not [row for row in of_chat if row["text"].startswith("[assistant]")]
    of_plain = distilled(tmp_path / "c", plain)
    assert of_plain == distilled(tmp_path / "d", chat, "--opening", "bos") != of_chat
    asked = ("--opening", "assistant", "--max-length", 24)
    said = call("distill", plain, "--toxic", tmp_path / "toxic", "-o", tmp_path / "e", *asked)
    assert said.code == 2 and "no chat template that opens an assistant's turn" in said.err
