"""`ContrastiveLogitsProcessor` inside transformers' `generate` equals the contrast computed without any cache."""

from typing import Any

import pytest
import torch
from decoding_zoo import plain_logits, prompts, zoo
from transformers import LogitsProcessorList

from unidetox.core.errors import UsageError
from unidetox.decoding import ContrastiveLogitsProcessor, SamplingSettings, contrast, contrast_scores, sample

ALPHA = 0.05
HEADS = prompts(3, longest=11, seed=12)


def exact(base: Any, toxic: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities ``[vocabulary]`` after ``ids`` by two uncached forward passes."""
    logits = [plain_logits(model, ids)[-1] for model in (base, toxic)]
    return contrast_scores(logits[0], logits[1], alpha=ALPHA).log_softmax(-1)


def generate(base: Any, processor: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, **options: Any) -> Any:
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": 6, "top_k": 0, "return_dict_in_generate": True, "output_scores": True} | options
    with torch.inference_mode():
        return base.generate(
            ids, attention_mask=mask, logits_processor=LogitsProcessorList([processor]), eos_token_id=None, **options
        )


def check_scores(base: Any, toxic: Any, output: Any, heads: list[list[int]]) -> None:
    """What `generate` saw at each step is the exact contrast of what it had written."""
    new = output.sequences[:, -len(output.scores) :].tolist()
    for step, scores in enumerate(output.scores):
        for row, head in enumerate(heads):
            wanted = exact(base, toxic, head + new[row][:step])
            found = scores[row].log_softmax(-1)
            assert torch.equal(found.isfinite(), wanted.isfinite())
            kept = wanted.isfinite()
            assert (found[kept] - wanted[kept]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "falcon_rotary"])
@pytest.mark.parametrize("do_sample", [True, False])
def test_equal_lengths(name: str, do_sample: bool) -> None:
    base, toxic = zoo(name, 0), zoo(name, 1)
    heads = [(head * 5)[:5] for head in HEADS]
    output = generate(base, ContrastiveLogitsProcessor(toxic, alpha=ALPHA), torch.tensor(heads), do_sample=do_sample)
    check_scores(base, toxic, output, heads)


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon_alibi"])
def test_left_padding(name: str) -> None:
    base, toxic = zoo(name, 0), zoo(name, 1)
    width = max(len(head) for head in HEADS)
    ids = torch.tensor([[0] * (width - len(head)) + head for head in HEADS])
    mask = torch.tensor([[0] * (width - len(head)) + [1] * len(head) for head in HEADS])
    processor = ContrastiveLogitsProcessor(toxic, alpha=ALPHA, attention_mask=mask)
    check_scores(base, toxic, generate(base, processor, ids, mask, do_sample=True), HEADS)


def test_one_processor_for_several_calls() -> None:
    base, toxic = zoo("gpt2", 0), zoo("gpt2", 1)
    processor = ContrastiveLogitsProcessor(toxic, alpha=ALPHA)
    for head in [*HEADS, HEADS[0]]:
        check_scores(base, toxic, generate(base, processor, torch.tensor([head]), do_sample=True), [head])


@pytest.mark.parametrize("beams", [2, 3])
def test_beam_search(beams: int) -> None:
    """Beams swap rows between steps; the toxic model's cache must not follow the wrong ones."""
    base, toxic = zoo("gpt2", 0), zoo("gpt2", 1)
    head = torch.tensor([HEADS[0]])

    class Uncached:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            rows = [plain_logits(toxic, row)[-1] for row in ids.tolist()]
            return contrast_scores(scores, torch.stack(rows), alpha=ALPHA)

    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8}
    ours = generate(base, ContrastiveLogitsProcessor(toxic, alpha=ALPHA), head, **options)
    theirs = generate(base, Uncached(), head, **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.allclose(ours.sequences_scores, theirs.sequences_scores, atol=1e-3)


def test_the_engine_agrees_with_the_processor() -> None:
    """``alpha = 1`` is deterministic: the engine's texts and `generate`'s are the same."""
    base, toxic = zoo("opt", 0), zoo("opt", 1)
    rows = [row for batch in sample(contrast(base, toxic, alpha=1.0), HEADS, 1, SamplingSettings(6)) for row in batch]
    for row in rows:
        processor = ContrastiveLogitsProcessor(toxic, alpha=1.0)
        output = generate(base, processor, torch.tensor([HEADS[row.prompt_index]]), do_sample=True)
        assert output.sequences[0, -6:].tolist() == row.token_ids


def test_models_without_a_known_cache() -> None:
    base, toxic = zoo("mamba", 0), zoo("mamba", 1)
    output = generate(base, ContrastiveLogitsProcessor(toxic, alpha=ALPHA), torch.tensor([HEADS[0]]), do_sample=True)
    check_scores(base, toxic, output, [HEADS[0]])


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="alpha is 0"):
        ContrastiveLogitsProcessor(zoo("gpt2"), alpha=0)
    other = zoo("gpt2", 1)
    with pytest.raises(UsageError, match="vocabular"):
        ContrastiveLogitsProcessor(other)(torch.tensor([[1]]), torch.zeros(1, 7))


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts side by side, and their mask."""
    width = max(map(len, HEADS))
    ids = torch.tensor([[0] * (width - len(head)) + head for head in HEADS])
    return ids, torch.tensor([[0] * (width - len(head)) + [1] * len(head) for head in HEADS])


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (2, {"num_return_sequences": 2, "do_sample": True}),
        (3, {"num_beams": 3}),
        (4, {"num_beams": 4, "num_return_sequences": 2}),
        (2, {"num_beams": 2, "num_return_sequences": 2, "do_sample": True}),
    ],
)
def test_several_rows_of_each_prompt(rows: int, options: dict[str, Any]) -> None:
    base, toxic = zoo("gpt2", 0), zoo("gpt2", 1)
    ids, mask = padded()
    made = []
    for given in (mask, mask.bool(), mask.tolist(), mask.repeat_interleave(rows, 0)):
        torch.manual_seed(3)
        processor = ContrastiveLogitsProcessor(toxic, alpha=ALPHA, attention_mask=given)
        made.append(generate(base, processor, ids, mask, **options).sequences)
    assert all(torch.equal(one, made[-1]) for one in made)
    if "num_beams" not in options:
        torch.manual_seed(3)
        processor = ContrastiveLogitsProcessor(toxic, alpha=ALPHA, attention_mask=mask)
        check_scores(base, toxic, generate(base, processor, ids, mask, **options), [h for h in HEADS for _ in range(2)])


@pytest.mark.parametrize("shape", [(2, 11), (6, 11), (3, 40), (11,), (3, 0), (0, 11), (1, 3, 11)])
def test_a_mask_of_something_else(shape: tuple[int, ...]) -> None:
    ids, mask = padded()
    processor = ContrastiveLogitsProcessor(zoo("gpt2", 1), attention_mask=torch.ones(shape))
    with pytest.raises(UsageError, match=r"attention mask is .* Give the prompts' mask"):
        generate(zoo("gpt2", 0), processor, ids, mask)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_dtype(name: str, dtype: torch.dtype) -> None:
    base, toxic = zoo(name, 0), zoo(name, 1)
    ids, mask = padded()
    sequences = []
    for default in (torch.float32, dtype):
        torch.set_default_dtype(default)
        try:
            processor = ContrastiveLogitsProcessor(toxic, alpha=ALPHA, attention_mask=mask)
            sequences.append(generate(base, processor, ids, mask, do_sample=False).sequences)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*sequences)
