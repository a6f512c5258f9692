"""The parts of a causal LM: hidden states first, the LM head only where its logits are needed."""

from __future__ import annotations

import copy
import inspect
import weakref
from typing import Any

import torch

from unidetox.decoding.kernels import inference_kernels
from unidetox.decoding.memory import row_bytes
from unidetox.decoding.support import Support

ROW_MULTIPLE = 8
"""Matrix products give each row the same bits whatever the number of rows, as long as that is a multiple of this."""

MAX_TOKENS = {"cpu": 2048, "cuda": 16384}
"""More tokens a pass are no faster; on a CPU slower, as buffers beyond 32 MiB are returned to the system each time."""


class Head:
    """A model's LM head, with the scaling and capping of logits that some families have.

    Args:
        model: A causal LM that names its head.
        exact: Give float32 logits whatever the model's type: bfloat16 has steps of 0.25 at logits of 32, which is as
            much as two models that are subtracted may differ by.
    """

    def __init__(self, model: Any, exact: bool = False) -> None:
        config = model.config.get_text_config()
        self._output = model.get_output_embeddings()
        self._exact = exact and model.dtype != torch.float32
        # On a GPU a product of bfloat16 matrices can itself be float32; on a CPU the matrix is converted, once a model.
        self._product = self._exact and self._output.weight.is_cuda and type(self._output) is torch.nn.Linear
        if self._exact and not self._product:
            self._output = _in_float32(self._output)
        self._scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self._scale *= getattr(config, "lm_head_multiplier", None) or 1
        self._cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits, ``[..., hidden] -> [..., vocabulary]``."""
        weight = self._output.weight
        if self._product:
            flat = torch.mm(hidden.flatten(0, -2), weight.t(), out_dtype=torch.float32)
            logits = flat.view(*hidden.shape[:-1], -1)
            logits = logits if self._output.bias is None else logits + self._output.bias
        else:
            logits = self._output(hidden.to(weight.dtype) if self._exact else hidden)
        if self._scale != 1:
            logits = logits * self._scale
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return int(self._output.weight.shape[0])


_float32: weakref.WeakKeyDictionary[Any, tuple[tuple[int, int], Any]] = weakref.WeakKeyDictionary()


def _in_float32(output: Any) -> Any:
    """Copy a head in float32; once a model, unless its weights have changed since."""
    weight = output.weight
    state = weight.data_ptr(), 0 if weight.is_inference() else weight._version
    if output not in _float32 or _float32[output][0] != state:
        _float32[output] = state, copy.deepcopy(output).float()
    return _float32[output][1]


class Backbone:
    """A causal LM of which hidden states are asked, and logits of some of them.

    Args:
        model: Any causal LM of transformers, in eval mode.
        known: What is right for it.
        exact: Give float32 logits whatever the model's type, see `Head`.

    Attributes:
        model: The model.
        cache_name: How its forward calls a cache; None where it takes none.
    """

    def __init__(self, model: Any, known: Support, exact: bool = False) -> None:
        self.model, self.known = model, known
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self.cache_name = next(
            (name for name in ("past_key_values", "cache", "cache_params") if name in parameters), None
        )
        self._head = Head(model, exact) if known.head and names_head(model) else None

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def has_head(self) -> bool:
        """Whether logits are the LM head of the last hidden state, with nothing in between that is not known."""
        return self._head is not None

    @property
    def activation_bytes(self) -> int:
        """About what a token takes while it goes through; where hidden states cannot be had, each gets logits too."""
        text = self.model.config.get_text_config()
        vectors = row_bytes(0, int(text.hidden_size), 0, int(next(self.model.parameters()).element_size()))
        return vectors + (0 if self._head else 8 * int(text.vocab_size))

    def inputs(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any = None) -> dict[str, Any]:
        """Name the inputs as this model's forward does; ids and positions ``[rows, tokens]``."""
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
        if cache is not None:
            inputs[self.cache_name or "past_key_values"] = cache
        return inputs | ({"position_ids": positions} if self._takes_positions else {})

    def select(self, inputs: dict[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Run the model and return the vectors from which `logits` makes logits, at ``(rows, columns)`` only."""
        with inference_kernels(self.device):
            if self._head:
                return self.model.base_model(**inputs).last_hidden_state[rows, columns]  # type: ignore[no-any-return]
            return self.model(**inputs).logits[rows, columns]  # type: ignore[no-any-return]

    def logits(self, selected: torch.Tensor) -> torch.Tensor:
        """Apply the LM head to what `select` returned, ``[n, hidden] -> [n, vocabulary]``."""
        if not self._head:
            return selected
        missing = -selected.shape[0] % ROW_MULTIPLE  # idle rows, so that each row has the same bits whatever n
        padded = torch.nn.functional.pad(selected, (0, 0, 0, missing)) if missing else selected
        with inference_kernels(self.device):
            logits: torch.Tensor = self._head(padded)
        return logits[: selected.shape[0]]


def names_head(model: Any) -> bool:
    """Whether a model says what its LM head is: else its whole forward pass gives the logits."""
    try:
        return hasattr(model.get_output_embeddings(), "weight")
    except (AttributeError, NotImplementedError):
        return False
