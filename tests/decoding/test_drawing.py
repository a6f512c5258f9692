"""Drawing tokens: the sets of top-k and top-p, and the inverse of the cumulative distribution."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TopKLogitsWarper, TopPLogitsWarper

from unidetox.core.errors import UniDetoxError
from unidetox.decoding.drawing import BLOCK, _inside, draw
from unidetox.decoding.random_streams import again, stream_keys, uniforms

GRID = (np.arange(1000) + 0.5) / 1000
SIZES = [1, 7, BLOCK, BLOCK + 1, 700]


def one(scores: torch.Tensor, uniform: float, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> int:
    return int(
        draw(
            scores[None],
            torch.tensor([uniform], dtype=torch.float64),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )[0]
    )


def frequencies(scores: torch.Tensor, **cut: float) -> torch.Tensor:
    """Share of each token over an even grid of uniform numbers: the distribution itself, to about 1 / 1000."""
    cut = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | cut
    tokens = draw(scores.expand(len(GRID), -1), torch.from_numpy(GRID), **cut)  # type: ignore[arg-type]
    return torch.bincount(tokens, minlength=scores.shape[-1]) / len(GRID)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_whole_vocabulary(size: int, temperature: float) -> None:
    scores = 2 * torch.randn(size, generator=torch.Generator().manual_seed(size))
    exact = (scores / temperature).softmax(-1)
    assert (frequencies(scores, temperature=temperature) - exact).abs().max() < 1.5 / len(GRID)


def logits_of_many_shapes() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(8, 300, generator=generator)
    return {
        "random": 2 * normal,
        "peaked": 30 * normal,
        "flat": 1e-3 * normal,
        "tied": (2 * normal).round(),
        "masked": (2 * normal).masked_fill(normal < 0.5, -torch.inf),
        "one left": normal.masked_fill(torch.arange(300) != torch.arange(8)[:, None], -torch.inf),
    }


def nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """The nucleus ``[vocabulary]`` as `draw` sees it, token by token."""
    weights = (scores - scores.max()).exp().expand(len(scores), -1)
    return _inside(weights, torch.arange(len(scores)), top_p * weights.sum(-1, dtype=torch.float64))


def agree(frequency: torch.Tensor, exact: torch.Tensor) -> bool:
    """Nothing drawn that has no probability, and shares within five standard errors."""
    error = 5 * (exact / len(GRID)).sqrt() + 2 / len(GRID)
    return not bool((frequency[exact == 0] > 0).any()) and bool(((frequency - exact).abs() < error).all())


@pytest.mark.parametrize("shape", logits_of_many_shapes())
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_set_of_transformers(shape: str, top_p: float) -> None:
    for scores in logits_of_many_shapes()[shape]:
        theirs = TopPLogitsWarper(top_p)(None, scores[None])[0].softmax(-1)
        ours = nucleus(scores, top_p)
        assert torch.equal(frequencies(scores, top_p=top_p) * ~ours, torch.zeros_like(scores))
        if shape in ("tied", "flat"):
            # Which of equal tokens falls out at the border is open, and float32 sums may move it by one token.
            assert abs(int(ours.sum()) - int((theirs > 0).sum())) <= 1
            assert scores[ours].min() == pytest.approx(float(scores[theirs > 0].min()), abs=1e-4)
        else:
            assert torch.equal(ours, theirs > 0)
            assert agree(frequencies(scores, top_p=top_p), theirs)


@pytest.mark.parametrize("shape", logits_of_many_shapes())
@pytest.mark.parametrize("top_k", [1, 5, 300, 10_000])
def test_top_k_keeps_the_set_of_transformers(shape: str, top_k: int) -> None:
    for scores in logits_of_many_shapes()[shape][:20]:
        theirs = TopKLogitsWarper(top_k)(None, scores[None])[0].softmax(-1)
        ours = frequencies(scores, top_k=top_k)
        assert not (ours[theirs == 0] > 0).any()  # transformers keeps all that tie with the k-th; we keep k
        if shape != "tied":
            assert (ours - theirs).abs().max() < 1.5 / len(GRID)
        assert int((ours > 0).sum()) <= top_k


def test_top_k_then_top_p() -> None:
    for scores in logits_of_many_shapes()["random"]:
        theirs = TopPLogitsWarper(0.7)(None, TopKLogitsWarper(20)(None, scores[None]))[0].softmax(-1)
        assert agree(frequencies(scores, top_k=20, top_p=0.7), theirs)


def test_temperature_comes_before_top_p() -> None:
    scores = logits_of_many_shapes()["random"][0]
    theirs = TopPLogitsWarper(0.8)(None, scores[None] / 3.0)[0].softmax(-1)
    assert agree(frequencies(scores, temperature=3.0, top_p=0.8), theirs)


CUTS = [{}, {"top_p": 0.9}, {"top_k": 3}, {"top_k": 3, "top_p": 0.9}]
EDGES = [0.0, 2.0**-53, 0.5, 1 - 2.0**-53]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("uniform", EDGES)
@pytest.mark.parametrize("size", SIZES)
def test_never_draws_what_has_no_probability(cut: dict[str, float], uniform: float, size: int) -> None:
    for only in {0, size // 2, size - 1}:
        scores = torch.full((size,), -torch.inf)
        scores[only] = -7.0
        assert one(scores, uniform, **cut) == only  # type: ignore[arg-type]
    scores = torch.full((size,), -torch.inf)
    scores[size // 3 :: 5] = 1.0
    assert scores[one(scores, uniform, **cut)] == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("uniform", EDGES)
def test_underflowing_tails_are_not_drawn(uniform: float) -> None:
    """Tokens 200 nats below the best have weight zero in float32 and must not be reached at either end."""
    scores = torch.full((300,), -200.0)
    scores[150] = 0.0
    assert one(scores, uniform) == 150
    assert one(scores, uniform, top_p=0.99) == 150


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_broken_scores(bad: float) -> None:
    scores = torch.zeros(2, 50)
    scores[1] = bad
    for cut in CUTS:
        with pytest.raises(UniDetoxError, match="not numbers"):
            draw(scores, torch.zeros(2, dtype=torch.float64), **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | cut))  # type: ignore[arg-type]


def test_first_and_last_token() -> None:
    scores = torch.zeros(BLOCK + 3)
    assert one(scores, 0.0) == 0
    assert one(scores, 1 - 2.0**-53) == BLOCK + 2


@pytest.mark.parametrize("cut", CUTS)
def test_a_row_does_not_depend_on_its_neighbours(cut: dict[str, float]) -> None:
    """Neither tokens nor sets, whatever the widths that the other rows need."""
    scores = torch.cat([part[:8] for part in logits_of_many_shapes().values()])
    uniform = torch.from_numpy(np.random.default_rng(0).random(len(scores)))
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | cut
    together = draw(scores, uniform, **settings)  # type: ignore[arg-type]
    alone = [draw(scores[i : i + 1], uniform[i : i + 1], **settings)[0] for i in range(len(scores))]  # type: ignore[arg-type]
    assert together.tolist() == [int(token) for token in alone]


def test_scores_are_left_as_they_were() -> None:
    scores = torch.randn(3, 300)
    for cut in CUTS:
        before = scores.clone()
        draw(scores, torch.rand(3, dtype=torch.float64), **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | cut))  # type: ignore[arg-type]
        assert torch.equal(scores, before)


def test_streams_are_uniform_and_unlike() -> None:
    pairs = [(prompt, number) for prompt in range(40) for number in range(25)]
    keys = stream_keys(42, pairs)
    assert len(set(keys.tolist())) == 1000
    numbers = np.stack([uniforms(keys, np.full(1000, step)) for step in range(50)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    for first, second in ((numbers[:-1], numbers[1:]), (numbers[:, :-1], numbers[:, 1:])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_streams_depend_on_every_part_of_the_key() -> None:
    base = stream_keys(1, [(2, 3)])[0]
    others = [
        stream_keys(*key)[0] for key in [(2, [(2, 3)]), (1, [(3, 3)]), (1, [(2, 2)]), (1, [(3, 2)]), (-1, [(2, 3)])]
    ]
    assert len({base, *others}) == 6
    steps = uniforms(np.array([base] * 3), np.arange(3))
    assert len(set(steps)) == 3
    assert steps[1] == uniforms(np.array([base]), np.array([1]))[0]


def test_second_numbers_are_uniform_and_unlike_the_first() -> None:
    first = torch.rand(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    second = again(first)
    assert stats.kstest(second.numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first.numpy(), second.numpy())[0, 1]) < 0.02
    # Also where only part of the first numbers lead to a second one.
    assert stats.kstest(second[first > 0.9].numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(again(first), second)
