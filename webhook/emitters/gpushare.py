"""gpushare-scheduler-extender: GiB of one GPU for a pod. Nothing keeps to it but the process itself."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sharing import WHOLE_GPU
from webhook.emitters.requests import Asked, Declined, Emission, is_sidecar, only_one, resource_edits
from webhook.patches import Raw


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "gpushare")
    if isinstance(one, Declined):
        return one
    if one.gpus > 1:
        return Declined(f"{one.engine.name} uses {one.gpus} GPUs, and gpushare gives a pod one")
    if is_sidecar(one):
        return Declined(f"{one.engine.name} is a sidecar, and gpushare counts the memory of plain containers only")
    share = one.share("gpushare")
    edits = resource_edits(pod, one.engine, {WHOLE_GPU: None, **share.words})
    return Emission(tuple(edits), ((one.engine.name, share.request_bytes),), share.sees, share.lines)
