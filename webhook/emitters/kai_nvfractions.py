"""KAI with NVIDIA's fractions: a quantity of each GPU by annotations that name the container; the driver keeps to it.

What the process sees as the device's total is not documented, so that its share is worked out in process.
"""

from __future__ import annotations

from collections.abc import Sequence

from recommender.api.sharing import NVFRACTIONS_PREFIX
from webhook.emitters import kai
from webhook.emitters.requests import Asked, Declined, Emission, Sees, only_one
from webhook.emitters.rounding import MEBIBYTE, request_bytes
from webhook.patches import Raw


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "KAI")
    if isinstance(one, Declined):
        return one
    amount = request_bytes(one.allocation_bytes, MEBIBYTE)
    named = f"{NVFRACTIONS_PREFIX}{one.engine.name}.gpu-memory"
    if len(named.partition("/")[2]) + len(".request") > 63:
        return Declined(f"{one.engine.name} is too long a name for an annotation's key")
    quantity = f"{amount // MEBIBYTE}Mi"
    # A limit above the request would let two pods of one card fill it between them.
    words = {f"{named}.request": quantity, f"{named}.limit": quantity}
    return kai.annotated(pod, one, amount, words, Sees.UNKNOWN)
