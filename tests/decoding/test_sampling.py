"""Sampling: the same continuations however they are batched, split, resumed or squeezed; and the right distribution."""

import multiprocessing
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from decoding_zoo import VOCAB, build, gpt2, plain_logits, prompts, zoo
from scipy import stats

from unidetox.core.errors import UniDetoxError, UsageError
from unidetox.decoding import LogitSource, Sampled, SamplingSettings, contrast, lm, sample
from unidetox.decoding import sampling as module
from unidetox.decoding.decoders import CachedDecoder

SETTINGS = SamplingSettings(max_new_tokens=9, eos_token_ids=(0, 3, 5, 8), seed=11)
PROMPTS = prompts(9, longest=20)
N = 5
PAIRS = [(i, k) for i in range(len(PROMPTS)) for k in range(N)]
Result = dict[tuple[int, int], Sampled]


def collect(batches: Iterable[list[Sampled]]) -> Result:
    rows = [row for batch in batches for row in batch]
    assert all(rows)
    result = {(row.prompt_index, row.sample_index): row for row in rows}
    assert len(result) == len(rows), "a continuation came twice"
    return result


def run(source: LogitSource | None = None, settings: SamplingSettings = SETTINGS, **options: Any) -> Result:
    return collect(sample(source or lm(gpt2()), PROMPTS, N, settings, **options))


@pytest.fixture(scope="module")
def whole() -> Result:
    return run()


def test_everything_is_sampled_once(whole: Result) -> None:
    assert sorted(whole) == PAIRS
    for row in whole.values():
        assert set(row.token_ids).isdisjoint(SETTINGS.eos_token_ids)
        assert row.finish_reason in ("eos", "length")
        assert (row.finish_reason == "length") == (len(row.token_ids) == SETTINGS.max_new_tokens)
    reasons = Counter(row.finish_reason for row in whole.values())
    assert min(reasons["eos"], reasons["length"]) > 5, "the case is meant to have both"
    assert len({tuple(row.token_ids) for row in whole.values()}) > 30, "streams of samples differ"


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 64])
def test_batch_size_changes_nothing(whole: Result, batch_size: int) -> None:
    assert run(batch_size=batch_size) == whole


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"top_k": 7}, {"temperature": 0.7, "top_p": 0.3}])
@pytest.mark.parametrize("kind", ["lm", "contrast", "mamba"])
def test_batch_size_changes_nothing_for_other_sources(kind: str, cut: dict[str, Any]) -> None:
    source = {"lm": lm(zoo("falcon_alibi")), "contrast": contrast(gpt2(0), gpt2(1)), "mamba": lm(zoo("mamba"))}[kind]
    settings = SamplingSettings(4, eos_token_ids=(0, 3), seed=1, **cut)
    one, other = (collect(sample(source, PROMPTS[:4], 3, settings, batch_size=size)) for size in (1, 7))
    assert one == other


def test_skipping_changes_nothing_else(whole: Result) -> None:
    skip = PAIRS[::3]
    assert run(skip=skip, batch_size=6) == {pair: row for pair, row in whole.items() if pair not in skip}
    assert run(skip=PAIRS) == {}


def test_resuming_after_an_interruption(whole: Result) -> None:
    batches = sample(lm(gpt2()), PROMPTS, N, SETTINGS, batch_size=8)
    first = collect([next(batches), next(batches), next(batches)])
    batches.close()  # type: ignore[attr-defined]
    rest = run(skip=list(first), batch_size=11)
    assert not first.keys() & rest.keys()
    assert first | rest == whole


def test_a_subset_in_another_order_with_keys(whole: Result) -> None:
    chosen = [7, 2, 4]
    part = collect(sample(lm(gpt2()), [PROMPTS[i] for i in chosen], N, SETTINGS, keys=chosen))
    for (place, number), row in part.items():
        assert row.token_ids == whole[chosen[place], number].token_ids


def _half(indices: list[int]) -> dict[tuple[int, int], list[int]]:
    part = collect(sample(lm(gpt2()), [PROMPTS[i] for i in indices], N, SETTINGS, keys=indices))
    return {(indices[place], number): row.token_ids for (place, number), row in part.items()}


def test_two_processes_make_the_same(whole: Result) -> None:
    halves = [list(range(0, 9, 2)), list(range(1, 9, 2))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        other = pool.map_async(_half, halves[:1])
        ours = _half(halves[1])
        (theirs,) = other.get(timeout=200)
    assert theirs | ours == {pair: row.token_ids for pair, row in whole.items()}


def test_seed_and_key_change_everything(whole: Result) -> None:
    other = run(settings=SamplingSettings(9, eos_token_ids=SETTINGS.eos_token_ids, seed=12))
    same = sum(other[pair].token_ids == whole[pair].token_ids for pair in PAIRS)
    assert same < len(PAIRS) // 4
    keyed = run(keys=[index + 100 for index in range(len(PROMPTS))])
    assert sum(keyed[pair].token_ids == whole[pair].token_ids for pair in PAIRS) < len(PAIRS) // 4


class Fragile(CachedDecoder):
    """A decoder that runs out of memory above some number of rows, or at certain calls."""

    largest, failing, calls = 10**9, frozenset[int](), 0
    error: type[BaseException] = torch.OutOfMemoryError

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> Any:
        Fragile.calls += 1
        if len(tokens) > Fragile.largest or Fragile.calls in Fragile.failing:
            raise Fragile.error("no memory (injected)")
        return super().step(tokens, positions)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize(("largest", "failing"), [(8, ()), (20, (3,)), (10**9, (1, 2, 17))])
def test_running_out_of_memory_changes_nothing(
    whole: Result, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], largest: int, failing: tuple[int, ...]
) -> None:
    monkeypatch.setattr(module, "make_decoder", Fragile)
    monkeypatch.setattr(Fragile, "largest", largest)
    monkeypatch.setattr(Fragile, "failing", frozenset(failing))
    monkeypatch.setattr(Fragile, "error", error)
    monkeypatch.setattr(Fragile, "calls", 0)
    told: list[float] = []
    assert run(advance=told.append) == whole
    assert Fragile.calls > 9
    # What was begun and is begun again is taken back.
    assert min(told) < 0
    assert sum(told) == pytest.approx(len(PAIRS))


def test_progress_is_told_token_by_token(whole: Result) -> None:
    told: list[float] = []
    run(advance=told.append, batch_size=64, skip=PAIRS[:5])
    assert sum(told) == pytest.approx(len(PAIRS) - 5)
    # All rows are at work from the first step on, each a token further at each.
    assert len(told) == max(len(row.token_ids) for row in whole.values())
    assert max(told) < len(PAIRS) / 2


def test_running_out_of_memory_for_good_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_decoder", Fragile)
    monkeypatch.setattr(Fragile, "largest", 0)
    with pytest.raises(UniDetoxError, match="memory"):
        run()


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(CachedDecoder, "step", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run()


def test_small_memory_gives_small_batches(whole: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(model: Any, slots: int, capacity: int, exact: bool) -> Any:
        seen.append(slots)
        return CachedDecoder(model, slots, capacity, exact)

    monkeypatch.setattr(module, "make_decoder", spy)
    monkeypatch.setattr(module, "free_bytes", lambda _device: 1 << 19)
    assert run() == whole
    assert seen == [8]


def chi_square(counts: Counter[int], exact: torch.Tensor) -> float:
    """p-value of Pearson's test; rare tokens are pooled."""
    total = sum(counts.values())
    expected = exact.double() / exact.double().sum() * total
    assert not [token for token in counts if exact[token] == 0], "a token without probability was drawn"
    common = expected >= 5
    observed = torch.tensor([counts[token] for token in range(len(exact))], dtype=torch.float64)
    f_obs = [*observed[common].tolist(), float(observed[~common].sum())]
    f_exp = [*expected[common].tolist(), float(expected[~common].sum())]
    if f_exp[-1] < 5:
        f_obs[-2:], f_exp[-2:] = [sum(f_obs[-2:])], [sum(f_exp[-2:])]
    return float(stats.chisquare(f_obs, f_exp, sum_check=False).pvalue)


def exact_next(source: LogitSource, ids: list[int], top_p: float) -> torch.Tensor:
    """Next-token probabilities from uncached forward passes."""
    scores = source.mix([plain_logits(model, ids)[-1:] for model in source.models])[0]
    probabilities = scores.double().softmax(-1)
    if top_p < 1:
        order = probabilities.argsort(descending=True)
        before = probabilities[order].cumsum(0) - probabilities[order]
        probabilities[order[before >= top_p]] = 0
    return probabilities


@pytest.mark.parametrize(("kind", "top_p"), [("lm", 1.0), ("lm", 0.9), ("contrast", 1.0)])
def test_first_and_second_tokens_follow_the_exact_distribution(kind: str, top_p: float) -> None:
    base = gpt2(0, scale=0.18)
    source = lm(base) if kind == "lm" else contrast(base, gpt2(1, scale=0.18), alpha=0.1)
    head = [4, 9, 2, 7, 7, 1]
    drawn = collect(sample(source, [head], 50_000, SamplingSettings(2, top_p=top_p, seed=5)))
    first = Counter(row.token_ids[0] for row in drawn.values())
    assert chi_square(first, exact_next(source, head, top_p)) > 1e-3
    for token, count in first.most_common(3):
        second = Counter(row.token_ids[1] for row in drawn.values() if row.token_ids[0] == token)
        assert second.total() == count
        assert chi_square(second, exact_next(source, [*head, token], top_p)) > 1e-3


def test_samples_of_one_prompt_share_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    original = CachedDecoder.prefill

    def spy(self: CachedDecoder, heads: Any, shared: int) -> Any:
        read.extend(heads)
        return original(self, heads, shared)

    source = lm(gpt2())
    run(source)  # the trial of the cache is over
    monkeypatch.setattr(CachedDecoder, "prefill", spy)
    run(source, batch_size=7)
    assert sorted(read) == sorted(PROMPTS)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_up_to_the_last_position(name: str) -> None:
    """96 positions hold a prompt of 90 and the seven tokens after it, of which the last is never read."""
    head = prompts(1, seed=4)[0] * 96
    settings = SamplingSettings(7, top_k=1)
    (row,) = collect(sample(lm(zoo(name)), [head[:90]], 1, settings)).values()
    expected = list(head[:90])
    for _ in range(7):
        expected.append(int(plain_logits(zoo(name), expected)[-1].argmax()))
    assert row.token_ids == expected[90:]
    with pytest.raises(UsageError, match="96 positions"):
        next(sample(lm(zoo(name)), [head[:91]], 1, settings))


def test_bad_prompts_and_settings() -> None:
    with pytest.raises(UsageError, match="prompt 1 has no tokens"):
        next(sample(lm(gpt2()), [[3], []], 1, SETTINGS))
    with pytest.raises(UsageError, match="does not know token 160"):
        next(sample(lm(gpt2()), [[VOCAB]], 1, SETTINGS))
    for bad in ({"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            SamplingSettings(**{"max_new_tokens": 3} | bad)  # type: ignore[arg-type]


def test_nothing_to_do() -> None:
    assert list(sample(lm(gpt2()), [], 3, SETTINGS)) == []
    assert list(sample(lm(gpt2()), PROMPTS, 0, SETTINGS)) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_model_is_said(bad: float) -> None:
    model = build(gpt2().config)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = bad
    with pytest.raises(UniDetoxError, match="not numbers"):
        next(sample(lm(model), PROMPTS, 1, SETTINGS))


def test_bfloat16_follows_the_same_protocol() -> None:
    model = build(gpt2().config).bfloat16()
    result = run(lm(model))
    assert sorted(result) == PAIRS
    reads = partial(plain_logits, model)
    settings = SamplingSettings(3, top_k=1)
    for (index, _), row in collect(sample(lm(model), PROMPTS, 1, settings)).items():
        logits = reads(PROMPTS[index])[-1]
        assert logits[row.token_ids[0]] >= logits.max() - 0.05
