"""Pure functions of a pod: whose it is, what it was made for, which of its options are ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from recommender.api.diffs import size_diff
from recommender.api.fingerprints import container_of, fingerprint, product_of
from recommender.api.owner_groups import CustomOwnerGroup, OwnerKind
from recommender.api.sizing_flags import parse_version, sizing_flag, without_sizing_flags
from recommender.api.workloads import WorkloadRef, recommendation_name, workload_of
from vllm_plugin import names

GROUPED = ("vllm-rightsizer.io", "OwnerGroup")


def owned(kind: str, name: str, group: str = "apps/v1", **labels: str) -> dict[str, Any]:
    owner = {"apiVersion": group, "kind": kind, "name": name, "controller": True}
    return {"metadata": {"name": "p-0", "labels": labels, "ownerReferences": [owner]}}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (owned("ReplicaSet", "llama-5f6", **{"pod-template-hash": "5f6"}), ("apps", "Deployment", "llama")),
        (
            owned("ReplicaSet", "llama-5f6", **{"rollouts-pod-template-hash": "5f6"}),
            ("argoproj.io", "Rollout", "llama"),
        ),
        (owned("ReplicaSet", "llama"), ("apps", "ReplicaSet", "llama")),
        (owned("StatefulSet", "llama"), ("apps", "StatefulSet", "llama")),
        (owned("Job", "batch", "batch/v1"), ("batch", "Job", "batch")),
        (
            owned("StatefulSet", "g-0", **{"leaderworkerset.sigs.k8s.io/name": "g"}),
            ("leaderworkerset.x-k8s.io", "LeaderWorkerSet", "g"),
        ),
        (
            owned("ReplicaSet", "i-predictor-1", **{"serving.kserve.io/inferenceservice": "i"}),
            ("serving.kserve.io", "InferenceService", "i"),
        ),
        (owned("Job", "nightly-29453760", "batch/v1"), ("batch", "CronJob", "nightly")),
        # A date, and a number of another length, are no time of CronJob's.
        (owned("Job", "nightly-20260101", "batch/v1"), ("batch", "Job", "nightly-20260101")),
        (owned("Job", "nightly-123", "batch/v1"), ("batch", "Job", "nightly-123")),
        ({"metadata": {"name": "bare"}}, ("", "Pod", "bare")),
        ({"metadata": {"generateName": "bare-"}}, ("", "Pod", "bare")),
    ],
)
def test_workloads(pod: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert workload_of(pod) == WorkloadRef(*expected)


MODELS = CustomOwnerGroup(name="models", owner=OwnerKind(group="acme.io", kind="ModelServer"))
BY_TEAM = CustomOwnerGroup(name="teams", by_labels=["team", "model"])
CHAT = CustomOwnerGroup(name="chat", match_labels={"app": "chat"}, by_labels=None)


@pytest.mark.parametrize(
    ("pod", "groups", "expected"),
    [
        (owned("ReplicaSet", "l-5", **{"pod-template-hash": "5"}), [MODELS], ("acme.io", "ModelServer", "llama")),
        (owned("ReplicaSet", "l-5"), [MODELS], ("apps", "ReplicaSet", "l-5")),
        (owned("ModelServer", "own", "acme.io/v2"), [MODELS], ("acme.io", "ModelServer", "own")),
        (owned("StatefulSet", "s", team="a", model="m"), [BY_TEAM], ("vllm-rightsizer.io", "OwnerGroup", "teams.a.m")),
        (owned("StatefulSet", "s", team="a"), [BY_TEAM], ("apps", "StatefulSet", "s")),
        (owned("StatefulSet", "s", app="chat"), [MODELS, CHAT], ("vllm-rightsizer.io", "OwnerGroup", "chat")),
        (owned("StatefulSet", "s", app="chat", team="a", model="m"), [CHAT, BY_TEAM], (*GROUPED, "chat")),
        (owned("StatefulSet", "s", app="chat", team="a", model="m"), [BY_TEAM, CHAT], (*GROUPED, "teams.a.m")),
        (owned("StatefulSet", "circle"), [MODELS], ("apps", "StatefulSet", "circle")),
    ],
)
def test_the_users_own_groups(
    pod: dict[str, Any], groups: list[CustomOwnerGroup], expected: tuple[str, str, str]
) -> None:
    owners = {
        WorkloadRef("apps", "Deployment", "l"): [WorkloadRef("acme.io", "ModelServer", "llama")],
        WorkloadRef("apps", "StatefulSet", "circle"): [WorkloadRef("apps", "StatefulSet", "circle")],
    }
    assert workload_of(pod, groups, lambda ref: owners.get(ref, [])) == WorkloadRef(*expected)


def test_an_owner_that_is_no_controller_counts() -> None:
    pod = owned("StatefulSet", "s")
    pod["metadata"]["ownerReferences"].append({"apiVersion": "acme.io/v1", "kind": "ModelServer", "name": "m"})
    assert workload_of(pod, [MODELS]) == WorkloadRef("acme.io", "ModelServer", "m")
    assert workload_of(pod) == WorkloadRef("apps", "StatefulSet", "s")


def test_recommendation_names() -> None:
    long = WorkloadRef("apps", "Deployment", "a" * 80)
    names_of = [
        recommendation_name(WorkloadRef("apps", "Deployment", "llama"), "vllm"),
        recommendation_name(WorkloadRef("apps", "StatefulSet", "llama"), "vllm"),
        recommendation_name(WorkloadRef("apps", "Deployment", "llama"), "vllm-2"),
        recommendation_name(long, "vllm"),
        recommendation_name(long, "vllm-2"),
    ]
    assert names_of[0].startswith("deployment-llama-vllm-")
    assert len(set(names_of)) == 5
    assert all(len(name) <= 63 and not name.startswith("-") for name in names_of)


POD: dict[str, Any] = {
    "metadata": {"labels": {}},
    "spec": {
        "nodeSelector": {"nvidia.com/gpu.product": "H100", "zone": "a"},
        "containers": [
            {
                "name": "vllm",
                "image": "vllm/vllm-openai:v0.32.0",
                "args": ["--model", "llama"],
                "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}, {"name": "HOME", "value": "/root"}],
                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
            }
        ],
        "initContainers": [{"name": "sidecar", "image": "s"}],
    },
}


def edited(**container: Any) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    pod["spec"]["containers"][0] |= container
    return pod


@pytest.mark.parametrize(
    "pod",
    [
        edited(args=["--model", "llama", "--gpu-memory-utilization=0.5", "--kv-cache-memory-bytes", "123"]),
        edited(args=["--model", "llama", "--gpu_memory_utilization", "0.5"]),
        edited(
            env=[
                *POD["spec"]["containers"][0]["env"],
                {"name": names.ENV_PORT, "value": "9415"},
                {"name": names.ENV_KV_BYTES, "value": "1"},
            ]
        ),
        edited(resources={"requests": {"nvidia.com/gpu": "1", "memory": "1Gi"}}),
        edited(volumeMounts=[{"name": "x"}]),
        edited(args=["--model", "llama", "--", "--gpu-memory-utilization=0.5"]),
        edited(env=[*POD["spec"]["containers"][0]["env"], {"name": "HF_TOKEN", "value": "x"}]),
    ],
)
def test_what_we_do_to_a_pod_keeps_its_fingerprint(pod: dict[str, Any]) -> None:
    assert fingerprint(pod, "vllm") == fingerprint(POD, "vllm")


@pytest.mark.parametrize(
    "pod",
    [
        edited(image="vllm/vllm-openai:v0.33.0"),
        edited(args=["--model", "mistral"]),
        edited(args=["--model", "llama", "--max-model-len=4096"]),
        edited(env=[{"name": "VLLM_USE_V1", "value": "0"}]),
        edited(resources={"limits": {"nvidia.com/gpu": 2}}),
        edited(resources={"limits": {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 9000}}),
        edited(env=[*POD["spec"]["containers"][0]["env"], {"name": "NIM_MODEL_NAME", "value": "x"}]),
        edited(env=[*POD["spec"]["containers"][0]["env"], {"name": "MODEL_ID", "value": "x"}]),
        {**POD, "metadata": {"annotations": {"gpu-memory": "9000"}}},
        {**POD, "metadata": {"labels": {"leaderworkerset.sigs.k8s.io/template-revision-hash": "2"}}},
        {**POD, "metadata": {"annotations": {"leaderworkerset.sigs.k8s.io/size": "2"}}},
        {**POD, "spec": {**POD["spec"], "nodeSelector": {"nvidia.com/gpu.product": "A100"}}},
    ],
)
def test_what_makes_another_fingerprint(pod: dict[str, Any]) -> None:
    assert fingerprint(pod, "vllm") != fingerprint(POD, "vllm")


def test_another_slice_by_mig_makes_another_fingerprint() -> None:
    """A fraction of one slice is too much, or too little, of another one of the same product."""
    slices = ("nvidia.com/mig-3g.40gb", "nvidia.com/mig-1g.10gb")
    pods = [edited(resources={"limits": {name: 1}}) for name in slices]
    assert len({fingerprint(pod, "vllm") for pod in [POD, edited(resources={}), *pods]}) == 4


@pytest.mark.parametrize("reference", ["$(WHAT)", "$WHAT", "${WHAT:-llama}"])
def test_a_variable_that_the_arguments_refer_to_counts(reference: str) -> None:
    """A rollout may change the model there alone."""

    def printed(**entry: Any) -> str:
        return fingerprint(edited(args=["--model", reference], env=[{"name": "WHAT", **entry}]), "vllm")

    source = {"configMapKeyRef": {"name": "c", "key": "k"}}
    assert len({printed(value="a"), printed(value="b"), printed(valueFrom=source), printed()}) == 4
    assert printed() == printed(value="")


def test_plugins_without_ours() -> None:
    def printed(*env: dict[str, Any]) -> str:
        return fingerprint(edited(env=list(env)), "vllm")

    name = "VLLM_PLUGINS"
    assert printed({"name": name}) == printed({"name": name, "value": "vllm_rightsizer"})
    assert printed({"name": name, "value": "a"}) == printed({"name": name, "value": "a,vllm_rightsizer"})
    assert printed({"name": name, "value": "a"}) != printed({"name": name, "value": "b"})


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--model=m"], ["+ --a=1", "+ B=2", "+ c: 3"]),
        (["--model=m", "--gpu-mem=0.9"], ["- --gpu-mem=0.9", "+ --a=1", "+ B=2", "+ c: 3"]),
        (
            ["--gpu_memory_utilization", "0.9", "--kv-cache-memory-bytes", "1G", "m"],
            ["- --gpu_memory_utilization 0.9", "- --kv-cache-memory-bytes 1G", "+ --a=1", "+ B=2", "+ c: 3"],
        ),
        (["m", "--gpu-memory-utilization"], ["- --gpu-memory-utilization", "+ --a=1", "+ B=2", "+ c: 3"]),
    ],
)
def test_what_a_size_changes(arguments: list[str], lines: list[str]) -> None:
    assert size_diff(arguments, ["--a=1"], [("B", "2")], ["c: 3"]) == lines


def test_containers_by_name() -> None:
    assert container_of(POD, "sidecar") == {"name": "sidecar", "image": "s"}
    assert container_of(POD, "none") is None
    with pytest.raises(KeyError, match="none"):
        fingerprint(POD, "none")


def test_products_that_pin() -> None:
    assert product_of(POD) == {"nvidia.com/gpu.product": "H100"}

    def required(*terms: list[dict[str, Any]]) -> dict[str, Any]:
        rule = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": rule}}
        return {"spec": {"affinity": affinity}}

    one = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["H100"]}
    assert product_of(required([one])) == {"nvidia.com/gpu.product": "H100"}
    assert product_of(required([{**one, "values": ["H100", "A100"]}])) == {}
    assert product_of(required([one], [{**one, "values": ["A100"]}])) == {}
    assert product_of({}) == {}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("--gpu-memory-utilization", "--gpu-memory-utilization"),
        ("--gpu_memory_utilization=0.5", "--gpu-memory-utilization"),
        ("--gpu-mem=0.9", "--gpu-memory-utilization"),
        ("--gpu", "--gpu-memory-utilization"),
        ("--kv-cache-memory-bytes=5", "--kv-cache-memory-bytes"),
        ("--kv-cache-mem", "--kv-cache-memory-bytes"),
        ("--kv-cache-dtype=fp8", None),
        ("--kv-cache", None),
        ("--gp", "--gpu-memory-utilization"),
        ("--g", None),
        ("--kv-cache-me", "--kv-cache-memory-bytes"),
        ("--kv-cache-metrics", None),
        ("gpu-memory-utilization", None),
        ("--", None),
    ],
)
def test_our_two_options(token: str, expected: str | None) -> None:
    assert sizing_flag(token) == expected


def test_without_our_options() -> None:
    arguments = ["serve", "m", "--gpu-mem", "0.9", "--port=1", "--kv-cache-memory-bytes=5", "--gpu=1", "--seed", "0"]
    assert without_sizing_flags(arguments) == ["serve", "m", "--port=1", "--seed", "0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.10.2", (0, 10, 2)),
        ("v0.11.0rc1", (0, 11, 0)),
        ("0.32.0+cpu", (0, 32, 0)),
        ("0.8.5.post1", (0, 8, 5)),
        ("1", (1,)),
        ("nightly", None),
        ("", None),
    ],
)
def test_versions(text: str, expected: tuple[int, ...] | None) -> None:
    assert parse_version(text) == expected
