"""What becomes of a review: a table of outcomes, and who says so."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from webhook_cases import (
    FLAGS,
    KV_BYTES,
    MAIN,
    NAMESPACE_ON,
    UTILIZATION,
    WORKLOAD,
    Raw,
    environment,
    knowing,
    outcome_of,
    patched,
    pod,
    reason_of,
    recommended,
    review,
    vector,
)

from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.owners import Owner
from recommender.api.policies import AutomatedNamespaceSpec, ClusterAutomationSpec
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_AUTO,
    ANNOTATION_CONTAINER,
    ANNOTATION_EXCLUDE,
    ANNOTATION_POLICY,
    ANNOTATION_SKIPPED,
)
from webhook.admission import admit
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        ({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}, "no-request"),
        ({"kind": "AdmissionReview", "request": None}, "no-request"),
        (review({"kind": "Deployment"}, kind={"group": "apps", "version": "v1", "kind": "Deployment"}), "not-a-pod"),
        (review({"kind": "Deployment", "spec": {}}), "not-a-pod"),
        (review(None), "not-a-pod"),
        (review(pod(MAIN), operation="UPDATE"), "not-create"),
        (review(pod(MAIN), subResource="eviction"), "not-create"),
        (review(pod(MAIN, annotations={"kubernetes.io/config.mirror": "x"})), "not-a-pod"),
        (review(pod(MAIN, annotations={ANNOTATION_EXCLUDE: "true"})), "excluded"),
        (review(pod({"name": "a", "image": "nginx"})), "not-vllm"),
        (review(pod(MAIN, annotations={ANNOTATION_CONTAINER: "other"})), "not-vllm"),
        (review({"kind": "Pod", "spec": {"containers": 7}}), "error"),
    ],
)
def test_left_alone(asked: Raw, outcome: str) -> None:
    answer = admit(asked, Knowledge(), SETTINGS)
    assert answer["kind"] == "AdmissionReview"
    assert answer["apiVersion"] == "admission.k8s.io/v1"
    assert answer["response"]["allowed"] is True
    assert "patch" not in answer["response"]
    assert outcome_of(answer) == outcome
    if outcome in ("no-request", "error") or ANNOTATION_CONTAINER in str(asked):
        assert answer["response"]["warnings"]


def test_before_the_first_snapshot_nothing_is_changed() -> None:
    answer = admit(review(pod(MAIN)), None, SETTINGS)
    assert outcome_of(answer) == "not-ready"
    assert "patch" not in answer["response"]


def test_applied() -> None:
    before = pod(MAIN)
    answer = admit(review(before), knowing(before), SETTINGS)
    after = patched(before, answer)
    assert outcome_of(answer) == "applied"
    assert answer["response"]["uid"] == "7f3c"
    assert vector(after["spec"]["containers"][0]) == ["--model=m", *FLAGS]
    assert json.loads(after["metadata"]["annotations"][ANNOTATION_APPLIED]) == {"main": FLAGS}
    assert "warnings" not in answer["response"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"paused": True}, "paused"),
        ({"degraded": "HitRateLost"}, "Degraded (HitRateLost)"),
        ({"has_target": False}, "no target"),
        ({"fingerprint": "0" * 16}, "differ from those"),
        ({"fingerprint": None}, "differ from those"),
    ],
)
def test_injected_but_not_sized(changes: dict[str, Any], why: str) -> None:
    before = pod(MAIN)
    answer = admit(review(before), knowing(before, **changes), SETTINGS)
    after = patched(before, answer)
    assert outcome_of(answer) == "injected"
    assert why in reason_of(answer)
    assert why in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert vector(after["spec"]["containers"][0]) == ["--model=m"]
    assert "PYTHONPATH" in environment(after["spec"]["containers"][0])


_OFF, _ON = ClusterAutomationSpec(vllm_optimize=False), ClusterAutomationSpec(vllm_optimize=True)


@pytest.mark.parametrize(
    ("levels", "outcome"),
    [
        ({}, "injected"),
        ({"cluster": _ON}, "applied"),
        ({"cluster": _OFF, "namespaces": NAMESPACE_ON}, "applied"),
        ({"cluster": _ON, "namespaces": {"prod": AutomatedNamespaceSpec(vllm_optimize=False)}}, "injected"),
        ({"cluster": _ON, "namespaces": {"other": AutomatedNamespaceSpec(vllm_optimize=False)}}, "applied"),
        ({"cluster": _ON, "workload": {ANNOTATION_AUTO: "false"}}, "injected"),
        ({"workload": {"scaleops.sh/default-vllm-auto": "true"}}, "applied"),
        ({"workload": {ANNOTATION_AUTO: "false"}, "pod": {ANNOTATION_AUTO: "true"}}, "applied"),
        ({"cluster": _ON, "workload": {ANNOTATION_EXCLUDE: "true"}}, "excluded"),
        ({"cluster": ClusterAutomationSpec(vllm_optimize=True, mode="DryRun")}, "dry-run"),
        ({"cluster": _ON, "dry": {"careful"}, "workload": {ANNOTATION_POLICY: "careful"}}, "dry-run"),
        ({"cluster": _ON, "dry": {"careful"}}, "applied"),
        ({"cluster": _ON, "dry": {"default"}}, "dry-run"),
    ],
)
def test_who_turns_it_on_or_off(levels: dict[str, Any], outcome: str) -> None:
    before = pod(MAIN, annotations=levels.get("pod", {}))
    knowledge = dataclasses.replace(
        knowing(before),
        cluster=levels.get("cluster"),
        namespaces=levels.get("namespaces", {}),
        dry_run_policies=frozenset(levels.get("dry", ())),
        owners={("prod", WORKLOAD): Owner(levels["workload"], ())} if "workload" in levels else {},
    )
    assert outcome_of(admit(review(before), knowledge, SETTINGS)) == outcome


def test_dry_run_shows_the_flags() -> None:
    args = ["--model=m", "--gpu-memory-utilization", "0.9"]
    before = pod({**MAIN, "args": args})
    knowledge = dataclasses.replace(knowing(before), cluster=ClusterAutomationSpec(vllm_optimize=True, mode="DryRun"))
    answer = admit(review(before), knowledge, SETTINGS)
    container = patched(before, answer)["spec"]["containers"][0]
    assert vector(container) == args
    assert "VLLM_RIGHTSIZER_KV_BYTES" not in environment(container)
    assert answer["response"]["warnings"] == [
        f"vllm-rightsizer: DryRun: main would change: - --gpu-memory-utilization 0.9 + {FLAGS[0]} + {FLAGS[1]}"
    ]


_BOTH = {"VLLM_RIGHTSIZER_KV_BYTES": str(KV_BYTES), "VLLM_RIGHTSIZER_ALLOCATION_BYTES": "60000000000"}


@pytest.mark.parametrize(
    ("changes", "pinned", "flags", "overrides"),
    [
        ({}, True, FLAGS, {}),
        ({"vllm_version": "0.10.1.1"}, True, FLAGS[:1], {}),
        ({"vllm_version": "0.10.2"}, True, FLAGS, {}),
        ({"vllm_version": None}, True, FLAGS[:1], {}),
        ({"kv_bytes": 0}, True, FLAGS[:1], {}),
        ({}, False, [], _BOTH),
        ({"one_gpu_size": False}, True, [], _BOTH),
        ({"vllm_version": "0.9.2"}, False, [], {"VLLM_RIGHTSIZER_ALLOCATION_BYTES": "60000000000"}),
    ],
)
def test_flags_by_version_and_gpu(
    changes: dict[str, Any], pinned: bool, flags: list[str], overrides: dict[str, str]
) -> None:
    before = pod(MAIN, pinned=pinned)
    container = patched(before, admit(review(before), knowing(before, **changes), SETTINGS))["spec"]["containers"][0]
    assert vector(container) == ["--model=m", *flags]
    names = ("VLLM_RIGHTSIZER_KV_BYTES", "VLLM_RIGHTSIZER_ALLOCATION_BYTES", "VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION")
    assert {name: value for name, value in environment(container).items() if name in names} == overrides


@pytest.mark.parametrize("option", ["--kv-cache-memory-bytes=5G", "--num-gpu-blocks-override=100"])
def test_what_the_user_fixed_is_respected_unless_the_workload_says_otherwise(option: str) -> None:
    container = {**MAIN, "args": ["--model=m", option]}
    before = pod(container)
    answer = admit(review(before), knowing(before), SETTINGS)
    assert vector(patched(before, answer)["spec"]["containers"][0]) == ["--model=m", option]
    assert option.partition("=")[0] in answer["response"]["warnings"][0]
    forced = pod(container, annotations={ANNOTATION_AUTO: "true"})
    after = patched(forced, admit(review(forced), knowing(forced), SETTINGS))["spec"]["containers"][0]
    if option.startswith("--kv"):
        assert vector(after) == ["--model=m", option, *FLAGS]
    else:
        # A number of blocks beats both flags, so the plugin has to set it aside in process.
        assert vector(after) == ["--model=m", option]
        assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)


def test_the_users_own_override_is_respected() -> None:
    before = pod({**MAIN, "env": [{"name": "VLLM_RIGHTSIZER_KV_BYTES", "value": "7"}]})
    answer = admit(review(before), knowing(before), SETTINGS)
    after = patched(before, answer)["spec"]["containers"][0]
    assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == "7"
    assert vector(after) == ["--model=m"]


def test_kvcached_is_left_alone() -> None:
    before = pod({**MAIN, "env": [{"name": "ENABLE_KVCACHED", "value": "true"}]})
    assert "kvcached" in reason_of(admit(review(before), knowing(before), SETTINGS))


def test_the_named_container_is_the_engine() -> None:
    before = pod(
        {"name": "main", "image": "corp/llm", "command": ["/serve"]}, annotations={ANNOTATION_CONTAINER: "main"}
    )
    after = patched(before, admit(review(before), knowing(before), SETTINGS))["spec"]["containers"][0]
    assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)
    assert environment(after)["VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION"] == UTILIZATION


def test_what_a_deployment_says_holds_in_a_group_of_the_users_own_too() -> None:
    before = pod(MAIN)
    before["metadata"]["labels"] = {**before["metadata"]["labels"], "team": "a"}
    group = CustomOwnerGroup(name="teams", by_labels=["team"])
    cluster = ClusterAutomationSpec(vllm_optimize=True, custom_owner_groups=[group])
    grouped = WorkloadRef("vllm-rightsizer.io", "OwnerGroup", "teams.a")
    known = Knowledge(recommendations={("prod", grouped, "main"): recommended(before)}, cluster=cluster)
    assert outcome_of(admit(review(before), known, SETTINGS)) == "applied"
    key = ("prod", WORKLOAD)
    for said, outcome in ((ANNOTATION_EXCLUDE, "excluded"), (ANNOTATION_POLICY, "dry-run")):
        knowledge = dataclasses.replace(
            known, owners={key: Owner({said: "true"}, ())}, dry_run_policies=frozenset({"true"})
        )
        assert outcome_of(admit(review(before), knowledge, SETTINGS)) == outcome


def test_vllms_own_init_container_is_no_engine_and_a_ray_worker_is() -> None:
    """A Ray worker has none of vLLM's arguments, and an engine's rank runs in it all the same."""
    worker = pod(
        {
            "name": "main",
            "image": "rayproject/ray-llm:2.52",
            "command": ["/bin/bash", "-c", "--"],
            "args": ["ulimit -n 65536; ray start --address=head:6379 --block"],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
    )
    worker["spec"]["initContainers"] = [{"name": "warm", "image": MAIN["image"], "args": ["--model=m"]}]
    after = patched(worker, admit(review(worker), knowing(worker), SETTINGS))
    assert after["spec"]["initContainers"] == worker["spec"]["initContainers"]
    assert environment(after["spec"]["containers"][0])["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)
