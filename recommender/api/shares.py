"""A size in a GPU scheduler's words: what the webhook writes, and what the recommender says that it would write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from recommender.api.claims import claim_template_name
from recommender.api.rounding import GIBIBYTE, MEBIBYTE, fraction, request_bytes
from recommender.api.sharing import (
    GPUSHARE_MEMORY,
    HAMI_MEMORY,
    KAI_CONTAINER,
    KAI_DEVICES,
    KAI_MEMORY,
    NVFRACTIONS_PREFIX,
    VOLCANO_MEMORY,
    VOLCANO_NUMBER,
)


class Sees(StrEnum):
    """What the process in the container is told as its device's total."""

    CARD = "card"
    SHARE = "share"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Share:
    """Memory of each GPU of a container: in bytes, whole units of the scheduler, and in its words."""

    request_bytes: int
    words: Mapping[str, str]
    sees: Sees

    @property
    def lines(self) -> tuple[str, ...]:
        """As people read it."""
        return tuple(f"{name}: {value}" for name, value in self.words.items())


CLAIM = "resourceClaimTemplateName"

_SEES = {
    "hami": Sees.SHARE,
    "volcano": Sees.SHARE,
    "kai": Sees.CARD,
    "gpushare": Sees.CARD,
    "kai-nvfractions": Sees.UNKNOWN,
    "dra": Sees.UNKNOWN,
}


def sees_of(emitter: str) -> Sees:
    """What the process of a pod is told whose share `emitter` has written."""
    return _SEES.get(emitter, Sees.CARD)


def share_of(
    emitter: str, allocation_bytes: int, gpus: int, *, container: str, is_first: bool, recommendation: str
) -> Share | None:
    """The share of each of `gpus` GPUs for a rank that claims `allocation_bytes`; None for `none` and names that are
    no emitter's.

    `is_first`: whether `container` is the first one of the pod.
    """
    if emitter not in _SEES:
        return None
    amount = request_bytes(allocation_bytes, GIBIBYTE if emitter == "gpushare" else MEBIBYTE)
    mebibytes = str(amount // MEBIBYTE)
    devices = {KAI_DEVICES: str(gpus)} if gpus > 1 else {}
    words: Mapping[str, str]
    match emitter:
        case "hami":
            words = {HAMI_MEMORY: mebibytes}
        case "volcano":
            words = {VOLCANO_NUMBER: str(gpus), VOLCANO_MEMORY: mebibytes}
        case "gpushare":
            words = {GPUSHARE_MEMORY: str(amount // GIBIBYTE)}
        case "kai":
            words = {KAI_MEMORY: mebibytes, **({} if is_first else {KAI_CONTAINER: container}), **devices}
        case "kai-nvfractions":
            named, quantity = f"{NVFRACTIONS_PREFIX}{container}.gpu-memory", f"{mebibytes}Mi"
            # A limit above the request would let two pods of one card fill it between them.
            words = {f"{named}.request": quantity, f"{named}.limit": quantity, **devices}
        case _:
            words = {CLAIM: claim_template_name(recommendation, amount, gpus)}
    return Share(amount, words, _SEES[emitter])


def utilization_seen(sees: Sees, allocation_bytes: int, request_bytes: int, of_card: str | None) -> str | None:
    """`--gpu-memory-utilization` of a process that `sees` its share of `request_bytes` or the card; None where nobody
    knows beforehand. `of_card`: the fraction of a card, None where cards differ or the pod keeps to none of them."""
    if sees is Sees.SHARE:
        return fraction(allocation_bytes, request_bytes)
    return of_card if sees is Sees.CARD else None
