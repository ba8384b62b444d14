"""Volcano: vGPUs by number, and MiB of memory of each, kept by HAMi-core. The process sees its slice as the total."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.rounding import MEBIBYTE
from recommender.api.shares import Sees
from recommender.api.sharing import WHOLE_GPU
from webhook.emitters.requests import Asked, Declined, Emission, is_sidecar, resource_edits, scheduler_edits
from webhook.patches import Raw

SCHEDULER = "volcano"
_MOST_UNITS = (1 << 31) - 1


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    handed_over = scheduler_edits(pod, SCHEDULER)
    if isinstance(handed_over, Declined):
        return handed_over
    edits, requests = list(handed_over), []
    shown: list[str] = []
    for one in asked:
        if is_sidecar(one):
            return Declined(f"{one.engine.name} is a sidecar, and Volcano counts vGPUs of plain containers only")
        share = one.share("volcano")
        amount = share.request_bytes
        if amount // MEBIBYTE > _MOST_UNITS:
            return Declined(f"{amount} bytes are more than Volcano counts")
        edits += resource_edits(pod, one.engine, {WHOLE_GPU: None, **share.words})
        requests.append((one.engine.name, amount))
        shown += share.lines
    return Emission(tuple(edits), tuple(requests), Sees.SHARE, tuple(shown))
