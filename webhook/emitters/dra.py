"""Dynamic resource allocation: the pod points at the ResourceClaimTemplate that the recommender made for the size.

Where that is not there yet, the pod would wait for it: then it keeps its whole GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.shares import CLAIM, Sees
from recommender.api.sharing import WHOLE_GPU
from webhook.emitters.requests import Asked, Declined, Emission, edit, resource_edits
from webhook.patches import Raw

_CLAIM = "vllm-rightsizer-gpu"


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    edits, requests, claims = [], [], []
    shown: list[str] = []
    for at, one in enumerate(asked):
        share = one.share("dra")
        template = share.words[CLAIM]
        if one.claim_template != template:
            hint = "a recommender with --no-gpu-claims makes none (in the chart: recommender.gpuClaims)"
            return Declined(f"the ResourceClaimTemplate {template} is not there yet; {hint}")
        if (one.engine.container.get("resources") or {}).get("claims"):
            return Declined(f"{one.engine.name} has device claims of its own")
        claim = _CLAIM if at == 0 else f"{_CLAIM}-{at + 1}"
        claims.append({"name": claim, CLAIM: template})
        edits += resource_edits(pod, one.engine, {WHOLE_GPU: None})
        edits.append(edit(pod, one.engine.name, ("resources", "claims"), [{"name": claim}]))
        requests.append((one.engine.name, share.request_bytes))
        shown += share.lines
    edits.append(edit(pod, None, ("spec", "resourceClaims"), claims))
    return Emission(tuple(edits), tuple(requests), Sees.UNKNOWN, tuple(shown))
