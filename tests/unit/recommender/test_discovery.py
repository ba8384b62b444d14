"""Which pods count, whose they are, and where their page is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, cluster_objects, pod_object

from recommender.api.object_store import FileObjectStore
from recommender.api.plugin_wheel import plugin_map_name
from recommender.discovery import ensure_plugin, injected_pods, owner_of
from vllm_plugin import names


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path)


def changed(obj: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    for part, fields in parts.items():
        obj[part] |= fields
    return obj


def test_an_injected_pod(store: FileObjectStore) -> None:
    store.apply(pod_object(9999))
    (pod,) = injected_pods(store)
    assert pod.key == KEY
    assert pod.address == ("127.0.0.1", 9999)
    assert pod.ready
    assert not pod.applied
    assert pod.failure is None
    assert pod.created_at > 1e9


def test_sizing_flags_do_not_change_the_fingerprint(store: FileObjectStore) -> None:
    store.apply(pod_object(1, name="a"))
    store.apply(pod_object(1, name="b", arguments=["vllm", "serve", "llama", "--kv-cache-memory-bytes=5"]))
    store.apply(pod_object(1, name="c", arguments=["vllm", "serve", "mistral"]))
    a, b, c = injected_pods(store)
    assert a.fingerprint == b.fingerprint != c.fingerprint


@pytest.mark.parametrize(
    ("status", "address"),
    [
        ({"phase": "Pending"}, None),
        ({"podIP": None}, None),
        ({"podIP": "fd00::1"}, ("fd00::1", 9999)),
    ],
)
def test_where_the_page_is(store: FileObjectStore, status: dict[str, Any], address: tuple[str, int] | None) -> None:
    store.apply(changed(pod_object(9999), status=status))
    assert injected_pods(store)[0].address == address


def test_pods_without_our_label_or_container_do_not_count(
    store: FileObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    plain = pod_object(1, name="plain")
    del plain["metadata"]["labels"][names.LABEL_INJECTED]
    bare = pod_object(1, name="bare")
    bare["spec"]["containers"][1]["env"] = []
    odd = pod_object(1, name="odd")
    odd["spec"]["containers"][1]["env"][0]["value"] = "70000"
    worse = pod_object(1, name="worse")
    worse["spec"] = "none"
    for pod in (plain, bare, odd, worse, pod_object(1, name="good")):
        store.apply(pod)
    assert [pod.name for pod in injected_pods(store)] == ["good"]
    assert "chat/bare is passed over" in caplog.text
    assert "70000 is no port" in caplog.text
    assert "chat/worse" in caplog.text


def test_how_the_container_ended(store: FileObjectStore) -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "max seq len\n is too large"}}
    state = {"name": KEY.container, "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    store.apply(changed(pod_object(1), status={"containerStatuses": [{**state, "lastState": ended}]}))
    assert injected_pods(store)[0].failure == "exit code 1: max seq len is too large"


def test_the_plugin_comes_into_namespaces_that_opted_in(store: FileObjectStore) -> None:
    for obj in cluster_objects():
        store.apply(obj)
    store.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {}}})
    assert ensure_plugin(store) == 1
    assert ensure_plugin(store) == 0
    assert store.get("ConfigMap", KEY.namespace, plugin_map_name()) is not None
    assert store.get("ConfigMap", "other", plugin_map_name()) is None


def test_the_owner(store: FileObjectStore) -> None:
    assert owner_of(store, KEY) is None
    for obj in cluster_objects():
        store.apply(obj)
    owner = owner_of(store, KEY)
    assert owner is not None
    assert owner["metadata"]["uid"] == "d-1"


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ({"deletionTimestamp": "2026-11-21T06:00:00Z"}, {}),
        ({}, {"phase": "Succeeded"}),
        ({}, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        ({}, {"phase": "Failed"}),
    ],
)
def test_pods_that_are_ending_or_over_do_not_count(
    store: FileObjectStore, metadata: dict[str, Any], status: dict[str, Any]
) -> None:
    store.apply(changed(pod_object(1), metadata=metadata, status=status))
    assert injected_pods(store) == []


def test_a_start_that_failed_for_good_is_seen(store: FileObjectStore) -> None:
    """A pod that is not restarted: its phase is Failed, by its own container."""
    ended = {"terminated": {"exitCode": 1, "message": "no room for the KV cache"}}
    over = {"phase": "Failed", "containerStatuses": [{"name": KEY.container, "ready": False, "state": ended}]}
    store.apply(changed(pod_object(1), status=over))
    assert injected_pods(store)[0].failure == "exit code 1: no room for the KV cache"
    store.apply(changed(pod_object(1), status={**over, "reason": "Evicted"}))
    assert injected_pods(store) == []
