"""What each token sees, for each kind of layer, made from positions: full, sliding and chunked attention."""

from __future__ import annotations

from typing import Any, Literal

import torch

Style = Literal["typed", "one", "flat", "none"]
"""How a model takes its masks: a dictionary by kind of layer, one of four dimensions, one of two (padding), or none."""

_WITHOUT_ATTENTION = ("linear", "mamba", "conv", "recurrent", "moe", "mlp")


class Masks:
    """Makes attention masks of a model.

    Args:
        config: The model's configuration.
        dtype: Of its weights.
    """

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        text = config.get_text_config()
        self.dtype = dtype
        self.window, self.chunk = attention_window(text), getattr(text, "attention_chunk_size", None)
        self.kinds = {*(getattr(text, "layer_types", None) or ()), "full_attention", "sliding_attention"}

    def make(self, style: Style, seen: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> dict[str, Any]:
        """Return the argument that says what is seen, by its name.

        Args:
            style: How the model takes it.
            seen: bool ``[rows, queries, keys]``: the causal mask, without windows.
            queries: Positions ``[rows, queries]``.
            keys: Positions ``[rows, keys]`` or ``[1, keys]``.
        """
        if style == "none":
            return {}
        if style == "flat":  # one query: what of its row counts, [rows, keys]
            return {"attention_mask": seen[:, -1].long()}
        if style == "one":
            return {"attention_mask": self._additive(self._windowed("sliding" if self.window else "chunked",
                                                                    seen, queries, keys))}  # fmt: skip
        made = {kind: self._windowed(kind, seen, queries, keys) for kind in self.kinds}
        return {"attention_mask": {kind: None if mask is None else self._additive(mask) for kind, mask in made.items()}}

    def _windowed(self, kind: str, seen: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> Any:
        """Cut ``seen`` to what a kind of layer sees; None where it has no attention."""
        if "sliding" in kind and self.window:
            return seen & (keys[:, None] > queries[..., None] - self.window)
        if "chunked" in kind and self.chunk:
            return seen & (keys[:, None] >= (queries // self.chunk * self.chunk)[..., None])
        return None if any(word in kind for word in _WITHOUT_ATTENTION) else seen

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        """``[rows, queries, keys] -> [rows, 1, queries, keys]``: numbers, which every kind of attention takes."""
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]


def attention_window(text: Any) -> int | None:
    """The sliding window of a configuration, None where it has none or does not use it."""
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return int(window) if isinstance(window, int) and window > 0 else None
