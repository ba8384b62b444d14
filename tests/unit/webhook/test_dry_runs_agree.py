"""What the webhook warns with in a dry run is what the recommender writes into the status, line by line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from emitted_pods import ALLOCATION, CARD, KAI, MAIN, NAME, SETTINGS, a_pod, knowing_size
from webhook_cases import KV_BYTES, UTILIZATION, WORKLOAD, Raw, patched, review

from recommender.api.automation import Automation
from recommender.api.fingerprints import fingerprint
from recommender.api.launches import Launch, launch_of
from recommender.api.objects import ObjectMeta
from recommender.api.policies import ClusterAutomationSpec, PolicySpec
from recommender.api.recommendations import (
    Range,
    RecommendationSpec,
    RecommendationStatus,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.consequences import would_change
from recommender.discovery import Pod
from recommender.keys import WorkloadKey
from recommender.resolution import ResolvedPolicy
from recommender.workload_states import PodReport, WorkloadState
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_SKIPPED
from webhook.admission import admit

KEY = WorkloadKey("prod", WORKLOAD, "main")
PINNED = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}


def recommended(**status: Any) -> VLLMRecommendation:
    target = Target(
        kv_bytes=KV_BYTES,
        kv_blocks=2048,
        allocation_bytes=ALLOCATION,
        gpu_memory_utilization=UTILIZATION,
        flags=[f"--gpu-memory-utilization={UTILIZATION}", f"--kv-cache-memory-bytes={KV_BYTES}"],
        bound_by="hitRate",
    )
    reference = TargetRef(group=WORKLOAD.group, kind=WORKLOAD.kind, name=WORKLOAD.name, container="main")
    return VLLMRecommendation(
        metadata=ObjectMeta(name=NAME, namespace="prod"),
        spec=RecommendationSpec(target_ref=reference),
        status=RecommendationStatus(gpu_memory_total_bytes=Range(min=CARD, max=CARD), target=target, **status),
    )


def state(pod: Raw, emitter: str, *, dry_run: bool = True, enabled: bool = True, mode: str = "Apply") -> WorkloadState:
    """As the recommender sees a workload with this one pod."""
    annotations = pod["metadata"].get("annotations") or {}
    launch = launch_of(pod, "main")
    one = Pod(KEY, "p", "", fingerprint(pod, "main"), None, 0, True, False, None, annotations, launch=launch)
    automation = Automation(False, enabled, "ClusterAutomation", "default", "default", dry_run, emitter)
    policy = ResolvedPolicy("default", PolicySpec.model_validate({"mode": mode}))
    return WorkloadState(KEY, (PodReport(one),), automation, policy, None, None)


def shown(before: Raw, emitter: str) -> tuple[Raw, list[str]]:
    """The pod that the webhook admitted in a dry run, and the lines of what would change."""
    known = dataclasses.replace(
        knowing_size(before, emitter, utilization=UTILIZATION),
        cluster=ClusterAutomationSpec(vllm_optimize=True, emitter=emitter, mode="DryRun"),
    )
    after = patched(before, admit(review(before), known, SETTINGS))
    # Warnings are cut to the length that kubectl shows; the annotation has all of it.
    text = after["metadata"]["annotations"][ANNOTATION_SKIPPED].partition("DryRun: main would change: ")[2]
    text = text.partition("; ")[0]
    lines: list[str] = []
    for word in text.split():
        if word in "+-":
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return after, lines


OWN = {"args": ["--model=m", "--gpu-memory-utilization", "0.95", "--kv-cache-memory-bytes=8G", "--port=1"]}
AUTO = {"vllm-rightsizer.io/auto": "true"}
SHELL = {"command": ["sh", "-c", "vllm serve m"], "args": []}


@pytest.mark.parametrize("emitter", ["none", "hami", "volcano", "gpushare", "kai", "kai-nvfractions"])
@pytest.mark.parametrize(
    "before",
    [
        a_pod(spec=KAI["spec"], labels=KAI["labels"]),
        a_pod(spec={**KAI["spec"], **PINNED}, labels=KAI["labels"]),
        a_pod(main=OWN, spec={**KAI["spec"], **PINNED}, labels=KAI["labels"], annotations=AUTO),
        a_pod(main=SHELL, spec={**KAI["spec"], **PINNED}, labels=KAI["labels"]),
        a_pod(spec=PINNED),
    ],
    ids=["anywhere", "pinned", "the author's own sizes", "a shell", "no scheduler of KAI's"],
)
def test_the_same_lines(before: Raw, emitter: str) -> None:
    after, lines = shown(before, emitter)
    assert lines
    assert would_change(recommended(), state(after, emitter)) == lines


def test_kais_container_is_named_where_it_is_not_the_first() -> None:
    before = a_pod(spec={**KAI["spec"], **PINNED}, labels=KAI["labels"])
    before["spec"]["containers"].insert(0, {"name": "proxy", "image": "envoy"})
    after, lines = shown(before, "kai")
    assert "+ gpu-fraction-container-name: main" in lines
    assert would_change(recommended(), state(after, "kai")) == lines


def test_also_of_a_pod_that_runs_with_a_size() -> None:
    """What its author wrote counts, not what the webhook made of it."""
    before = a_pod(main=OWN, spec=PINNED, annotations=AUTO)
    _, lines = shown(before, "none")
    known = knowing_size(before, "none", utilization=UTILIZATION)
    after = patched(before, admit(review(before), known, SETTINGS))
    assert ANNOTATION_APPLIED in after["metadata"]["annotations"]
    assert would_change(recommended(), state(after, "none")) == lines
    assert lines[:2] == ["- --gpu-memory-utilization 0.95", "- --kv-cache-memory-bytes=8G"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"dry_run": False}, False), ({"enabled": False}, False), ({"dry_run": False, "mode": "DryRun"}, True)],
)
def test_only_in_a_dry_run(changes: Raw, expected: bool) -> None:
    assert (would_change(recommended(), state(a_pod(spec=PINNED), "none", **changes)) is not None) == expected


def test_a_launch_that_says_nothing() -> None:
    assert launch_of({"metadata": {}, "spec": {}}, "main") == Launch(is_first=False)
    odd = a_pod(annotations={ANNOTATION_APPLIED: "{", "vllm-rightsizer.io/original-args": '["a"]'})
    assert launch_of(odd, "main").gpus == int(MAIN["resources"]["limits"]["nvidia.com/gpu"])
