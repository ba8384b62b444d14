"""KAI with NVIDIA's fractions: a quantity of each GPU by annotations that name the container; the driver keeps to it.

What the process sees as the device's total is not documented, so that its share is worked out in process.
"""

from __future__ import annotations

from collections.abc import Sequence

from webhook.emitters import kai
from webhook.emitters.requests import Asked, Declined, Emission, only_one
from webhook.patches import Raw

_LONGEST_NAME = 63
"""Characters of an annotation's key behind its prefix."""


def emit(pod: Raw, asked: Sequence[Asked]) -> Emission | Declined:
    one = only_one(asked, "KAI")
    if isinstance(one, Declined):
        return one
    share = one.share("kai-nvfractions")
    if any(len(name.rpartition("/")[2]) > _LONGEST_NAME for name in share.words):
        return Declined(f"{one.engine.name} is too long a name for an annotation's key")
    return kai.annotated(pod, one, share)
