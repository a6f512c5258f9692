"""Whether a fast way is right is found out by structure, once for each kind of model."""

import logging
from typing import Any

import pytest
import torch
import transformers as tf
from decoding_zoo import BEYOND, CONFIGS, GATED, build, prompts, zoo

from unidetox.decoding import SamplingSettings, decoders, lm, loglikelihood, sample, trials, ways
from unidetox.decoding.backbone import Backbone, Head
from unidetox.decoding.masks import Masks
from unidetox.decoding.memory import kept_numbers
from unidetox.decoding.support import Support
from unidetox.decoding.ways import backbone, make_decoder, sampling_bytes_per_row, support

KINDS = ["gpt2", "llama", "mistral_short_window", "gemma3_short_window", "bloom", "lfm2", "falcon_h1"]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet."""
    monkeypatch.setattr(ways, "_by_kind", {})


def test_a_kind_of_model_is_tried_once_whatever_its_size_and_type(
    forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    original = trials._examine_small
    monkeypatch.setattr(trials, "_examine_small", lambda *args: tried.append(args) or original(*args))
    small = build(tf.LlamaConfig(**GATED))
    large = build(tf.LlamaConfig(**GATED | {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3}))
    assert support(small) == support(large) == support(large.bfloat16())
    assert len(tried) == 1
    support(build(tf.LlamaConfig(**GATED | {"num_key_value_heads": 4})))
    assert len(tried) == 2, "other heads are another kind"


@pytest.mark.parametrize("name", KINDS)
def test_rounding_is_not_taken_for_a_fault(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A model in bfloat16 is served as in float32."""
    model = build(CONFIGS[name]()).bfloat16()
    with caplog.at_level(logging.WARNING, "unidetox"):
        rows = [row for rows in sample(lm(model), prompts(3), 2, SamplingSettings(20)) for row in rows]
    assert len(rows) == 6
    assert not [record for record in caplog.records if record.name.startswith("unidetox")]
    assert support(model) == support(zoo(name))


@pytest.mark.parametrize("name", sorted(BEYOND - {"mamba", "lfm2", "jamba", "falcon_h1", "qwen3_next"}))
def test_a_window_that_is_off_by_one_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Masks.__init__

    def shifted(self: Masks, *args: Any) -> None:
        original(self, *args)
        self.window = self.window and self.window + 1

    monkeypatch.setattr(Masks, "__init__", shifted)
    assert trials.examine(zoo(name), {}).longest == zoo(name).config.sliding_window, "right within the window only"


@pytest.mark.parametrize("name", ["lfm2", "mamba", "jamba"])
def test_a_state_that_is_not_moved_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unidetox.decoding.cache.SlotStates.move", lambda *_: None)
    assert trials.examine(zoo(name), {}).decode is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_short_window"])
def test_what_cannot_be_made_small_is_tried_itself(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("hidden_size")

    monkeypatch.setattr(trials, "shrink", fail)
    model = build(CONFIGS[name]()).to(dtype)
    found = trials.examine(model, {})
    assert found.head
    assert found.decode
    assert found.packed
    assert found.longest == (8 if name == "gemma3_short_window" else None), "not tried beyond the window"
    monkeypatch.setattr(decoders.CachedDecoder, "move", lambda *_: None)
    assert trials.examine(model, {}).decode is None, "an error is noticed beside the rounding of this type"


def test_trials_draw_no_random_numbers(forgetful: None) -> None:
    model = build(CONFIGS["gpt2"]())
    before = torch.get_rng_state()
    support(model)
    trials._examine_itself(model)
    assert torch.equal(torch.get_rng_state(), before)


# ---- memory


def test_what_is_kept_is_counted_by_shapes() -> None:
    """Falcon has one head of keys, which its configuration calls otherwise than LLaMA's."""
    assert kept_numbers(zoo("falcon_rotary")) == (2 * 2 * 1 * 8, 0)  # keys and values, layers, heads, width
    assert kept_numbers(zoo("falcon_alibi")) == (2 * 2 * 4 * 8, 0)
    assert kept_numbers(zoo("qwen3")) == (2 * 2 * 2 * 16, 0)
    assert kept_numbers(zoo("mamba")) == (0, 2 * 64 * (4 + 8))  # layers, inner width, convolution and state
    token, row = kept_numbers(zoo("jamba"))
    assert token == 2 * 1 * 2 * 8, "one layer of two has attention"
    assert row > 0
    more = sampling_bytes_per_row(zoo("qwen3"), 9) - sampling_bytes_per_row(zoo("qwen3"), 8)
    assert more == 2 * 2 * 2 * 16 * 4
    assert sampling_bytes_per_row(zoo("openai_gpt"), 9) == sampling_bytes_per_row(zoo("openai_gpt"), 8), (
        "nothing is kept"
    )


def test_the_head_in_float32_is_made_once_a_model() -> None:
    model = build(CONFIGS["gpt2"]()).bfloat16()
    first, second = Head(model, exact=True), Head(model, exact=True)
    assert first._output is second._output
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0)
    assert Head(model, exact=True)._output is not first._output, "its weights have changed"
    hidden = torch.randn(3, 32).bfloat16()
    exact = hidden.float() @ model.get_output_embeddings().weight.float().T
    assert torch.allclose(Head(model, exact=True)(hidden), exact, atol=1e-5)


# ---- where nothing fast is right


def test_recomputing_says_why_and_reads_no_more_than_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(CONFIGS["openai_gpt"]())
    whole = [row.token_ids for rows in sample(lm(model), [[5, 6, 7]], 20, SamplingSettings(9)) for row in rows]
    assert "takes no cache" in caplog.text
    assert "12 times the work" in caplog.text
    assert "architectures.md" in caplog.text
    seen: list[int] = []
    original = Backbone.select

    def spy(self: Any, inputs: dict[str, Any], *where: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return original(self, inputs, *where)

    monkeypatch.setattr(Backbone, "select", spy)
    monkeypatch.setitem(decoders.MAX_TOKENS, "cpu", 40)
    bounded = [row.token_ids for rows in sample(lm(model), [[5, 6, 7]], 20, SamplingSettings(9)) for row in rows]
    assert bounded == whole
    assert 30 < max(seen) <= 40


def test_a_family_that_is_right_within_its_window_only(caplog: pytest.LogCaptureFixture) -> None:
    """GPT-Neo cuts its window by slots, whatever mask it is given."""
    model = build(CONFIGS["gpt_neo"]())
    assert support(model).longest == 64
    assert isinstance(make_decoder(model, 8, 64), decoders.CachedDecoder)
    assert not caplog.records
    assert isinstance(make_decoder(model, 8, 65), decoders.RecomputeDecoder)
    assert "64 tokens" in caplog.text
    found = dict(loglikelihood(model, [[5] * 70], [[6, 7]]))
    assert found[0].shape == (2,)


def test_what_is_known_can_be_given() -> None:
    reader = Backbone(zoo("gpt2"), Support())
    assert not reader.has_head
    assert backbone(zoo("gpt2")).has_head
