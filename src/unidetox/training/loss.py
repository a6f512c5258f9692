"""The mean loss a token and its gradient, the same for every architecture, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from unidetox.training.batches import Batch
from unidetox.training.memory import LOGITS_AT_ONCE


class TokenLoss:
    """Adds the gradient of a batch's loss to a model's parameters.

    Where the model is a backbone with a head on top and nothing in between, the head is applied to supervised
    positions only, and to a piece of them at a time: forward and backward through the head piece by piece, then
    backward through the backbone once. That is the arithmetic of the plain way in a fraction of its memory. Rows are
    padded on the right, where a causal model cannot look, so attention needs no mask and takes its fast path. Both
    are tried on the first batch; a model on which they change the logits is trained the plain way.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        autocast: Number type to multiply in, None for that of the weights.
        reference: A model of the same architecture to stay near to, in evaluation mode; None for none.
        kl: Weight of ``KL(reference || model)``, summed over supervised positions like the loss.
    """

    def __init__(
        self, model: Any, autocast: torch.dtype | None = None, *, reference: Any = None, kl: float = 0.0
    ) -> None:
        self.model = model
        self.autocast = autocast
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.backbone = inner.base_model
        self.head = inner.get_output_embeddings()
        self.use_mask = True
        self.by_pieces: bool | None = None
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
        if self.by_pieces is None:
            self._try_shortcuts(batch)
        # 1. A token is predicted from the one before it, hence the shift: labels [rows, width] -> [rows, width - 1].
        supervised = batch["labels"][:, 1:] != -100
        targets = batch["labels"][:, 1:][supervised]  # [positions]
        # 2. Forward through the backbone, or the whole model.
        states = self._states(batch, supervised)
        near = self._reference_states(batch, supervised)
        # 3. Loss and gradient.
        if self.by_pieces:
            return self._backward_by_pieces(states, targets, near, n_tokens)
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
        self, states: torch.Tensor, targets: torch.Tensor, near: torch.Tensor | None, n_tokens: int
    ) -> torch.Tensor:
        """Run the head on states ``[positions, hidden]`` piece by piece; return the summed loss / n_tokens."""
        size = max(64, LOGITS_AT_ONCE // self.head.weight.shape[0])
        total = torch.zeros((), device=states.device)
        gradients = []
        for place in range(0, len(targets), size):
            # 1. A piece of the states, cut off from the backbone: [size, hidden].
            part = slice(place, place + size)
            leaf = states[part].detach().requires_grad_()
            with self._autocast():
                logits = self.head(leaf)
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
        if near is None or self.reference is None:
            return None
        with self._autocast():
            logits: torch.Tensor = self.reference.head(near[part])
        return logits

    def _autocast(self) -> torch.autocast:
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    @staticmethod
    def _forward(module: Any, batch: Batch, use_mask: bool) -> Any:
        mask = {"attention_mask": batch["attention_mask"]} if use_mask else {}
        return module(input_ids=batch["input_ids"], use_cache=False, return_dict=True, **mask)

    @torch.no_grad()
    def _try_shortcuts(self, batch: Batch) -> None:
        """Compare logits with and without the shortcuts on the start of a row, once whole and once half."""
        probe = _probe(batch)
        real = probe["attention_mask"].bool()
        training = self.model.training
        self.model.eval()
        try:
            plain = self._forward(self.model, probe, True).logits[real].float()
            unmasked = self._forward(self.model, probe, False).logits[real].float()
            loose = 2e-2 if self.model.dtype != torch.float32 else 1e-4
            self.use_mask = not _close(plain, unmasked, loose)
            self.by_pieces = self._pieces_agree(probe, real, plain if self.use_mask else unmasked)
        finally:
            self.model.train(training)

    def _pieces_agree(self, probe: Batch, real: torch.Tensor, logits: torch.Tensor) -> bool:
        if self.head is None or not hasattr(self.head, "weight"):
            return False
        try:
            states = self._forward(self.backbone, probe, self.use_mask)[0]
            return _close(logits, self.head(states[real]).float(), 1e-2 if states.dtype != torch.float32 else 1e-5)
        except (TypeError, RuntimeError, IndexError, AttributeError):
            return False


def _probe(batch: Batch) -> Batch:
    """The longest row of a batch, at most 48 tokens of it, and the first half of that with the rest as padding."""
    longest = int(batch["attention_mask"].sum(1).argmax())
    length = min(48, int(batch["attention_mask"][longest].sum()))
    probe = {key: value[[longest, longest], :length].clone() for key, value in batch.items()}
    probe["attention_mask"][1, -(length // 2) :] = 0
    return probe


def _close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors agree within a tolerance relative to the largest number."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * a.abs().max().clamp(min=1e-6))
