"""The mean loss a token and its gradient, the same for every architecture, without the logits of a whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from unidetox.decoding.backbone import Head, names_head
from unidetox.decoding.ways import support
from unidetox.training.batches import Batch
from unidetox.training.memory import LOGITS_AT_ONCE


class TokenLoss:
    """Adds the gradient of a batch's loss to a model's parameters.

    Where the model is a backbone with a head on top and nothing unknown in between, the head is applied to supervised
    positions only, and to a piece of them at a time: forward and backward through the head piece by piece, then
    backward through the backbone once. That is the arithmetic of the plain way in a fraction of its memory. Rows are
    padded on the right, where a causal model cannot look, so attention needs no mask and takes its fast path. A model
    for which one of these is not right (see `support`) is trained the plain way.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        autocast: Number type to multiply in, None for that of the weights.
        reference: A model of the same architecture to stay near to, in evaluation mode; None for none.
        kl: Weight of ``KL(reference || model)``, summed over supervised positions like the loss.

    Attributes:
        by_pieces: Whether the head is applied piece by piece.
        use_mask: Whether the model is told what is padding.
    """

    def __init__(
        self, model: Any, autocast: torch.dtype | None = None, *, reference: Any = None, kl: float = 0.0
    ) -> None:
        self.model = model
        self.autocast = autocast
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        known = support(model)
        self.backbone = inner.base_model
        self.by_pieces = known.head and names_head(inner)
        self.use_mask = not known.unmasked
        self.head = Head(inner) if self.by_pieces else None
        self.kl = kl
        self.reference = TokenLoss(reference, autocast) if reference is not None else None

    def backward(self, batch: Batch, n_tokens: int) -> torch.Tensor:
        """Add the gradient of (summed loss / n_tokens) to the parameters.

        Args:
            batch: See `unidetox.training.batches.collate`; on the model's device.
            n_tokens: Supervised tokens of the whole optimizer step.

        Returns:
            Summed loss / n_tokens, a scalar without gradient.
        """
        # 1. A token is predicted from the one before it, hence the shift: labels [rows, width] -> [rows, width - 1].
        supervised = batch["labels"][:, 1:] != -100
        targets = batch["labels"][:, 1:][supervised]  # [positions]
        # 2. Forward through the backbone, or the whole model.
        states = self._states(batch, supervised)
        near = self._reference_states(batch, supervised)
        # 3. Loss and gradient.
        if self.by_pieces and self.head:
            return self._backward_by_pieces(self.head, states, targets, near, n_tokens)
        loss = self._loss(states, targets, near) / n_tokens
        torch.autograd.backward(loss)
        return loss.detach()

    def _states(self, batch: Batch, supervised: torch.Tensor) -> torch.Tensor:
        """Return what stands at supervised positions: ``[positions, hidden]`` by pieces, else their logits."""
        with self._autocast():
            outputs = self._forward(self.backbone if self.by_pieces else self.model, batch, self.use_mask)
            states: torch.Tensor = outputs[0][:, :-1][supervised]  # [rows, width - 1, *] -> [positions, *]
        return states

    @torch.no_grad()
    def _reference_states(self, batch: Batch, supervised: torch.Tensor) -> torch.Tensor | None:
        """What `_states` gives of the reference, in the same way; None without one."""
        if self.reference is None:
            return None
        self.reference.use_mask, self.reference.by_pieces = self.use_mask, self.by_pieces
        return self.reference._states(batch, supervised)

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor, near: torch.Tensor | None) -> torch.Tensor:
        """Return the summed loss; ``near`` are the reference's logits ``[positions, vocabulary]``."""
        loss = cross_entropy(logits.float(), targets, reduction="sum")
        if near is None:
            return loss
        # KL(reference || model), summed over [positions, vocabulary]; kl_div takes log q first and log p second.
        ours, theirs = log_softmax(logits.float(), -1), log_softmax(near.float(), -1)
        return loss + self.kl * kl_div(ours, theirs, log_target=True, reduction="sum")

    def _backward_by_pieces(
        self, head: Head, states: torch.Tensor, targets: torch.Tensor, near: torch.Tensor | None, n_tokens: int
    ) -> torch.Tensor:
        """Run the head on states ``[positions, hidden]`` piece by piece; return the summed loss / n_tokens."""
        size = max(64, LOGITS_AT_ONCE // head.words)
        total = torch.zeros((), device=states.device)
        gradients = []
        for place in range(0, len(targets), size):
            # 1. A piece of the states, cut off from the backbone: [size, hidden].
            part = slice(place, place + size)
            leaf = states[part].detach().requires_grad_()
            with self._autocast():
                logits = head(leaf)
            # 2. Its logits [size, vocabulary], loss, and gradient: of the head's weights (summed), and of the piece.
            loss = self._loss(logits, targets[part], self._reference_logits(near, part)) / n_tokens
            torch.autograd.backward(loss)
            total += loss.detach()
            gradients.append(leaf.grad)
            del logits, loss
        # 3. Once through the backbone, from the gradient of all states [positions, hidden].
        torch.autograd.backward(states, torch.cat([g for g in gradients if g is not None]))
        return total

    @torch.no_grad()
    def _reference_logits(self, near: torch.Tensor | None, part: slice) -> torch.Tensor | None:
        """The reference's logits ``[size, vocabulary]`` of a piece; None without a reference."""
        if near is None or self.reference is None or self.reference.head is None:
            return None
        with self._autocast():
            return self.reference.head(near[part])

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            yield
        # Torch keeps the weights that it has cast until the outermost autocast ends. Inside another one, be it one that
        # switches autocast off, every later step would be computed with the weights of the first.
        torch.clear_autocast_cache()

    @staticmethod
    def _forward(module: Any, batch: Batch, use_mask: bool) -> Any:
        mask = {"attention_mask": batch["attention_mask"]} if use_mask else {}
        return module(input_ids=batch["input_ids"], use_cache=False, return_dict=True, **mask)
