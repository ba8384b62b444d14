"""KAI: MiB of a GPU by annotations, for one container of a pod. Nothing keeps to it but the process itself.

Its admission refuses a pod with a fraction and a whole GPU, and fails closed: whatever it would refuse is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sharing import KAI_CONTAINER, KAI_DEVICES, KAI_MEMORY, WHOLE_GPU, Edit
from webhook.emitters.requests import (
    Asked,
    Declined,
    Emission,
    Sees,
    containers_of,
    edit,
    only_one,
    resource_edits,
)
from webhook.emitters.rounding import MEBIBYTE, request_bytes
from webhook.patches import Raw

SCHEDULER = "kai-scheduler"
QUEUE = "kai.scheduler/queue"
_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
_NO_DEVICES = ("void", "none")


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "KAI")
    if isinstance(one, Declined):
        return one
    amount = request_bytes(one.allocation_bytes, MEBIBYTE)
    words = {KAI_MEMORY: str(amount // MEBIBYTE)}
    if pod["spec"]["containers"][0].get("name") != one.engine.name:
        words[KAI_CONTAINER] = one.engine.name
    return annotated(pod, one, amount, words, Sees.CARD)


def annotated(pod: Raw, one: Asked, amount: int, words: dict[str, str], sees: Sees) -> Emission | Declined:
    """The engine's GPUs given back, and a share of each asked for by the annotations `words`."""
    if pod["spec"].get("schedulerName") != SCHEDULER:
        # KAI's admission looks only at pods that are its own before anybody else's webhook ran, and without it the
        # container is given no GPU.
        return Declined(f"the pod's schedulerName is not {SCHEDULER}")
    if not ((pod.get("metadata") or {}).get("labels") or {}).get(QUEUE):
        return Declined(f"the pod has no label {QUEUE}: KAI would let it wait for ever")
    for container in containers_of(pod):
        if container.get("name") != one.engine.name and _takes_devices(container):
            return Declined(f"{container.get('name')} sets {_VISIBLE_DEVICES}, which KAI refuses beside a shared GPU")
    if one.gpus > 1:
        words = {**words, KAI_DEVICES: str(one.gpus)}
    edits: list[Edit] = [
        *resource_edits(pod, one.engine, {WHOLE_GPU: None}),
        *(edit(pod, None, ("metadata", "annotations", name), value) for name, value in words.items()),
    ]
    shown = tuple(f"{name}: {value}" for name, value in words.items())
    return Emission(tuple(edits), ((one.engine.name, amount),), sees, shown)


def _takes_devices(container: Raw) -> bool:
    entries = [entry for entry in container.get("env") or () if entry.get("name") == _VISIBLE_DEVICES]
    return any(entry.get("value") not in _NO_DEVICES for entry in entries)
