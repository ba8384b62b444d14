"""The size in the GPU scheduler's own words, so that what is freed can be given to other pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recommender.api.sharing import (
    EMITTERS,
    LONGEST_RECORD,
    MIG_PREFIX,
    WHOLE_GPU,
    Emitted,
    amounts_of,
    shares_of,
)
from webhook.emitters import dra, gpushare, hami, kai, kai_nvfractions, volcano
from webhook.emitters.requests import Asked, Declined, Emission, containers_of
from webhook.patches import Raw

_BY_NAME: Mapping[str, Callable[[Raw, Sequence[Asked]], Emission | Declined]] = {
    "dra": dra.emit,
    "gpushare": gpushare.emit,
    "hami": hami.emit,
    "kai": kai.emit,
    "kai-nvfractions": kai_nvfractions.emit,
    "volcano": volcano.emit,
}


def emission_for(pod: Raw, asked: Sequence[Asked], emitter: str) -> Emission | Declined | None:
    """What `emitter` writes into `pod`, the pod as its author wrote it; None where there is nothing to write.

    A pod that would be refused, or would wait for ever, is worse than one that holds a whole GPU: in doubt declined.
    """
    if emitter == "none":
        return None
    if emitter not in _BY_NAME:
        return Declined(f"there is no emitter {emitter!r}: it is one of {', '.join(EMITTERS)}", mistaken=True)
    reason = _unfit(pod, asked)
    if reason is not None:
        return Declined(reason)
    emission = _BY_NAME[emitter](pod, asked)
    if isinstance(emission, Emission):
        for one in asked:
            amount = emission.request_bytes(one.engine.name)
            if amount > one.largest_bytes:
                return Declined(f"{one.engine.name} would ask for {amount} bytes, more than any GPU seen has")
        if len(Emitted(emitter, emission.largest_bytes, emission.edits).to_text()) > LONGEST_RECORD:
            return Declined("the note of what stood there before would be too long")
    return emission


def _unfit(pod: Raw, asked: Sequence[Asked]) -> str | None:
    """Why no emitter may touch `pod`."""
    shares = shares_of(pod)
    if shares:
        return f"the pod's author asks for a share of a GPU already ({next(iter(shares))})"
    if pod["spec"].get("nodeName"):
        return "the pod names its node, so that no scheduler looks at it"
    engines = {one.engine.name for one in asked}
    for container in containers_of(pod):
        amounts = amounts_of(container)
        if any(name.startswith(MIG_PREFIX) for name in amounts):
            return f"{container.get('name')} has slices by MIG, which are fixed: choose another profile"
        if WHOLE_GPU in amounts and container.get("name") not in engines:
            return f"{container.get('name')} asks for GPUs too, and nobody knows how much of them it needs"
    for one in asked:
        if one.gpus < 1:
            return f"{one.engine.name} asks for no {WHOLE_GPU}"
    return None
