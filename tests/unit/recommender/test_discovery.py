"""Which pods count, whose they are, and where their pages are."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object

from recommender.api.object_store import FileObjectStore
from recommender.api.owner_groups import CustomOwnerGroup, OwnerKind
from recommender.api.plugin_wheel import plugin_map_name
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.workloads import WorkloadRef
from recommender.discovery import (
    NOT_ADMITTED,
    REFUSED,
    Discovery,
    Pod,
    census_of,
    discover,
    ensure_plugin,
    opted_in,
    seen_pod,
)
from recommender.exposition import parse_page
from recommender.samples import RefusedSampleError
from vllm_plugin import names
from webhook.knowledge import KnowledgeReader


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    """With an opted-in namespace."""
    made = FileObjectStore(tmp_path)
    made.apply(cluster_objects()[0])
    return made


def changed(obj: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    for part, fields in parts.items():
        obj[part] |= fields
    return obj


def found(store: FileObjectStore, *groups: CustomOwnerGroup) -> Discovery:
    return discover(census_of(store), groups)


def injected(raw: dict[str, Any]) -> Pod:
    """The only vLLM of a pod object."""
    seen = seen_pod(raw)
    assert seen is not None
    (pod,) = seen.engines
    return pod


def test_an_injected_pod() -> None:
    pod = injected(pod_object(9999))
    assert pod.key == KEY
    assert pod.address == ("127.0.0.1", 9999)
    assert pod.ready
    assert not pod.applied
    assert pod.failure is None
    assert pod.missing is None
    assert pod.created_at > 1e9


def test_sizing_flags_do_not_change_the_fingerprint() -> None:
    a, b, c = (
        injected(pod_object(1, arguments=["vllm", "serve", *arguments])).fingerprint
        for arguments in (["llama"], ["llama", "--kv-cache-memory-bytes=5"], ["mistral"])
    )
    assert a == b != c


@pytest.mark.parametrize(
    ("status", "address"),
    [
        ({"phase": "Pending"}, None),
        ({"podIP": None}, None),
        ({"podIP": "fd00::1"}, ("fd00::1", 9999)),
    ],
)
def test_where_the_page_is(status: dict[str, Any], address: tuple[str, int] | None) -> None:
    assert injected(changed(pod_object(9999), status=status)).address == address


def test_a_second_engine_in_the_pod() -> None:
    """Each container has its own port, and gets a recommendation of its own; only one of them was given its size."""
    raw = pod_object(9999, applied=True)
    first = raw["spec"]["containers"][1]
    env = [{"name": names.ENV_PORT, "value": "9998"}]
    raw["spec"]["initContainers"] = [{**first, "name": "draft", "restartPolicy": "Always", "env": env}]
    seen = seen_pod(raw)
    assert seen is not None
    assert {pod.key.container: pod.address for pod in seen.engines} == {
        KEY.container: ("127.0.0.1", 9999),
        "draft": ("127.0.0.1", 9998),
    }
    assert len({pod.identity for pod in seen.engines}) == 2
    assert {pod.key.container: pod.applied for pod in seen.engines} == {KEY.container: True, "draft": False}


def test_a_sidecar_holds_its_gpus_and_a_download_gave_them_back() -> None:
    raw = pod_object(9999)
    asks = {"image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    raw["spec"]["initContainers"] = [{**asks, "name": "fetch"}, {**asks, "name": "side", "restartPolicy": "Always"}]
    seen = seen_pod(raw)
    assert seen is not None
    assert dict(seen.gpus).keys() & {"fetch", "side"} == {"side"}


def test_what_cannot_be_understood_is_passed_over(store: FileObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    odd = pod_object(1, name="odd")
    odd["spec"]["containers"][1]["env"][0]["value"] = "70000"
    worse = pod_object(1, name="worse")
    worse["spec"] = "none"
    for pod in (odd, worse, pod_object(1, name="good")):
        store.apply(pod)
    assert [pod.name for pod in found(store).injected] == ["good"]
    assert "70000 is no port" in caplog.text
    assert "pod chat/worse is passed over" in caplog.text


@pytest.mark.parametrize("labelled", [True, False])
def test_vllm_without_the_plugin(store: FileObjectStore, labelled: bool) -> None:
    """The label alone is no plugin: whoever copied it from a running pod has none."""
    raw = pod_object(1)
    raw["spec"]["containers"][1]["env"] = []
    if not labelled:
        del raw["metadata"]["labels"][names.LABEL_INJECTED]
    store.apply(raw)
    (pod,) = found(store).bare
    assert pod.missing is not None
    assert (pod.address, pod.vllm_address, pod.missing.reason) == (None, ("127.0.0.1", 8000), NOT_ADMITTED)
    raw["metadata"]["annotations"] = {names.ANNOTATION_SKIPPED: "no plugin: the quota leaves no room"}
    store.apply(raw)
    (pod,) = found(store).bare
    assert pod.missing is not None
    assert (pod.missing.reason, pod.missing.message) == (REFUSED, "no plugin: the quota leaves no room")


def test_namespaces_that_did_not_opt_in(store: FileObjectStore) -> None:
    """Whatever somebody writes on a pod there: our label, or vLLM's name."""
    store.apply(pod_object(1))
    raw = pod_object(1, name="bare")
    del raw["metadata"]["labels"][names.LABEL_INJECTED]
    raw["spec"]["containers"][1]["env"] = []
    store.apply(raw)
    before = found(store)
    assert (len(before.injected), len(before.bare)) == (1, 1)
    store.delete("Namespace", None, KEY.namespace)
    after = found(store)
    assert (after.injected, after.bare) == ((), ())


def test_a_namespace_that_is_being_deleted(store: FileObjectStore) -> None:
    """It takes nothing new, and its pods are going."""
    store.apply(pod_object(1))
    raw = store.get("Namespace", None, KEY.namespace)
    assert raw is not None
    raw["metadata"]["deletionTimestamp"] = "2026-11-01T12:00:00Z"
    store.apply(raw)
    assert not census_of(store).opted_in
    assert found(store).injected == ()


def test_pods_beside_our_servers(store: FileObjectStore) -> None:
    """The webhook is never asked about them: they are not waited for, and the plugin is not brought there."""
    store.apply(pod_object(1))
    census = census_of(store, own=KEY.namespace)
    assert not census.opted_in
    assert (discover(census).injected, discover(census).bare) == ((), ())


def test_a_mirror_pod_is_none_of_ours() -> None:
    """The webhook cannot change it, so that it is not waited for either; its GPUs are taken all the same."""
    raw = pod_object(1)
    raw["spec"]["containers"][1]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}
    raw["spec"]["nodeName"] = "gpu-a"
    seen = seen_pod(raw)
    assert seen is not None
    assert (len(seen.engines), seen.node, seen.gpus) == (1, "gpu-a", (("vllm", 2),))
    raw["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "digest"
    seen = seen_pod(raw)
    assert seen is not None
    assert (seen.engines, seen.gpus) == ((), (("vllm", 2),))


def test_how_the_container_ended() -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "max seq len\n is too large"}}
    state = {"name": KEY.container, "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    raw = changed(pod_object(1), status={"containerStatuses": [{**state, "lastState": ended}]})
    assert injected(raw).failure == "exit code 1: max seq len is too large"


def test_since_when_the_container_runs() -> None:
    """After the image was pulled; of one that was restarted, when it did so first is not told any more."""
    raw, taken, began = pod_object(1), "2026-11-01T12:00:00Z", "2026-11-01T12:40:00Z"
    raw["metadata"]["creationTimestamp"] = created = "2026-11-01T11:00:00Z"

    def seen(restarts: int, state: dict[str, Any]) -> tuple[float | None, float]:
        named = {"name": KEY.container, "ready": False, "restartCount": restarts, "state": state}
        pod = injected(changed(raw, status={"startTime": taken, "containerStatuses": [named]}))
        return pod.started_at, pod.began

    first, node, made = (datetime.fromisoformat(one).timestamp() for one in (began, taken, created))
    assert injected(raw).started_at is None
    # It pulls its image, or its init containers work.
    assert seen(0, {"waiting": {"reason": "ContainerCreating"}}) == (None, made)
    assert seen(0, {"running": {"startedAt": began}}) == (first, first)
    assert seen(0, {"terminated": {"exitCode": 1, "startedAt": began}}) == (first, first)
    assert seen(0, {"terminated": {"exitCode": 137, "startedAt": None}}) == (None, made)
    assert seen(1, {"running": {"startedAt": "2026-11-01T13:00:00Z"}}) == (node, node)
    assert seen(1, {"waiting": {"reason": "CrashLoopBackOff"}}) == (node, node)


def test_a_sidecar_that_starts_has_begun_though_its_pod_is_pending() -> None:
    raw, began = pod_object(1), "2026-11-01T12:40:00Z"
    raw["spec"]["initContainers"] = [{**raw["spec"]["containers"].pop(), "restartPolicy": "Always"}]
    state = {"name": KEY.container, "ready": False, "started": False, "restartCount": 0}
    running = {**state, "state": {"running": {"startedAt": began}}}
    pod = injected(changed(raw, status={"phase": "Pending", "initContainerStatuses": [running]}))
    assert (pod.address, pod.ready, pod.started_at) == (None, False, datetime.fromisoformat(began).timestamp())


def test_the_plugin_comes_into_namespaces_that_opted_in(store: FileObjectStore) -> None:
    other = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {}}}
    assert opted_in(other) is None
    for obj in (*cluster_objects(), other):
        store.apply(obj)
    for written in (1, 0):
        assert ensure_plugin(store, census_of(store).opted_in) == written
    assert store.get("ConfigMap", KEY.namespace, plugin_map_name()) is not None
    assert store.get("ConfigMap", "other", plugin_map_name()) is None


def test_the_workloads_object(store: FileObjectStore) -> None:
    assert found(store).ownership.object_of(KEY.namespace, KEY.workload) is None
    for obj in cluster_objects():
        store.apply(obj)
    owner = found(store).ownership.object_of(KEY.namespace, KEY.workload)
    assert owner is not None
    assert (owner["apiVersion"], owner["metadata"]["uid"]) == ("apps/v1", "d-1")


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ({"deletionTimestamp": "2026-11-21T06:00:00Z"}, {}),
        ({}, {"phase": "Succeeded"}),
        ({}, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        ({}, {"phase": "Failed"}),
    ],
)
def test_pods_that_are_ending_or_over_do_not_count(metadata: dict[str, Any], status: dict[str, Any]) -> None:
    assert seen_pod(changed(pod_object(1), metadata=metadata, status=status)) is None


def test_a_start_that_failed_for_good_is_seen() -> None:
    """A pod that is not restarted: its phase is Failed, by its own container."""
    ended = {"terminated": {"exitCode": 1, "message": "no room for the KV cache"}}
    over = {"phase": "Failed", "containerStatuses": [{"name": KEY.container, "ready": False, "state": ended}]}
    assert injected(changed(pod_object(1), status=over)).failure == "exit code 1: no room for the KV cache"
    assert seen_pod(changed(pod_object(1), status={**over, "reason": "Evicted"})) is None


LWS = "leaderworkerset.sigs.k8s.io/name"
KSERVE = "serving.kserve.io/inferenceservice"
GROUPS = (
    CustomOwnerGroup(name="models", owner=OwnerKind(group="acme.io", kind="ModelServer")),
    CustomOwnerGroup(name="teams", by_labels=["team"]),
    CustomOwnerGroup(name="canaries", match_labels={"track": "canary"}),
)
OWNED: list[tuple[dict[str, str], str, str, str]] = [
    ({"pod-template-hash": "5d"}, "apps/v1", "ReplicaSet", "llama-5d"),
    ({"rollouts-pod-template-hash": "5d"}, "apps/v1", "ReplicaSet", "llama-5d"),
    ({}, "apps/v1", "ReplicaSet", "llama"),
    ({}, "apps/v1", "StatefulSet", "llama"),
    ({}, "apps/v1", "DaemonSet", "llama"),
    ({}, "batch/v1", "Job", "llama"),
    ({}, "batch/v1", "Job", "llama-29453760"),
    ({LWS: "big"}, "apps/v1", "StatefulSet", "big-0"),
    ({KSERVE: "chat", "pod-template-hash": "5d"}, "apps/v1", "ReplicaSet", "chat-predictor-5d"),
    ({}, "", "", ""),
    ({"team": "a"}, "apps/v1", "StatefulSet", "llama"),
    ({"track": "canary"}, "apps/v1", "StatefulSet", "llama"),
    ({"pod-template-hash": "5d"}, "apps/v1", "ReplicaSet", "served-5d"),
]


@pytest.mark.parametrize("groups", [(), GROUPS])
@pytest.mark.parametrize("excluded", ["", "Deployment/llama", "Job/llama-29453760", "StatefulSet/big-0"])
def test_webhook_and_recommender_see_the_same_workloads(
    store: FileObjectStore, groups: tuple[CustomOwnerGroup, ...], excluded: str
) -> None:
    """Over the same objects, each by its own code: whose every pod is, and who is excluded."""
    automation = ClusterAutomationSpec(custom_owner_groups=list(groups)).to_json()
    cluster = {"apiVersion": names.API_VERSION, "kind": "ClusterAutomation", "metadata": {"name": "default"}}
    store.apply({**cluster, "spec": automation})
    model = {"apiVersion": "acme.io/v1", "kind": "ModelServer", "name": "served", "uid": "m"}
    for kind, name, owners in [
        ("Deployment", "llama", []),
        ("Deployment", "served", [model]),
        ("Job", "llama-29453760", []),
        ("StatefulSet", "big-0", []),
    ]:
        annotations = {names.ANNOTATION_EXCLUDE: "true"} if f"{kind}/{name}" == excluded else {}
        metadata = {"name": name, "namespace": KEY.namespace, "uid": name, "annotations": annotations}
        version = "batch/v1" if kind == "Job" else "apps/v1"
        store.apply({"apiVersion": version, "kind": kind, "metadata": {**metadata, "ownerReferences": owners}})
    raws = []
    for number, (labels, version, kind, name) in enumerate(OWNED):
        raw = pod_object(1, name=f"pod-{number}", uid=f"u-{number}")
        raw["metadata"]["labels"] = {names.LABEL_INJECTED: "true", **labels}
        owner = {"apiVersion": version, "kind": kind, "name": name, "uid": "o", "controller": True}
        raw["metadata"]["ownerReferences"] = [owner] if kind else []
        store.apply(raw)
        raws.append(raw)
    knowledge = KnowledgeReader(store).read()
    pods = {pod.name: pod for pod in found(store, *groups).injected}
    assert len(pods) == len(raws)
    for raw in raws:
        pod = pods[raw["metadata"]["name"]]
        assert pod.key.workload == knowledge.workload(KEY.namespace, raw)
        assert pod.excluded == knowledge.excluded(KEY.namespace, raw)
    kinds = {pod.key.workload.kind for pod in pods.values()}
    assert kinds >= {"Deployment", "Rollout", "LeaderWorkerSet", "InferenceService", "CronJob", "Job", "Pod"}
    assert ("OwnerGroup" in kinds, "ModelServer" in kinds) == (bool(groups), bool(groups))
    assert any(pod.excluded for pod in pods.values()) == bool(excluded)


def test_who_speaks_for_a_pod_of_a_group(store: FileObjectStore) -> None:
    """Its owner, not the group, of which there is no object."""
    raw = pod_object(1)
    raw["metadata"]["labels"]["team"] = "a"
    store.apply(raw)
    (pod,) = found(store, GROUPS[1]).injected
    assert pod.key.workload == WorkloadRef("vllm-rightsizer.io", "OwnerGroup", "teams.a")
    assert pod.owner == KEY.workload


def test_a_page_tells_nothing_of_whose_it_is() -> None:
    """Labels of another namespace and workload on its samples are passed over; another pod's UID spoils the page."""
    engine = SyntheticEngine(requests=7)
    spoofed = engine.page().replace('{engine="0"', '{namespace="other",pod="victim",workload="victim",engine="0"')
    assert spoofed != engine.page()
    assert parse_page(spoofed, "p-1") == parse_page(engine.page(), "p-1")
    another = engine.page().replace('{version="0.1.0"}', '{version="0.1.0",pod_uid="p-2"}')
    with pytest.raises(RefusedSampleError, match="the page is that of another pod"):
        parse_page(another, "p-1")
    with pytest.raises(RefusedSampleError, match="stands twice"):
        parse_page(engine.page() + f'{names.REQUESTS}{{namespace="other",engine="0"}} 1000000\n', "p-1")
