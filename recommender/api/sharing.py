"""A pod's share of a GPU in its scheduler's own words: which words there are, and what of them the webhook wrote.

The webhook records on the pod what it wrote and what stood there before, so that both sides can look at the pod as its
author wrote it: it is that pod for which a recommendation is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vllm_plugin.names import ANNOTATION_EMITTED

Raw = dict[str, Any]
Emitter = Literal["none", "hami", "kai", "kai-nvfractions", "volcano", "gpushare", "dra"]
EMITTERS: tuple[str, ...] = get_args(Emitter)

WHOLE_GPU = "nvidia.com/gpu"
HAMI_MEMORY = "nvidia.com/gpumem"
HAMI_CORES = "nvidia.com/gpucores"
HAMI_MEMORY_PERCENTAGE = "nvidia.com/gpumem-percentage"
VOLCANO_MEMORY = "volcano.sh/vgpu-memory"
VOLCANO_MEMORY_PERCENTAGE = "volcano.sh/vgpu-memory-percentage"
VOLCANO_NUMBER = "volcano.sh/vgpu-number"
GPUSHARE_MEMORY = "aliyun.com/gpu-mem"
KAI_FRACTION = "gpu-fraction"
KAI_MEMORY = "gpu-memory"
KAI_DEVICES = "gpu-fraction-num-devices"
KAI_CONTAINER = "gpu-fraction-container-name"
NVFRACTIONS_PREFIX = "nvidia.com/container."
MIG_PREFIX = "nvidia.com/mig-"

SHARING_RESOURCES = (
    HAMI_MEMORY,
    HAMI_MEMORY_PERCENTAGE,
    VOLCANO_MEMORY,
    VOLCANO_MEMORY_PERCENTAGE,
    VOLCANO_NUMBER,
    GPUSHARE_MEMORY,
)
_ASSIGNED_DEVICES = ".gpus.devices"
"""Written by KAI itself, once it has found a GPU."""
SHARING_ANNOTATIONS = (KAI_FRACTION, KAI_MEMORY, KAI_DEVICES)
_RESOURCES = (WHOLE_GPU, HAMI_CORES, *SHARING_RESOURCES)
_ANNOTATIONS = (KAI_CONTAINER, *SHARING_ANNOTATIONS)

Place = tuple[str, ...]
"""Keys from a container, or from the pod where no container is meant."""

LONGEST_RECORD = 16 * 1024
"""Characters; a longer one counts as none of ours."""
_MOST_EDITS = 128


@dataclass(frozen=True)
class Edit:
    """One field of a pod: what it is to be (`now`), and what the author wrote there (`was`); None is nothing."""

    container: str | None
    place: Place
    now: Any
    was: Any


@dataclass(frozen=True)
class Emitted:
    """What the webhook wrote into a pod for its GPU scheduler."""

    emitter: str
    request_bytes: int
    """Of each GPU of each engine; the largest, where engines differ."""
    edits: tuple[Edit, ...]

    def to_text(self) -> str:
        edits = [[edit.container, list(edit.place), edit.now, edit.was] for edit in self.edits]
        return json.dumps({"emitter": self.emitter, "bytes": self.request_bytes, "edits": edits})


def emitted_of(pod: Raw) -> Emitted | None:
    """What the webhook recorded on `pod`; None where it wrote nothing, or where the record is not one of ours."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    text = annotations.get(ANNOTATION_EMITTED)
    if not isinstance(text, str) or len(text) > LONGEST_RECORD:
        return None
    try:
        read = json.loads(text)
        edits = tuple(Edit(container, tuple(place), now, was) for container, place, now, was in read["edits"])
        emitted = Emitted(read["emitter"], read["bytes"], edits)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return emitted if _is_ours(emitted) else None


def as_written(pod: Raw) -> Raw:
    """`pod` without what the webhook wrote for its GPU scheduler; `pod` itself where there is nothing of that kind.

    What somebody else changed since then stays as it is.
    """
    emitted = emitted_of(pod)
    if emitted is None:
        return pod
    for edit in emitted.edits:
        if value_at(pod, edit.container, edit.place) == edit.now:
            pod = _with(pod, edit.container, edit.place, edit.was)
    return pod


def value_at(pod: Raw, container: str | None, place: Place) -> Any:
    """What stands in the pod at `place`; None where nothing does, or where there is no such container."""
    found: Any = pod
    if container is not None:
        found = next((item for item in _containers(pod) if item.get("name") == container), None)
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def amounts_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """The container's resources by name; a limit wins over a request."""
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def shares_of(pod: Raw) -> dict[str, Any]:
    """What the author of `pod` says of shares of GPUs, in any scheduler's words: resources, annotations, claims."""
    if emitted_of(pod) is not None:
        # The webhook writes none where the author wrote some; KAI puts its share into further words of its own.
        return {}
    found = {
        name: amount
        for container in _containers(pod)
        for name, amount in amounts_of(container).items()
        if name in SHARING_RESOURCES
    }
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    found |= {name: annotations[name] for name in SHARING_ANNOTATIONS if name in annotations}
    if not found:
        found |= {
            name: value
            for name, value in annotations.items()
            if name.startswith(NVFRACTIONS_PREFIX) and not name.endswith(_ASSIGNED_DEVICES)
        }
    claims = (pod.get("spec") or {}).get("resourceClaims")
    return {**found, "spec.resourceClaims": claims} if claims else found


def _containers(pod: Raw) -> Iterator[Raw]:
    spec = pod.get("spec") or {}
    yield from spec.get("containers") or ()
    yield from spec.get("initContainers") or ()


def _is_ours(emitted: Emitted) -> bool:
    """Nobody else's text may make us move fields that we never write, or put values there that make no pod."""
    if emitted.emitter not in EMITTERS or type(emitted.request_bytes) is not int or len(emitted.edits) > _MOST_EDITS:
        return False
    return all(_fits(edit, edit.now) and _fits(edit, edit.was) for edit in emitted.edits)


def _fits(edit: Edit, value: Any) -> bool:
    """Whether `value` is one for the place of `edit`, and that place one of ours."""
    match (edit.container, *edit.place):
        case (str(), "resources", "limits" | "requests", str(name)):
            return name in _RESOURCES and (value is None or str(value).isdecimal())
        case (None, "metadata", "annotations", str(name)):
            ours = name in _ANNOTATIONS or name.startswith(NVFRACTIONS_PREFIX)
            return ours and (value is None or isinstance(value, str))
        case (None, "spec", "schedulerName"):
            return value is None or isinstance(value, str)
        case (str(), "resources", "claims") | (None, "spec", "resourceClaims"):
            return value is None or _are_claims(value)
    return False


def _are_claims(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(claim, dict) and all(isinstance(text, str) for text in claim.values()) for claim in value
    )


def _with(pod: Raw, container: str | None, place: Place, value: Any) -> Raw:
    """`pod` with `value` at `place`; only what lies on the way is copied."""
    if container is None:
        changed: Raw = _replaced(pod, place, value)
        return changed
    spec = dict(pod["spec"])
    for key in ("containers", "initContainers"):
        spec[key] = [
            _replaced(item, place, value) if item.get("name") == container else item for item in spec.get(key) or ()
        ]
        if not spec[key]:
            del spec[key]
    return {**pod, "spec": spec}


def _replaced(node: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    inner = dict(node) if isinstance(node, dict) else {}
    replaced = _replaced(inner.get(place[0]), place[1:], value)
    if replaced is None:
        inner.pop(place[0], None)
    else:
        inner[place[0]] = replaced
    # What was made only to hold the value goes with it.
    return inner if inner or value is not None else None
