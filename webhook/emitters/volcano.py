"""Volcano: vGPUs by number, and MiB of memory of each, kept by HAMi-core. The process sees its slice as the total."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sharing import VOLCANO_MEMORY, VOLCANO_NUMBER, WHOLE_GPU
from webhook.emitters.requests import Asked, Declined, Emission, Sees, is_sidecar, resource_edits, scheduler_edits
from webhook.emitters.rounding import MEBIBYTE, request_bytes
from webhook.patches import Raw

SCHEDULER = "volcano"
_MOST_UNITS = (1 << 31) - 1


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    handed_over = scheduler_edits(pod, SCHEDULER)
    if isinstance(handed_over, Declined):
        return handed_over
    edits, requests, shown = list(handed_over), [], []
    for one in asked:
        if is_sidecar(one):
            return Declined(f"{one.engine.name} is a sidecar, and Volcano counts vGPUs of plain containers only")
        amount = request_bytes(one.allocation_bytes, MEBIBYTE)
        if amount // MEBIBYTE > _MOST_UNITS:
            return Declined(f"{amount} bytes are more than Volcano counts")
        words = {VOLCANO_NUMBER: str(one.gpus), VOLCANO_MEMORY: str(amount // MEBIBYTE)}
        edits += resource_edits(pod, one.engine, {WHOLE_GPU: None, **words})
        requests.append((one.engine.name, amount))
        shown += [f"{name}: {value}" for name, value in words.items()]
    return Emission(tuple(edits), tuple(requests), Sees.SHARE, tuple(shown))
