"""Trials: does a fast way give what plain forward passes give?

Whether a way is right is a matter of structure: masks, positions, what a layer keeps. So it is tried on a small float32
model of the same configuration class with random weights, where a right way differs by rounding (1e-5 of the logits'
spread) and a wrong one by about the spread: five decades lie between, so there is nothing to tune, and the rounding of
a model in bfloat16 is not taken for a fault. What cannot be made small, or does something that its class does not, is
tried itself, and held against what its own logits differ by when products are rounded otherwise.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import torch
from torch.overrides import TorchFunctionMode

from unidetox.decoding.backbone import Backbone
from unidetox.decoding.decoders import CachedDecoder
from unidetox.decoding.masks import Style, attention_window
from unidetox.decoding.memory import is_out_of_memory
from unidetox.decoding.packing import Group, Member
from unidetox.decoding.scoring import GroupScorer
from unidetox.decoding.shrinking import POSITIONS, fingerprint, shrink, shrunken
from unidetox.decoding.sources import lm
from unidetox.decoding.support import Support

RIGHT = 1e-3
"""Error over spread: on small models right ways stay below 1e-4, wrong ones above 0.1."""

Rows = list[list[int]]


def examine(model: Any, known: dict[str, Support], *, itself: bool = True) -> Support:
    """Find out which ways are right for a model.

    Args:
        model: A causal LM.
        known: What was found before, by `fingerprint`; what is found is added, unless it holds for this object only.
        itself: Try the model itself where its kind cannot be made small; otherwise raise what went wrong.
    """
    with _quiet():
        try:
            if _is_patched(model):
                return _examine_itself(model)
            small = shrink(model.config)
            name = fingerprint(model, small)
            if name not in known:
                known[name] = _examine_small(model, small)
        except Exception as error:
            if is_out_of_memory(error) or not itself:
                raise
            return _examine_itself(model)
        found = known[name]
        # Right within the window only: how many tokens that is differs between models of a kind.
        return replace(found, longest=_window(model.config)) if found.longest else found


def _is_patched(model: Any) -> bool:
    """Whether an object does something else than its class says."""
    return bool(model._forward_hooks) or any("forward" in vars(module) for module in model.modules())


def _window(config: Any) -> int | None:
    """The shortest window or chunk of attention, by whatever name."""
    text = config.get_text_config()
    limits = [attention_window(text), *(getattr(text, name, None) for name in ("attention_chunk_size", "window_size"))]
    return min((int(limit) for limit in limits if limit), default=None)


def _examine_small(model: Any, small: Any) -> Support:
    """Try a small model of the kind, with a window that texts exceed, and where that is wrong with one they do not."""
    found = _examine(shrunken(model, small), *_random_texts(), RIGHT)
    if found.decode is None and _window(small):
        within = _examine(shrunken(model, shrink(model.config, POSITIONS)), *_random_texts(), RIGHT)
        if within.decode is not None:
            return replace(within, longest=POSITIONS)
    return found


def _random_texts() -> tuple[Rows, list[int]]:
    """Two texts, and how many tokens of each are its prompt."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 127, (length,), generator=generator).tolist() for length in (24, 19)], [9, 3]


def _examine_itself(model: Any) -> Support:
    """Try a model itself on texts that it writes, with a tolerance taken from its own rounding."""
    training = model.training
    model.eval()
    try:
        texts = [_written(model, 12), _written(model, 9)]
        plain = _plain(model, texts)
        with _OtherRounding(model):
            noise = max(map(_error, _plain(model, texts), plain))
        found = _examine(model, texts, [7, 3], min(RIGHT + 3 * noise, 0.3))
        return replace(found, longest=_window(model.config))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Support(reason=_said(error))
    finally:
        model.train(training)


class _OtherRounding(TorchFunctionMode):
    """Within this context, products of matrices differ in their last bit, as another order of additions makes them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.step = torch.finfo(model.dtype).eps
        self.generator = torch.Generator(next(model.parameters()).device).manual_seed(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch; jolt what a product gives."""
        result = func(*args, **(kwargs or {}))
        if func not in (torch.nn.functional.linear, torch.addmm, torch.bmm, torch.matmul):
            return result
        jolt = torch.rand(result.shape, generator=self.generator, device=result.device)
        return (result.float() * (1 + self.step * (2 * jolt - 1))).to(result.dtype)


@torch.inference_mode()
def _written(model: Any, length: int) -> list[int]:
    """Let a model write, with plain forward passes: logits at tokens that never occur say little."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(length)
    text = [model.config.get_text_config().vocab_size // 2]
    while len(text) < length:
        logits = model(input_ids=torch.tensor([text], device=device), use_cache=False).logits[0, -1]
        text.append(int(torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)))
    return text


@torch.inference_mode()
def _plain(model: Any, texts: Rows) -> list[torch.Tensor]:
    """Logits ``[tokens, vocabulary]`` of each text, in a forward pass of its own."""
    device = next(model.parameters()).device
    return [model(input_ids=torch.tensor([t], device=device), use_cache=False).logits[0].float() for t in texts]


@torch.inference_mode()
def _plain_unmasked(model: Any, texts: Rows) -> list[torch.Tensor]:
    """The same of texts in one batch, padded on the right, which no mask tells."""
    device, width = next(model.parameters()).device, max(map(len, texts))
    ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts], device=device)
    logits = model(input_ids=ids, use_cache=False).logits
    return [logits[row, : len(text)].float() for row, text in enumerate(texts)]


def _error(found: torch.Tensor, plain: torch.Tensor) -> float:
    """Largest error of a place, the mean square over its numbers, over the spread of all."""
    if found.shape != plain.shape or not bool(found.isfinite().all()):
        return float("inf")
    return float((found - plain).square().mean(-1).sqrt().max() / plain.std())


def _examine(model: Any, texts: Rows, starts: list[int], tolerance: float) -> Support:
    """Try each way on a model; what counts as right is an error of at most ``tolerance``."""
    plain = _plain(model, texts)

    def tried(error: Callable[[], float]) -> str:
        """Why a way is wrong; empty where it is right."""
        try:
            found = error()
        except Exception as failure:
            if is_out_of_memory(failure):
                raise
            return _said(failure)
        return "" if found <= tolerance else f"logits differ by {found:.2g} of their spread"

    head = not tried(lambda: _head_error(model, texts, plain))
    found = Support(head=head, unmasked=not tried(lambda: _unmasked_error(model, texts, plain)))
    if Backbone(model, found).cache_name is None:
        return replace(found, reason="its forward takes no cache")
    reasons = []
    for style in get_args(Style):
        candidate = replace(found, decode=style)
        reasons.append(tried(lambda c=candidate: _decoding_error(model, c, texts, starts, plain)))  # type: ignore[misc]
        if not reasons[-1]:
            break
    found = (
        candidate
        if not reasons[-1]
        else replace(found, reason=next((r for r in reasons if r.startswith("logits")), reasons[-1]))
    )
    if found.decode is None:
        return found
    for packed in ("typed", "one"):
        candidate = replace(found, packed=packed)
        if not tried(lambda c=candidate: _scoring_error(model, c, "packed", texts)):  # type: ignore[misc]
            found = candidate
            break
    return replace(found, padded=not tried(lambda: _scoring_error(model, found, "cached", texts)))


def _head_error(model: Any, texts: Rows, plain: Sequence[torch.Tensor]) -> float:
    """Error of the LM head apart, of the text alone."""
    reader = Backbone(model, Support(head=True))
    ids = torch.tensor([texts[0]], device=reader.device)
    with torch.inference_mode():
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = reader.select({"input_ids": ids, "use_cache": False}, torch.zeros_like(places), places)
        return _error(reader.logits(hidden).float(), plain[0])


def _unmasked_error(model: Any, texts: Rows, plain: Sequence[torch.Tensor]) -> float:
    """Error where texts are padded on the right and no mask says so."""
    return max(map(_error, _plain_unmasked(model, texts), plain))


def _decoding_error(model: Any, known: Support, texts: Rows, starts: list[int], plain: Sequence[torch.Tensor]) -> float:
    """Error of decoding two texts token by token in slots, which change places half-way."""
    # 1. Read the prompts; a third slot is free.
    decoder = CachedDecoder(model, 3, max(map(len, texts)), known)
    device = next(model.parameters()).device
    vectors, prefixes = decoder.prefill([text[:start] for text, start in zip(texts, starts, strict=True)])
    after = decoder.logits(vectors).float()
    errors = [_error(after[i], plain[i][start - 1]) for i, start in enumerate(starts)]
    slots = torch.arange(3, device=device)[:, None]
    for slot, prefix in zip(slots, prefixes, strict=False):
        decoder.place(prefix, slot)
    # 2. Decode what follows; in the middle, the two swap slots by way of the third.
    steps = min(len(text) - start for text, start in zip(texts, starts, strict=True))
    order = [0, 1]
    for step in range(steps):
        if step == steps // 2:
            order = [1, 0]
            for source, target in ((0, 2), (1, 0), (2, 1)):
                decoder.move(slots[source], slots[target], max(starts) + step)
        places = [starts[i] + step for i in order]
        tokens = torch.tensor([texts[i][place] for i, place in zip(order, places, strict=True)], device=device)
        logits = decoder.logits(decoder.step(tokens, torch.tensor(places, device=device))).float()
        errors += [
            _error(logits[row], plain[i][place]) for row, (i, place) in enumerate(zip(order, places, strict=True))
        ]
    return max(errors)


def _scoring_error(model: Any, known: Support, way: Any, texts: Rows) -> float:
    """Error of log-probabilities, where contexts of two lengths share a beginning and one has two continuations."""
    long, short = texts
    cut, shared = len(long) // 2, len(long) // 3
    other = long[:shared] + short[: len(short) // 3]
    members = [Member(long[:cut], [(0, long[cut:]), (1, short[:5])]), Member(other, [(2, short[len(short) // 3 :])])]
    found, plain = (
        torch.cat([values for _, values in sorted(GroupScorer(lm(model), each, [known]).score(Group(shared, members)))])
        for each in (way, "plain")
    )
    return _error(found[:, None], plain[:, None])


def _said(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100] if str(error).strip() else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context, transformers says nothing: what it warns of is a model that nobody asked for."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
