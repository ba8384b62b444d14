"""What a smaller allocation is worth: memory that a scheduler can give to others, and memory that merely lies idle."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.api.sharing import Emitted


@dataclass(frozen=True)
class SavingsSplit:
    """Bytes a GPU. Both together are what vLLM gives back."""

    bankable_bytes: int
    """No scheduler request holds it any more: another pod can be placed there."""
    potential_bytes: int
    """Free on the card, and promised to this pod all the same."""


def split_savings(saved_bytes: int, card_bytes: int, emitted: Emitted | None) -> SavingsSplit:
    """How much of `saved_bytes`, which vLLM gives back of a card of `card_bytes`, can be used by others.

    `emitted`: what the pod asks of its GPU scheduler, None where it holds whole GPUs. A pod that grows
    (`saved_bytes` below zero) has nothing to bank.
    """
    if emitted is None or saved_bytes <= 0:
        return SavingsSplit(0, saved_bytes)
    bankable = min(saved_bytes, max(0, card_bytes - emitted.request_bytes))
    return SavingsSplit(bankable, saved_bytes - bankable)
