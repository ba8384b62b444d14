"""gpushare-scheduler-extender: GiB of one GPU for a pod. Nothing keeps to it but the process itself."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sharing import GPUSHARE_MEMORY, WHOLE_GPU
from webhook.emitters.requests import Asked, Declined, Emission, Sees, is_sidecar, only_one, resource_edits
from webhook.emitters.rounding import GIBIBYTE, request_bytes
from webhook.patches import Raw


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "gpushare")
    if isinstance(one, Declined):
        return one
    if one.gpus > 1:
        return Declined(f"{one.engine.name} uses {one.gpus} GPUs, and gpushare gives a pod one")
    if is_sidecar(one):
        return Declined(f"{one.engine.name} is a sidecar, and gpushare counts the memory of plain containers only")
    amount = request_bytes(one.allocation_bytes, GIBIBYTE)
    words = {GPUSHARE_MEMORY: str(amount // GIBIBYTE)}
    edits = resource_edits(pod, one.engine, {WHOLE_GPU: None, **words})
    shown = tuple(f"{name}: {value}" for name, value in words.items())
    return Emission(tuple(edits), ((one.engine.name, amount),), Sees.CARD, shown)
