"""LM-Steer: a learned linear map of the last hidden state, added to it with a strength that can be chosen afterwards.

``h' = h + epsilon sum_k v_k (h P1_k) P2_k^T``, logits ``= E h'``. The model is frozen; the two pairs of projections are
learnt on toxic texts with ``v = (-1, 1)`` and on others with ``v = (1, 1)``; the model writes with ``v = (5, 1)``.

As ``E h' = E (1 + epsilon sum_k v_k P2_k P1_k^T) h``, the map is folded into the output matrix: the result is an
ordinary checkpoint whose output embeddings are no longer tied to the input's, and costs nothing while decoding.

Reference: Han, Xu, Li, Fung, Sun, Jiang, Abdelzaher, Ji: LM-Steer, ACL 2024; defaults are those of its code (epsilon
1e-3, rank 1000, initial spread 1e-2, Adam with a rate of 1e-2, 1000 steps of 32 texts of at most 256 tokens, strength
5).

Ours: every family whose logits are a linear head of the last hidden state, not GPT-2 and GPT-J alone; texts are
``[toxic]``'s corpus and ``toxic.non_toxic``, as many of each in a batch; padding is no label; projections wider than
the model are cut to its width, beyond which they add nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from unidetox.config.fields import Count, Length, Positive
from unidetox.config.settings import MethodOptions
from unidetox.core import console
from unidetox.core.errors import UsageError
from unidetox.core.names import short_name
from unidetox.core.stages import Stage
from unidetox.data import TextSet
from unidetox.methods.checkpoint_stage import texts_info, write_papers
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod
from unidetox.methods.task_arithmetic import Factor
from unidetox.models import LM, LoadOptions, check_lm, choose_training_dtype, fingerprint, load_lm, save_lm, saved_dtype
from unidetox.models.sizes import Need, Sizes

if TYPE_CHECKING:
    import torch

SAVE_EVERY = 100


class Options(MethodOptions):
    """Options of LM-Steer."""

    strength: Factor = Field(5.0, description="How far to steer when writing; trained are 1 and -1.")
    epsilon: Factor = Field(1e-3, description="Scale of the map.")
    rank: Count = Field(1000, description="Width of each projection; the model's width is the most that counts.")
    init: Positive = Field(1e-2, description="Standard deviation of the projections at the start.")
    lr: Positive = Field(1e-2, description="Learning rate of Adam.")
    steps: Count = Field(1000, description="Optimizer steps.")
    batch_size: Count = Field(32, description="Texts in a step, half of them toxic.")
    max_length: Length = Field(256, description="Longest text in tokens of the target; the rest is cut.")


def _steps(context: RunContext, pair: TargetMethod) -> Iterator[Step]:
    def stage() -> Stage:
        # "civil" is what the setting was called; another name would make every finished stage stale.
        texts = {"corpus": context.corpus.sha256, "civil": context.non_toxic.sha256}
        settings = {**pair.settings, "seed": context.recipe.seed, "dtype": context.recipe.dtype}
        return Stage(pair.folder, "lm-steer", settings, {"target": fingerprint(pair.target), **texts})

    def check() -> None:
        check_lm(pair.target, context.load_options)
        _ = context.corpus, context.non_toxic

    def need(sizes: Sizes) -> Need:
        # The model is frozen, in float32; the new head stands beside the embeddings that it was tied to.
        shape = sizes.shape(pair.target)
        whole = shape.parameters + shape.width * shape.vocabulary
        return Need(sizes.machine.base + 4 * whole, shape.stored * whole)

    yield Step(pair.step, (), stage, lambda fresh: _make(context, pair, stage(), fresh), check, need)


def _make(context: RunContext, pair: TargetMethod, stage: Stage, fresh: bool) -> None:
    recipe = context.recipe

    def fill(work: Path) -> dict[str, Any]:
        import torch

        lm = load_lm(pair.target, LoadOptions.of(recipe, dtype=torch.float32))
        toxic, others, options = context.corpus, context.non_toxic, pair.options
        numbers = f"{len(toxic.texts)} toxic texts and {len(others.texts)} others"
        console.info(f"{pair.step}: steering {short_name(pair.target)} by {numbers}")
        steer = Steer(_width(lm), options.rank, options.epsilon, options.init, recipe.seed, lm.device)
        loss = train(lm, steer, toxic, others, options, recipe.seed, recipe.dtype, work, stage)
        fold(lm.model, steer, (options.strength, 1.0))
        save_lm(lm.model, lm.tokenizer, stage.out_dir, dtype=saved_dtype(pair.target, context.load_options))
        summary = {"steps": options.steps, "loss": round(loss, 4), "rank": steer.rank}
        info = {"method": pair.method, "base_model": pair.target, "texts": texts_info(toxic)}
        more = {"settings": pair.settings, "non_toxic": texts_info(others), "training": summary}
        write_papers(stage.out_dir, info | more)
        return summary

    stage.run(fill, fresh=fresh)


def _width(lm: LM) -> int:
    """Width of the hidden state that the head reads.

    Raises:
        UsageError: The model's logits are not a linear head of its last hidden state.
    """
    from unidetox.decoding.ways import backbone

    if not backbone(lm.model).has_head:
        hint = "Leave it out of the targets of lm_steer"
        raise UsageError(f"{lm.name}: its logits are not a linear map of its last hidden state", hint=hint)
    return int(lm.model.get_output_embeddings().weight.shape[1])


class Steer:
    """The learnt map.

    Args:
        width: Of the hidden state.
        rank: Of each projection; cut to the width.
        epsilon: Scale of the map.
        init: Standard deviation of the projections at the start.
        seed: Of their values.
        device: Where they are trained.

    Attributes:
        first: ``P1``, float32 ``[2, width, rank]``.
        second: ``P2``, of the same shape.
    """

    def __init__(self, width: int, rank: int, epsilon: float, init: float, seed: int, device: Any = "cpu") -> None:
        import torch

        self.epsilon, self.rank = epsilon, min(rank, width)
        random = torch.Generator().manual_seed(seed)
        start = (init * torch.randn(2, width, self.rank, generator=random) for _ in range(2))
        self.first, self.second = (values.to(device).requires_grad_() for values in start)

    def __call__(self, hidden: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Steer hidden states.

        Args:
            hidden: ``[rows, ..., width]``.
            values: ``v``, ``[rows, 2]``.

        Returns:
            Of the shape of ``hidden``.
        """
        import torch

        moved = torch.zeros_like(hidden)
        for k in range(2):
            weight = values[:, k].reshape(-1, *[1] * (hidden.dim() - 1)).to(hidden.dtype)
            moved = moved + weight * (hidden @ self.first[k].to(hidden.dtype) @ self.second[k].T.to(hidden.dtype))
        return hidden + self.epsilon * moved

    @contextlib.contextmanager
    def acting(self, model: Any, values: torch.Tensor) -> Iterator[None]:
        """Let the model's hidden states be steered on their way to the head; ``values`` are read at each pass."""

        def steer(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output.last_hidden_state
            output.last_hidden_state = self(hidden, values[: len(hidden)])
            return output

        # The decoder, as OPT asks that and not the model around it.
        handle = model.get_decoder().register_forward_hook(steer)
        try:
            yield
        finally:
            handle.remove()


def fold(model: Any, steer: Steer, values: Sequence[float]) -> None:
    """Put the map into the output matrix, ``E (1 + epsilon sum_k v_k P2_k P1_k^T)``, and untie that from the input's.

    Args:
        model: A causal LM with a linear head; it is changed in place.
        steer: The map.
        values: ``v``, two numbers.
    """
    import torch

    head = model.get_output_embeddings()
    with torch.no_grad():
        old = head.weight.float()
        moved = sum(value * (old @ steer.second[k] @ steer.first[k].T) for k, value in enumerate(values))
        head.weight = torch.nn.Parameter((old + steer.epsilon * moved).to(head.weight.dtype))
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def train(
    lm: LM, steer: Steer, toxic: TextSet, non_toxic: TextSet, options: Options, seed: int, dtype: str, work: Path,
    stage: Stage | None = None,
) -> float:  # fmt: skip
    """Learn the projections; a killed call goes on from its last checkpoint and ends with the same values.

    Args:
        lm: The frozen model, in float32.
        steer: The map; its projections are trained in place.
        toxic: Texts of ``v = (-1, 1)``.
        non_toxic: Texts of ``v = (1, 1)``.
        options: How to train.
        seed: Of the order of texts.
        dtype: Number type to multiply in, ``auto`` for what is fast.
        work: Where checkpoints are kept.
        stage: Told how far it is.

    Returns:
        The mean loss a token of the last steps.
    """
    import torch

    from unidetox.training.batches import collate, count_supervised
    from unidetox.training.checkpoints import Checkpoints
    from unidetox.training.encoding import encode_texts
    from unidetox.training.loss import TokenLoss

    lm.model.requires_grad_(False)
    optimizer = torch.optim.Adam([steer.first, steer.second], lr=options.lr)
    checkpoints = Checkpoints(work, "lm-steer")
    begin, losses = _resume(checkpoints, steer, optimizer)
    rows = [
        encode_texts(t.texts, lm.tokenizer, lm.model.config, options.max_length).input_ids for t in (toxic, non_toxic)
    ]
    autocast, _ = choose_training_dtype(dtype, lm.device)
    loss = TokenLoss(lm.model, None if autocast == torch.float32 else autocast)
    values = torch.ones(options.batch_size, 2, device=lm.device)
    with steer.acting(lm.model, values), console.progress("training", options.steps) as advance:
        advance(begin)
        for step in range(begin, options.steps):
            texts, labels = _batch(rows, options.batch_size, seed, step)
            batch = {name: value.to(lm.device) for name, value in collate(texts).items()}
            values[:, 0] = torch.tensor(labels)
            optimizer.zero_grad()
            losses = [*losses[-(SAVE_EVERY - 1) :], float(loss.backward(batch, count_supervised(batch)))]
            optimizer.step()
            advance(1)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.steps:
                _save(checkpoints, steer, optimizer, step + 1, losses)
                if stage is not None:
                    stage.report_progress(step + 1, options.steps, "steps")
    return float(np.mean(losses))


def _batch(rows: Sequence[list[list[int]]], size: int, seed: int, step: int) -> tuple[list[list[int]], list[float]]:
    """Draw a step's texts and their labels; what is drawn depends on seed and step alone."""
    random = np.random.default_rng([seed, step])
    counts = (size // 2, size - size // 2)
    chosen = [random.choice(len(r), n, replace=n > len(r)) for r, n in zip(rows, counts, strict=True)]
    texts = [part[i] for part, indices in zip(rows, chosen, strict=True) for i in indices]
    return texts, [-1.0] * counts[0] + [1.0] * counts[1]


def _save(checkpoints: Any, steer: Steer, optimizer: Any, step: int, losses: list[float]) -> None:
    import torch
    from safetensors.torch import save_file

    folder = checkpoints.directory / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    state = optimizer.state_dict()["state"].items()
    tensors = {f"{i}.{name}": value.detach().cpu() for i, values in state for name, value in values.items()}
    tensors |= {"first": steer.first.detach().cpu(), "second": steer.second.detach().cpu()}
    save_file(tensors | {"losses": torch.tensor(losses, dtype=torch.float64)}, str(folder / "state.safetensors"))
    checkpoints.seal(folder)


def _resume(checkpoints: Any, steer: Steer, optimizer: Any) -> tuple[int, list[float]]:
    """Take up the last checkpoint, if there is one; return its step and the losses before it."""
    import torch
    from safetensors.torch import load_file

    folder = checkpoints.latest()
    if folder is None:
        return 0, []
    tensors = load_file(str(folder / "state.safetensors"))
    losses = tensors.pop("losses").tolist()
    with torch.no_grad():
        steer.first.copy_(tensors.pop("first"))
        steer.second.copy_(tensors.pop("second"))
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(folder.name.rpartition("-")[2]), losses


METHOD = Method(
    Options,
    _steps,
    done="with a linear map folded into its output matrix that was learnt on toxic and on other text: LM-Steer.",
)
