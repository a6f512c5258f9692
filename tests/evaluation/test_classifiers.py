"""Sequence classifiers of many kinds as scorers: each against plain passes through its model, a text at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from unidetox.core.errors import UsageError
from unidetox.evaluation.scorers.classifier import ClassifierScorer
from unidetox.evaluation.scorers.interface import find_label
from unidetox.models import LoadOptions, load_classifier
from unidetox.models.adapters import quiet_peft

WORDS = ["they", "are", "bad", "kind", "people", "of", "the", "town", "she", "says", "it", "is", "good", *"abcdefgh"]
TEXTS = ["they are bad", "the people of the town are kind they are good it is", "she", "kind people"]
OPTIONS = LoadOptions("cpu", "float32")
BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "initializer_range": 0.5,
}  # fmt: skip


def tokenizer(*, around: bool = True, **names: Any) -> Any:
    """Make one of whole words; ``<unk>`` is token 0, ``<pad>`` 1, ``<s>`` 2 and ``</s>`` 3."""
    vocab = {word: i for i, word in enumerate(["<unk>", "<pad>", "<s>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **names)


def save(folder: Path, kind: str, tok: Any, labels: list[str], /, changes: dict[str, Any] | None = None, **config: Any):
    """Save a random classifier; ``changes`` go into its config.json afterwards."""
    torch.manual_seed(3)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    made = getattr(tf, f"{kind}Config")(vocab_size=len(tok), **names, **config)
    getattr(tf, f"{kind}ForSequenceClassification")(made).save_pretrained(folder)
    tok.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | (changes or {})))
    return folder


def plainly(scorer: ClassifierScorer, texts: list[str]) -> torch.Tensor:
    """The logits of texts one by one, without padding or mask."""
    judge = scorer.classifier
    with torch.no_grad():
        return torch.cat([judge.model(input_ids=torch.tensor([judge.tokenizer(t)["input_ids"]])).logits for t in texts])


DECODERS: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5},
    "Llama": {**BERT, "num_key_value_heads": 2},
    "Qwen2": {**BERT, "num_key_value_heads": 2},
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 32, "initializer_range": 0.5},
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("pad", "own"), [(None, "<pad>"), (None, None), (-1, None), (1, "<pad>"), (3, None), (10_000, None)]
)
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_score_texts_together_as_alone(kind: str, pad: int | None, own: str | None, side: str, tmp_path: Path):
    if kind in ("Llama", "Qwen2") and pad == 10_000:
        pad = -1  # transformers loads no other without an embedding
    tok = tokenizer(around=False, pad_token=own, eos_token="</s>", padding_side=side)
    save(tmp_path, kind, tok, ["fine", "toxic"], {"pad_token_id": pad}, **DECODERS[kind])
    scorer = ClassifierScorer(load_classifier(tmp_path, OPTIONS), "toxic")
    batches: list[int] = []
    scorer.classifier.model.register_forward_hook(lambda _, args, out: batches.append(len(out.logits)))
    found = [row["toxic"] for row in scorer.score(TEXTS)]
    assert max(batches) > 1
    assert found == pytest.approx(plainly(scorer, TEXTS).softmax(-1)[:, 1].tolist(), abs=1e-4)
    assert scorer.classifier.model.config.pad_token_id == pad


def test_where_no_padding_is_right_texts_of_one_length_go_together(tmp_path: Path):
    tok = tokenizer(pad_token="<pad>")
    scorer = ClassifierScorer(load_classifier(save(tmp_path, "Bert", tok, ["toxic"], pad_token_id=1, **BERT), OPTIONS))
    forward, widths = scorer.classifier.model.forward, []

    def without_mask(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        widths.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids)

    scorer.classifier.model.forward = without_mask
    texts = [*TEXTS, "people kind"]
    expected = [scorer.score([text])[0]["toxic"] for text in texts]
    widths.clear()
    assert [row["toxic"] for row in scorer.score(texts)] == pytest.approx(expected, abs=1e-5)
    assert widths[-1] == (1, 3)
    assert (2, 4) in widths


@pytest.mark.parametrize("kind", ["MPNet", "Roberta"])
def test_a_text_is_cut_to_the_positions_behind_the_padding(kind: str, tmp_path: Path):
    tok = tokenizer(pad_token="<pad>", cls_token="<s>", sep_token="</s>")
    save(tmp_path, kind, tok, ["fine", "toxic"], pad_token_id=1, max_position_embeddings=34, **BERT)
    scorer = ClassifierScorer(load_classifier(tmp_path, OPTIONS), "toxic")
    long, cut = " ".join(["bad"] * 31), " ".join(["bad"] * 30)
    longer, shorter = scorer.score([long, cut])
    assert scorer.n_truncated == 1
    assert longer == shorter


def test_a_model_that_needs_a_pad_token_and_has_none_is_named(tmp_path: Path):
    tok = tokenizer(pad_token="<pad>")
    save(tmp_path, "Roberta", tok, ["toxic"], {"pad_token_id": None}, pad_token_id=1, **BERT)
    with pytest.raises(UsageError, match=f"the classifier {tmp_path} cannot read texts .*pad_token_id"):
        ClassifierScorer(str(tmp_path), options=OPTIONS).score(TEXTS)


def test_a_token_without_an_embedding_is_named(tmp_path: Path):
    tok = tokenizer(pad_token="<pad>")
    save(tmp_path, "Bert", tok, ["toxic"], pad_token_id=1, **BERT)
    size = len(tok)
    tok.add_tokens(["brandnew"])
    tok.save_pretrained(tmp_path)
    scorer = ClassifierScorer(str(tmp_path), options=OPTIONS)
    scorer.score(["they are bad"])
    with pytest.raises(
        UsageError, match=rf"the classifier {tmp_path} has {size} embeddings .* token 'brandnew' \({size}\)"
    ):
        scorer.score(["they are brandnew"])


@pytest.mark.parametrize("value", [0.8, 4.5, -0.2])
def test_a_regression_gives_its_value(value: float, tmp_path: Path):
    from unidetox.evaluation.texts import analyze

    tok = tokenizer(pad_token="<pad>")
    save(tmp_path / "m", "Bert", tok, ["toxic"], pad_token_id=1, problem_type="regression", **BERT)
    model = tf.BertForSequenceClassification.from_pretrained(tmp_path / "m")
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(value)
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "t.txt").write_text("they are bad\nkind\n")
    (found,) = analyze(tmp_path / "t.txt", scorer=tmp_path / "m", device="cpu")["sets"]
    assert found["toxicity"]["mean"]["value"] == pytest.approx(value)
    assert sum(found["toxicity"]["histogram"]) == 2


@pytest.mark.parametrize(
    "labels",
    [["LABEL_0", "LABEL_1"], ["non-toxic", "toxic-ish"], ["neutral", "rude"], ["nontoxic"], ["not_toxic", "x", "y"]],
)
def test_a_hint_names_no_harmless_label(labels: list[str]):
    with pytest.raises(UsageError) as caught:
        find_label(labels, "toxic", "m")
    assert f"--scorer-label {labels[0]}" not in f"{caught.value} {caught.value.hint}"


def adapter(folder: Path, labels: int, tok: Any, **base: Any) -> Path:
    """Save a LoRA adapter with a head of so many labels on a plain encoder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    tf.BertModel(tf.BertConfig(vocab_size=len(tok), pad_token_id=1, **BERT, **base)).save_pretrained(folder / "base")
    tok.save_pretrained(folder / "base")
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=labels)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    with quiet_peft():
        adapted = get_peft_model(model, lora)
        adapted.save_pretrained(folder / "adapter")
    with torch.no_grad():
        torch.save(adapted.eval()(**tok(TEXTS[:1], return_tensors="pt")).logits, folder / "logits.pt")
    return folder / "adapter"


@pytest.mark.parametrize("labels", [None, ["toxicity", "insult", "threat"]])
def test_an_adapter_brings_its_head_and_labels(labels: list[str] | None, tmp_path: Path):
    folder = adapter(tmp_path, 3, tokenizer(pad_token="<pad>"))
    if labels is not None:
        (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    scorer = ClassifierScorer(str(folder), "insult" if labels else "LABEL_1", OPTIONS)
    scorer.check()
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    expected = logits.sigmoid() if labels else logits.softmax(-1)
    (row,) = scorer.score(TEXTS[:1])
    assert list(row) == (labels or ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert list(row.values()) == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_a_tokenizer_of_a_newer_version_is_said_in_one_line(tmp_path: Path):
    save(tmp_path / "newer", "Bert", tokenizer(pad_token="<pad>"), ["toxic"], pad_token_id=1, **BERT)
    file = tmp_path / "newer" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": {"type": "SplitOfTomorrow"}}))
    with pytest.raises(UsageError, match=r"cannot read the tokenizer of .*newer") as caught:
        ClassifierScorer(str(tmp_path / "newer"), options=OPTIONS).check()
    assert caught.value.exit_code == 2
