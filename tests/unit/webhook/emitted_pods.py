"""Pods with a size, and what an emitter makes of them: what the tests of emitters share."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from webhook_cases import Raw, knowing, patched, pod, review

from recommender.api.fingerprints import fingerprint
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.rounding import GIBIBYTE, MEBIBYTE, OUTSIDE_BYTES
from recommender.api.sharing import as_written, emitted_of
from vllm_plugin.names import (
    ANNOTATION_SKIPPED,
)
from webhook.admission import admit
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()
ALLOCATION = 20 * GIBIBYTE + 1
CARD = 80 * GIBIBYTE
MAIN: Raw = {
    "name": "main",
    "image": "vllm/vllm-openai:v0.11.0",
    "args": ["--model=m"],
    "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1", "cpu": "4"}},
}
KAI = {"spec": {"schedulerName": "kai-scheduler"}, "labels": {"kai.scheduler/queue": "team"}}
MIB = str(-(-(ALLOCATION + OUTSIDE_BYTES) // MEBIBYTE))
SECOND = {**MAIN, "name": "second"}
NAME = "deployment-llama-main-0a1b2c3d"


def a_pod(*more: Raw, main: Raw | None = None, **changes: Any) -> Raw:
    before = copy.deepcopy(pod({**MAIN, **(main or {})}, annotations=changes.get("annotations", {})))
    before["spec"]["containers"] += copy.deepcopy(more)
    before["spec"] |= changes.get("spec", {})
    before["metadata"]["labels"] = {**before["metadata"].get("labels", {}), **changes.get("labels", {})}
    return before


def knowing_size(before: Raw, emitter: str, **changes: Any) -> Any:
    values = {"allocation_bytes": ALLOCATION, "largest_gpu_bytes": CARD, **changes}
    known = knowing(before, **values)
    return dataclasses.replace(known, cluster=ClusterAutomationSpec(vllm_optimize=True, emitter=emitter))


def emitted(before: Raw, emitter: str, **changes: Any) -> tuple[Raw, Raw]:
    """The pod afterwards, and its main container."""
    known = knowing_size(before, emitter, **changes)
    answer = admit(review(before), known, SETTINGS)
    after = patched(before, answer)
    assert emitter == "none" or f"{emitter}: " in answer["response"]["auditAnnotations"]["reason"]
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]
    assert as_written(after)["spec"]["containers"][0]["resources"] == before["spec"]["containers"][0]["resources"]
    assert fingerprint(after, "main") == fingerprint(before, "main")
    return after, next(item for item in after["spec"]["containers"] if item["name"] == "main")


def declined(before: Raw, emitter: str, why: str, **changes: Any) -> None:
    """Sized, and its GPUs stay as they are."""
    known = knowing_size(before, emitter, **changes)
    after = patched(before, admit(review(before), known, SETTINGS))
    assert why in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert emitted_of(after) is None
    for one, other in zip(after["spec"]["containers"], before["spec"]["containers"], strict=True):
        assert one.get("resources") == other.get("resources")
    assert after["spec"].get("schedulerName") == before["spec"].get("schedulerName")
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]
