"""The metrics: pure formulas by hand, the scorer, likelihoods against one plain forward, rows of results."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.data import Question
from unidetox.decoding.sequences import max_positions
from unidetox.evaluation.collect import Chunks, Continuations, continuation_text, stream_key
from unidetox.evaluation.likelihoods import continuation_nll
from unidetox.evaluation.metrics.diversity import distinct_n
from unidetox.evaluation.metrics.mmlu import Answer, accuracy_rows
from unidetox.evaluation.metrics.perplexity import sample_perplexities
from unidetox.evaluation.metrics.summary import PromptMetrics, PromptTable, Row, Rules
from unidetox.evaluation.metrics.toxicity import toxicity_by_prompt
from unidetox.evaluation.mmlu import few_shot_prompt, score_questions
from unidetox.evaluation.prompt_encoding import default_bos, encode_pairs, encode_prompt
from unidetox.evaluation.scorers.classifier import ClassifierScorer, max_tokens
from unidetox.evaluation.scorers.interface import find_label
from unidetox.models import LM, Classifier, LoadOptions, load_classifier, load_lm

SCORES = [[0.1, 0.5, 0.2], [0.9, 0.6, 0.0], [0.1, 0.2, 0.3]]


# ---- toxicity: pure ----


def means(*how: Any, **more: Any) -> dict[str, float]:
    return {metric: float(values.mean()) for metric, values in toxicity_by_prompt(SCORES, *how, **more).items()}


def test_toxicity_statistics_by_hand():
    found, strict = means(), means(strict=True)
    assert (found["tp"], strict["tp"], means(0.95)["tp"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0)
    assert found["emt"] == strict["emt"] == pytest.approx((0.5 + 0.9 + 0.3) / 3)
    assert found["toxicity_mean"] == pytest.approx(2.9 / 9)
    assert (found["toxic_fraction"], strict["toxic_fraction"]) == (pytest.approx(3 / 9), pytest.approx(2 / 9))
    assert [values.shape for values in toxicity_by_prompt(SCORES).values()] == [(3,)] * 4


@pytest.mark.parametrize("bad", [[0.1, 0.2], np.zeros((0, 3)), [[0.1, float("nan")]]])
def test_toxicity_statistics_refuse_what_is_no_table_of_scores(bad: Any):
    with pytest.raises(UniDetoxError):
        toxicity_by_prompt(bad)


# ---- toxicity: the scorer ----


@pytest.fixture
def classifier(tiny_classifier: Path) -> Classifier:
    return load_classifier(tiny_classifier, LoadOptions("cpu", "float32"))


def test_label_is_named_and_never_guessed():
    assert find_label(["clean", "Toxic"], "toxic", "m") == "Toxic"
    with pytest.raises(UsageError, match="has no label 'toxic'; its labels: toxicity, insult") as caught:
        find_label(["toxicity", "insult"], "toxic", "m")
    assert "--scorer-label toxicity" in str(caught.value)
    with pytest.raises(UsageError, match="more than one"):
        find_label(["toxic", "TOXIC"], "toxic", "m")
    with pytest.raises(UsageError, match="--scorer-label LABEL_1"):
        find_label(["LABEL_0", "LABEL_1"], "toxic", "m")


def test_scores_do_not_depend_on_batches_order_or_repeats(classifier: Classifier):
    texts = ["the quick fox", "a", "people meet on sunday morning by the river", "the quick fox", ""]
    together = ClassifierScorer(classifier, "toxic").score(texts)
    alone = [ClassifierScorer(classifier, "toxic", tokens_per_batch=1).score([text])[0] for text in texts]
    backwards = ClassifierScorer(classifier, "TOXIC").score(texts[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert a["toxic"] == pytest.approx(b["toxic"], abs=1e-5) == pytest.approx(c["toxic"], abs=1e-5)
        assert 0 <= a["toxic"] <= 1
    assert together[0] == together[3]


def test_scores_equal_a_plain_forward(classifier: Classifier):
    text = "nobody was late"
    ids = classifier.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = classifier.model(**ids).logits.sigmoid().item()
    assert ClassifierScorer(classifier, "toxic").score([text])[0]["toxic"] == pytest.approx(expected, abs=1e-5)


def test_each_distinct_text_is_read_once(classifier: Classifier, monkeypatch: pytest.MonkeyPatch):
    rows = []
    forward = classifier.model.forward
    scorer = ClassifierScorer(classifier, "toxic")
    scorer.score(["a", "the quick fox"])  # tries once how rows may be padded
    monkeypatch.setattr(classifier.model, "forward", lambda **kw: (rows.append(len(kw["input_ids"])), forward(**kw))[1])
    scorer.score(["a b", "a b", "c", "c", "c"])
    assert sum(rows) == 2


def test_a_long_text_is_cut_and_counted(classifier: Classifier):
    assert max_tokens(classifier) == 64
    scorer = ClassifierScorer(classifier, "toxic")
    scorer.score(["fox " * 200, "fox"])
    assert scorer.n_truncated == 1


def test_no_text_no_score(classifier: Classifier):
    assert ClassifierScorer(classifier, "toxic").score([]) == []


def test_soft_max_where_one_label_of_many_is_picked(classifier: Classifier):
    model = _FakeModel(lambda ids: torch.tensor([[0.0, 2.0]]).repeat(len(ids), 1))
    two = Classifier(model, classifier.tokenizer, "two", ["fine", "toxic"], "softmax")
    row = ClassifierScorer(two, "toxic").score(["a"])[0]
    assert row["fine"] + row["toxic"] == pytest.approx(1)
    assert row["toxic"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_nan_scores_are_an_error(classifier: Classifier):
    model = _FakeModel(lambda ids: torch.full((len(ids), 1), float("nan")))
    broken = Classifier(model, classifier.tokenizer, "broken", ["toxic"], "sigmoid")
    with pytest.raises(UniDetoxError, match="broken answers NaN"):
        ClassifierScorer(broken, "toxic").score(["a"])


def test_out_of_memory_halves_the_batch_and_changes_nothing(classifier: Classifier):
    sizes = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ids[:, :1].float() / 100

    small = Classifier(_FakeModel(logits), classifier.tokenizer, "small", ["toxic"], "sigmoid")
    texts = ["fox", "dog", "cat", "sea", "sun"]
    halved = ClassifierScorer(small, "toxic").score(texts)
    assert max(sizes) == 5
    assert halved == [ClassifierScorer(small, "toxic").score([text])[0] for text in texts]


def test_no_memory_for_one_text_is_an_error(classifier: Classifier):
    def logits(ids: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UniDetoxError, match="no memory for one text"):
        ClassifierScorer(
            Classifier(_FakeModel(logits), classifier.tokenizer, "m", ["toxic"], "sigmoid"), "toxic"
        ).score(["a"])


class _FakeModel:
    """A classifier whose logits can be computed by hand."""

    def __init__(self, logits: Any) -> None:
        self.logits, self.device = logits, torch.device("cpu")
        from transformers import BertConfig

        self.config, self.dtype = BertConfig(pad_token_id=1, max_position_embeddings=64), torch.float32

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.logits(input_ids))


# ---- perplexity ----


def perplexities(nll: Any, tokens: Any, rules: Rules | None = None) -> tuple[Row, Row]:
    """Rows ``ppl`` and ``ppl_token`` of the continuations of one prompt."""
    pairs = enumerate(zip(nll, tokens, strict=True))
    rows = rows_of([row("0", i, 0.1, nll=float(one), nll_tokens=count) for i, (one, count) in pairs], rules)
    return find(rows, "ppl"), find(rows, "ppl_token")


def test_perplexity_of_a_b_a_is_two_a_plus_b_over_three():
    a, b = np.log(200) * 7, np.log(50) * 3
    mean, by_token = perplexities([a, b, a], [7, 3, 7])
    assert mean.value == pytest.approx((2 * 200 + 50) / 3)
    assert by_token.value == pytest.approx(np.exp((2 * a + b) / 17))


def test_empty_continuations_are_counted_not_averaged():
    for found in perplexities([0.0, 2 * np.log(8)], [0, 2]):
        assert (found.value, found.n, found.n_dropped) == (pytest.approx(8), 1, 1)
    for found in perplexities([0.0], [0]):
        assert (found.value, found.n, found.n_dropped) == (None, 0, 1)


def test_ceiling_drops_at_the_ceiling_and_above():
    result, _ = perplexities(np.log([10, 9_999, 1e4, 1e5]), [1, 1, 1, 1], Rules(ppl_ceiling=1e4))
    assert (result.value, result.n, result.n_dropped) == (pytest.approx((10 + 9_999) / 2), 2, 2)


def test_a_perplexity_beyond_a_double_is_dropped_and_counted():
    result, _ = perplexities([1e3, np.log(4) * 2], [1, 2])
    assert (result.value, result.n_dropped) == (pytest.approx(4), 1)


def test_nan_likelihood_is_an_error():
    with pytest.raises(UniDetoxError, match="NaN"):
        sample_perplexities([float("nan")], [1])


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon"])
def test_continuation_nll_equals_a_plain_forward(tiny_models: dict[str, Path], name: str):
    lm = load_lm(tiny_models[name], LoadOptions("cpu", "float32"))
    prompts = ["the quick brown", "a small town", "the quick brown", "the quick brown"]
    texts = [" fox jumps over", "s by the sea", "", " dog"]
    found = {r.index: r for r in continuation_nll(lm, prompts, texts)}
    assert sorted(found) == [0, 1, 2, 3]
    assert (found[2].nll, found[2].n_tokens) == (0.0, 0)
    for i in (0, 1, 3):
        nll, count = _plain_nll(lm, prompts[i], texts[i])
        assert found[i].nll == pytest.approx(nll, abs=1e-4)
        assert found[i].n_tokens == count


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_alone_the_same_tokens_follow_the_start_token_only(tiny_models: dict[str, Path], name: str):
    lm = load_lm(tiny_models[name], LoadOptions("cpu", "float32"))
    prompts, texts = ["the quick brown", "a small town", "the sea"], [" fox jumps over", "s by the sea", ""]
    given = {r.index: r for r in continuation_nll(lm, prompts, texts)}
    found = {r.index: r for r in continuation_nll(lm, prompts, texts, alone=True)}
    assert {i: r.n_tokens for i, r in found.items()} == {i: r.n_tokens for i, r in given.items()}
    assert (found[2].nll, found[2].n_tokens) == (0.0, 0)
    for i in (0, 1):
        encoded = lm.tokenizer(prompts[i] + texts[i])["input_ids"]
        row = [lm.tokenizer.bos_token_id, *encoded[-given[i].n_tokens :]]
        with torch.no_grad():
            logprobs = lm.model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        assert found[i].nll == pytest.approx(-sum(float(logprobs[k, t]) for k, t in enumerate(row[1:])), abs=1e-4)


def test_relevance_is_what_the_prompt_adds_a_token():
    each = [(6.0, 3, 9.0), (4.0, 1, 5.0), (0.0, 0, 0.0)]
    rows = [row("0", i, 0.1, nll=g, nll_tokens=n, nll_alone=a) for i, (g, n, a) in enumerate(each)]
    number = find(rows_of(rows), "relevance")
    assert (number.value, number.n, number.n_dropped) == (pytest.approx((3 + 1) / 4), 2, 1)
    assert number.higher_is_better is True


def test_without_likelihoods_alone_there_is_no_relevance():
    rows = rows_of([row("0", 0, 0.1, nll=6.0, nll_tokens=3)])
    assert not [found for found in rows if found.metric == "relevance"]


def _plain_nll(lm: LM, prompt: str, text: str) -> tuple[float, int]:
    """Score the continuation's tokens as the whole text has them; a token across the boundary is the continuation's."""
    encoded = lm.tokenizer(prompt + text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    start = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))), len(ids) - start


def test_a_prompt_too_long_is_cut_on_the_left_and_reported(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    results = {r.index: r for r in continuation_nll(lm, ["fox " * 300, "fox"], [" dog sleeps", " x" * 400])}
    assert results[0].cut
    assert results[0].n_tokens > 0
    assert np.isfinite(results[0].nll)
    assert results[1] == type(results[1])(1, 0.0, 0, cut=True)


def test_a_broken_perplexity_model_is_an_error(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    lm.model.transformer.wte.weight.data.fill_(float("nan"))
    with pytest.raises(UniDetoxError, match="not numbers"):
        list(continuation_nll(lm, ["the fox"], [" jumps"]))


# ---- diversity ----


def test_dist_counts_distinct_n_grams_over_all_words():
    assert distinct_n(["a b c", "a b d"], 1) == pytest.approx(4 / 6)
    assert distinct_n(["a b c", "a b d"], 2) == pytest.approx(3 / 6)
    assert distinct_n(["a b c", "a b d"], 3) == pytest.approx(2 / 6)
    assert distinct_n(["a  b\n"], 1) == 1.0


def test_toy_samples_give_one_on_continuations_and_a_half_with_prompts():
    prompt, samples = "people here are", [" kind", " tall", " loud"]
    assert distinct_n(samples, 1) == 1.0
    assert distinct_n([prompt + s for s in samples], 1, split_on_space=True) == 0.5


def test_texts_without_a_word_have_no_dist_and_are_left_out():
    assert distinct_n(["", " "], 1) is None
    assert distinct_n([""], 1, split_on_space=True) == 1.0
    texts = [row("0", 0, 0.1, continuation="a a"), row("1", 0, 0.1, continuation="")]
    assert find(rows_of(texts), "dist_1").value == 0.5
    assert find(rows_of(texts[1:]), "dist_1").value is None


# ---- tokens ----


def test_bos_only_where_the_tokenizer_adds_it(tiny_llama: Path):
    from tokenizers.processors import TemplateProcessing

    lm = load_lm(tiny_llama, LoadOptions("cpu", "float32"))
    assert default_bos(lm) is None
    lm.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    assert default_bos(lm) == 0
    ids, cut = encode_prompt(lm, "the fox", 20)
    assert ids[0] == 0
    assert ids[-1] != 0
    assert not cut
    assert encode_pairs(lm, ["the fox"], [" jumps"])[0].context[0] == 0


def test_a_long_prompt_keeps_its_end_and_its_bos(tiny_llama: Path):
    from tokenizers.processors import TemplateProcessing

    lm = load_lm(tiny_llama, LoadOptions("cpu", "float32"))
    whole, _ = encode_prompt(lm, "a small town by the sea ", 1)
    short, cut = encode_prompt(lm, "a small town by the sea " * 40, 20)
    assert cut
    assert len(short) == 108 == max_positions(lm.model.config) - 20
    assert short[-3:] == whole[-3:]
    lm.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    short, _ = encode_prompt(lm, "a small town by the sea " * 40, 20)
    assert (len(short), short[0]) == (108, 0)


def test_no_room_for_a_prompt_is_a_usage_error(tiny_gpt2: Path):
    with pytest.raises(UsageError, match="leaves no room"):
        encode_prompt(load_lm(tiny_gpt2, LoadOptions("cpu", "float32")), "the fox", 128)


def test_a_prompt_without_tokens_is_bos_alone(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    assert encode_prompt(lm, "", 5) == ([0], False)
    lm.tokenizer.bos_token = None
    lm.model.config.bos_token_id = None
    assert encode_prompt(lm, "", 5) == ([0], False), "where there is no BOS, what ends texts"
    lm.tokenizer.eos_token = lm.model.config.eos_token_id = None
    with pytest.raises(UsageError, match="no BOS"):
        encode_prompt(lm, "", 5)


def test_a_continuation_keeps_the_space_that_a_tokenizer_would_drop():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<s>", "▁the", "▁cat", "▁sat", "s"])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    assert tokenizer.decode([3]) == "sat"
    assert continuation_text(tokenizer, [0, 1, 2], [3]) == " sat"
    assert continuation_text(tokenizer, [0, 1, 2], [4]) == "s"
    assert continuation_text(tokenizer, [0, 1, 2], []) == ""


def test_a_stream_is_named_by_the_prompt_id_alone():
    assert stream_key("17") == stream_key("17") != stream_key("18")
    assert 0 <= stream_key("17") < 2**63
    # Written down: another number would silently change every evaluation.
    assert stream_key("0") == 0x5FECEB66FFC86F38 >> 1


# ---- MMLU ----

DEV = {"animals": (Question("animals", "What barks?", ("a cat", "a dog"), 1),)}


def test_few_shot_prompt_is_the_published_one_with_the_space_on_the_answer():
    asked = Question("animals", "What purrs?", ("a cat", "a dog"), 0)
    assert few_shot_prompt(asked, DEV["animals"]) == (
        "Question: What barks?\nAnswer: a dog\n\nQuestion: What purrs?\nAnswer:"
    )


def test_answers_are_scored_whole(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    asked = [
        Question("animals", "What purrs?", ("a cat", "the lazy dog", "sea"), 0),
        Question("animals", "What swims?", ("the fox", "a cat"), 0),
    ]
    answers = score_questions(lm, asked, DEV, shots=1)
    for question, answer in zip(asked, answers, strict=True):
        prompt = few_shot_prompt(question, DEV["animals"])
        expected = [-_plain_nll(lm, prompt, f" {choice}")[0] for choice in question.choices]
        assert answer.logprobs == pytest.approx(expected, abs=1e-3)
        assert answer.lengths == tuple(len(choice) for choice in question.choices)
        assert answer.is_right == (int(np.argmax(expected)) == question.answer)


def test_accuracy_whole_and_per_character():
    answers = [
        Answer("s", 0, (-1.0, -2.0), (1, 8)),
        Answer("s", 1, (-1.0, -2.0), (1, 8)),
        Answer("s", 0, (-1.0, -1.0), (4, 4)),
    ]
    rows = {row.metric: row for row in accuracy_rows(answers, target="t", method="base")}
    assert rows["accuracy"].value == rows["accuracy_norm"].value == pytest.approx(2 / 3)
    assert rows["accuracy"].n == 3
    assert rows["accuracy"].ci_low <= 2 / 3 <= rows["accuracy"].ci_high
    assert rows["accuracy"].higher_is_better is True
    assert accuracy_rows([], target="t", method="base") == []


def test_too_few_examples_is_a_usage_error(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    with pytest.raises(UsageError, match="has 1 solved examples, and 5"):
        score_questions(lm, [Question("animals", "?", ("a", "b"), 0)], DEV, shots=5)
    with pytest.raises(UsageError, match="does not fit"):
        score_questions(lm, [Question("animals", "?", ("a " * 300, "b"), 0)], DEV, shots=0)


def test_nan_answers_are_an_error(tiny_gpt2: Path):
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    lm.model.transformer.wte.weight.data.fill_(float("nan"))
    with pytest.raises(UniDetoxError, match="not numbers"):
        score_questions(lm, [Question("animals", "?", ("a", "b"), 0)], DEV, shots=0)


# ---- rows of results ----


def row(prompt_id: str, sample: int, toxicity: float, **changes: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id, "prompt": f"prompt {prompt_id}", "group": "women", "domain": "gender", "seed": 42,
        "sample": sample, "continuation": " a b", "finish_reason": "length", "n_tokens": 4, "toxicity": toxicity,
        "scores": {}, "nll": 4 * np.log(10), "nll_tokens": 4,
    } | changes  # fmt: skip


def rows_of(generations: list[dict[str, Any]], rules: Rules | None = None) -> list[Row]:
    return PromptMetrics(generations, rules).rows(target="t", method="base")


def find(rows: list[Row], metric: str, domain: str = "all", group: str | None = None, seed: int | None = None) -> Row:
    (found,) = [r for r in rows if (r.metric, r.domain, r.group, r.seed) == (metric, domain, group, seed)]
    return found


GENERATIONS = [
    row("0", 0, 0.5), row("0", 1, 0.1, continuation=" a c", finish_reason="eos", n_tokens=2),
    row("1", 0, 0.2, group="men"), row("1", 1, 0.4, group="men"),
    row("2", 0, 0.9, group="asian", domain="race"), row("2", 1, 0.7, group="asian", domain="race"),
    row("3", 0, 0.3, group="blind", domain="disability"), row("3", 1, 0.1, group="blind", domain="disability"),
    row("4", 0, 0.8, group="martians", domain=None), row("4", 1, 0.0, group="martians", domain=None),
]  # fmt: skip


def test_rows_by_hand():
    rows = rows_of(GENERATIONS)
    assert find(rows, "tp").value == pytest.approx(3 / 5)
    assert find(rows, "emt").value == pytest.approx((0.5 + 0.4 + 0.9 + 0.3 + 0.8) / 5)
    assert find(rows, "toxicity_mean").value == pytest.approx(0.4)
    assert find(rows, "toxic_fraction").value == pytest.approx(4 / 10)
    assert find(rows, "tp", "gender").value == pytest.approx(1 / 2)
    assert find(rows, "tp", "gender").n == 2
    # ID is the unweighted mean over its domains: (1/2 + 1) / 2, not 2 of 3 prompts.
    assert find(rows, "tp", "id").value == pytest.approx(0.75)
    assert find(rows, "tp", "id").n == 3
    assert find(rows, "tp", "ood").value == 0.0
    assert find(rows, "emt", "ood").value == pytest.approx(0.3)
    assert find(rows, "tp", "gender", "women").value == 1.0
    assert find(rows, "tp", "gender", "men").value == 0.0
    assert find(rows, "emt", "all", "martians").value == pytest.approx(0.8)
    assert find(rows, "ppl").value == pytest.approx(10)
    assert (find(rows, "ppl").n, find(rows, "ppl").n_dropped) == (10, 0)
    assert find(rows, "ppl_token").value == pytest.approx(10)
    assert find(rows, "dist_1", "gender").value == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert find(rows, "mean_length").value == pytest.approx((3 + 4 * 4) / 5)
    assert find(rows, "eos_rate").value == pytest.approx(0.1)


def test_every_row_has_its_interval_its_n_and_its_direction():
    for r in PromptMetrics(GENERATIONS).rows(target="t", method="unidetox"):
        assert (r.target, r.method) == ("t", "unidetox")
        assert r.n > 0
        if r.ci_low is None:  # a single prompt, or one in a domain of a macro-mean
            assert r.domain != "all" or r.group is not None
        else:
            assert r.ci_low - 1e-9 <= r.value <= r.ci_high + 1e-9
        better = {"tp": False, "emt": False, "ppl": False, "dist_1": True, "mean_length": None}
        assert r.higher_is_better is better.get(r.metric, r.higher_is_better)


def test_a_share_of_nothing_has_an_interval():
    """No loop and no toxic continuation after 5 prompts does not mean that there never is one."""
    rows = rows_of(GENERATIONS, Rules(threshold=0.99))
    for metric in ("tp", "toxic_fraction", "loop_rate", "empty_rate"):
        found = find(rows, metric)
        assert (found.value, found.ci_low, found.ci_high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 5)))


def test_groups_have_toxicity_only():
    metrics = {r.metric for r in rows_of(GENERATIONS) if r.group is not None}
    assert metrics == {"tp", "emt", "toxicity_mean", "toxic_fraction"}


def test_seeds_are_reported_and_averaged():
    second = [g | {"seed": 43, "toxicity": 0.0, "nll": g["nll"] * 2} for g in GENERATIONS]
    rows = rows_of([*second, *GENERATIONS])
    assert find(rows, "tp", seed=42).value == pytest.approx(3 / 5)
    assert find(rows, "tp", seed=43).value == 0.0
    assert find(rows, "tp").value == pytest.approx(3 / 10)
    assert find(rows, "tp").n == 5
    assert find(rows, "ppl", seed=43).value == pytest.approx(100)
    assert find(rows, "ppl").value == pytest.approx(55)
    assert find(rows, "ppl").n == 20
    assert find(rows, "ppl_token").value == pytest.approx(55)


def test_other_id_domains():
    rows = rows_of(GENERATIONS, Rules(id_domains=("disability",)))
    assert find(rows, "emt", "id").value == pytest.approx(0.3)
    assert find(rows, "emt", "ood").value == pytest.approx(((0.5 + 0.4) / 2 + 0.9) / 2)


def test_what_has_no_perplexity_is_counted():
    empty = {"continuation": "", "n_tokens": 0, "nll": 0.0, "nll_tokens": 0}
    some = [row("0", 0, 0.1, **empty), row("0", 1, 0.1), row("1", 0, 0.1, **empty), row("1", 1, 0.1, **empty)]
    rows = rows_of(some)
    assert (find(rows, "ppl").value, find(rows, "ppl").n, find(rows, "ppl").n_dropped) == (pytest.approx(10), 1, 3)
    assert (find(rows, "ppl_token").n, find(rows, "ppl_token").n_dropped) == (1, 3)
    assert (find(rows, "dist_1").n, find(rows, "dist_1").n_dropped) == (1, 1)
    nothing = find(rows_of([row("0", 0, 0.1, **empty)]), "ppl")
    assert (nothing.value, nothing.ci_low, nothing.n, nothing.n_dropped) == (None, None, 0, 1)


def test_without_a_perplexity_model_there_are_no_such_rows():
    rows = rows_of([row("0", 0, 0.1, nll=None, nll_tokens=None)])
    assert not {"ppl", "ppl_token"} & {r.metric for r in rows}


def test_paper_rules():
    rules = Rules.of("paper", 0.5, ("gender", "race", "religion"))
    high = [row("0", 0, 0.5, nll=4 * np.log(1e5)), row("0", 1, 0.1)]
    rows = rows_of(high, rules)
    assert find(rows, "tp").value == 0.0
    assert (find(rows, "ppl").value, find(rows, "ppl").n_dropped) == (pytest.approx(10), 1)
    # "prompt 0 a b" twice: 4 distinct words of 8.
    assert find(rows, "dist_1").value == pytest.approx(0.5)
    default = rows_of(high)
    assert find(default, "tp").value == 1.0
    assert find(default, "ppl").value == pytest.approx((1e5 + 10) / 2)


def test_equal_prompts_stay_apart():
    twice = [row("0", 0, 0.9, prompt="same"), row("1", 0, 0.1, prompt="same")]
    assert find(rows_of(twice), "tp").n == 2


def test_nothing_gives_nothing():
    assert rows_of([]) == []


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_missing_score_is_an_error(score: Any):
    with pytest.raises(UniDetoxError, match="no toxicity score"):
        rows_of([row("0", 0, score)])


def test_seeds_that_differ_are_an_error():
    with pytest.raises(UniDetoxError, match="the same prompts"):
        rows_of([row("0", 0, 0.1), row("1", 0, 0.1, seed=43)])


# ---- parts on disk ----


def test_chunks_are_there_whole_or_not_at_all(tmp_path: Path):
    chunks = Chunks(tmp_path / "c", 5, 2)
    assert chunks.missing() == [slice(0, 2), slice(2, 4), slice(4, 5)]
    chunks.put(slice(2, 4), ["c", "d"], n_cut=1)
    assert chunks.missing() == [slice(0, 2), slice(4, 5)]
    chunks.put(slice(0, 2), ["a", "b"], n_cut=2)
    chunks.put(slice(4, 5), ["e"])
    assert list(chunks.rows()) == ["a", "b", "c", "d", "e"]
    assert chunks.count("n_cut") == 3
    assert Chunks(tmp_path / "none", 0).missing() == []


def test_continuations_are_sorted_and_a_half_written_line_is_ignored(tmp_path: Path):
    part = Continuations(tmp_path / "part", 2, 1)
    assert not part.complete()
    assert part.n_prompts_cut == 0
    part.directory.mkdir()
    part.path.write_text('{"prompt": 1, "sample": 0}\n{"prompt": 0, "sample": 0}\n{"prompt": 1, "sam')
    assert [r["prompt"] for r in part.rows()] == [0, 1]
    assert part.complete()
    part.note(3)
    assert part.n_prompts_cut == 3


def test_a_table_holds_each_prompt_once_over_all_seeds():
    def row(prompt, seed, toxicity, nll):
        return {
            "prompt_id": prompt, "prompt": "p", "group": f"g{prompt}", "domain": "race", "seed": seed, "sample": 0,
            "continuation": "a b", "finish_reason": "eos", "n_tokens": 2, "toxicity": toxicity, "nll": nll,
            "nll_tokens": 2,
        }  # fmt: skip

    rows = [row("7", 1, 0.9, 3.0), row("3", 1, 0.1, 1.0), row("7", 2, 0.3, 5.0), row("3", 2, 0.2, 1.0)]
    table = PromptMetrics(rows).table()
    assert (table.prompt_ids, table.groups, table.domains) == (("7", "3"), ("g7", "g3"), ("race", "race"))
    assert table.columns["tp"].value.tolist() == [0.5, 0.0]
    assert table.columns["emt"].value == pytest.approx([0.6, 0.15])
    assert table.columns["ppl_token"].value.tolist() == [8.0, 2.0]
    assert table.columns["ppl_token"].weight.tolist() == [4.0, 4.0]
    again = PromptTable.from_json(json.loads(json.dumps(table.to_json())))
    assert (again.prompt_ids, again.groups, again.domains) == (table.prompt_ids, table.groups, table.domains)
    for metric, column in table.columns.items():
        assert [side.tolist() for side in again.columns[metric]] == [side.tolist() for side in column]
