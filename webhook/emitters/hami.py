"""HAMi: whole vGPUs by number, and MiB of memory of each. The process sees its slice as the device's total."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.rounding import MEBIBYTE
from recommender.api.shares import Sees
from recommender.api.sharing import HAMI_CORES, amounts_of
from webhook.emitters.requests import Asked, Declined, Emission, containers_of, resource_edits
from webhook.patches import Raw

_MOST_UNITS = (1 << 31) - 1
_ALL_CORES = "100"
"""HAMi's own admission gives these to a pod that says nothing of memory; with them nobody else comes onto the card."""
_NO_CUSTOM_ALL_REDUCE = "--disable-custom-all-reduce"


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    privileged = [
        str(container.get("name"))
        for container in containers_of(pod)
        if (container.get("securityContext") or {}).get("privileged")
    ]
    if privileged:
        return Declined(f"HAMi refuses pods with a privileged container ({privileged[0]})")
    edits, requests = [], []
    shown: list[str] = []
    for one in asked:
        if one.gpus > 1 and not _runs_without_ipc(one):
            return Declined(
                f"{one.engine.name} uses {one.gpus} GPUs: ranks on HAMi's vGPUs need {_NO_CUSTOM_ALL_REDUCE}"
            )
        share = one.share("hami")
        amount = share.request_bytes
        if amount // MEBIBYTE > _MOST_UNITS:
            return Declined(f"{amount} bytes are more than HAMi counts")
        words: dict[str, str | None] = dict(share.words)
        if str(amounts_of(one.engine.container).get(HAMI_CORES)) == _ALL_CORES:
            words[HAMI_CORES] = None
        edits += resource_edits(pod, one.engine, words)
        requests.append((one.engine.name, amount))
        shown += share.lines
    return Emission(tuple(edits), tuple(requests), Sees.SHARE, tuple(shown))


def _runs_without_ipc(asked: Asked) -> bool:
    """Memory of one vGPU cannot be opened from another, which vLLM's own all-reduce would do."""
    return any(_NO_CUSTOM_ALL_REDUCE in token.replace("_", "-").split() for token in asked.engine.arguments.vector)
