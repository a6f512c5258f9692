"""What is known of a kind of model: which fast ways are right for it."""

from __future__ import annotations

from dataclasses import dataclass

from unidetox.decoding.masks import Style


@dataclass(frozen=True)
class Support:
    """What is right for a kind of model.

    Attributes:
        head: Logits are the LM head of the last hidden state, but for scaling and capping that we know.
        unmasked: Right padding needs no mask.
        decode: How the model takes the masks of a step from the slots of a cache; None where that is not right.
        packed: How it takes the mask of a packed row; None where that is not right.
        padded: Likelihoods from padded rows that share a cache are right.
        longest: Tokens of a sequence up to which this is known to hold; None where that does not matter.
        reason: Why `decode` is None.
    """

    head: bool = False
    unmasked: bool = False
    decode: Style | None = None
    packed: Style | None = None
    padded: bool = False
    longest: int | None = None
    reason: str = ""
