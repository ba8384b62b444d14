"""KAI: MiB of a GPU by annotations, for one container of a pod. Nothing keeps to it but the process itself.

Its admission refuses a pod with a fraction and a whole GPU, and fails closed: whatever it would refuse is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.shares import Share
from recommender.api.sharing import WHOLE_GPU, Edit
from webhook.emitters.requests import (
    Asked,
    Declined,
    Emission,
    containers_of,
    edit,
    only_one,
    resource_edits,
)
from webhook.patches import Raw

SCHEDULER = "kai-scheduler"
QUEUE = "kai.scheduler/queue"
_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
_NO_DEVICES = ("void", "none")


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "KAI")
    if isinstance(one, Declined):
        return one
    return annotated(pod, one, one.share("kai"))


def annotated(pod: Raw, one: Asked, share: Share) -> Emission | Declined:
    """The engine's GPUs given back, and a share of each asked for by annotations."""
    if pod["spec"].get("schedulerName") != SCHEDULER:
        # KAI's admission looks only at pods that are its own before anybody else's webhook ran, and without it the
        # container is given no GPU.
        return Declined(f"the pod's schedulerName is not {SCHEDULER}")
    if not ((pod.get("metadata") or {}).get("labels") or {}).get(QUEUE):
        return Declined(f"the pod has no label {QUEUE}: KAI would let it wait for ever")
    for container in containers_of(pod):
        if container.get("name") != one.engine.name and _takes_devices(container):
            return Declined(f"{container.get('name')} sets {_VISIBLE_DEVICES}, which KAI refuses beside a shared GPU")
    edits: list[Edit] = [
        *resource_edits(pod, one.engine, {WHOLE_GPU: None}),
        *(edit(pod, None, ("metadata", "annotations", name), value) for name, value in share.words.items()),
    ]
    return Emission(tuple(edits), ((one.engine.name, share.request_bytes),), share.sees, share.lines)


def _takes_devices(container: Raw) -> bool:
    entries = [entry for entry in container.get("env") or () if entry.get("name") == _VISIBLE_DEVICES]
    return any(entry.get("value") not in _NO_DEVICES for entry in entries)
