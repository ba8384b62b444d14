"""What the webhook knows follows the objects, and survives bad ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from webhook_cases import pod

from recommender.api.object_store import FileObjectStore
from recommender.api.owner_groups import CustomOwnerGroup, OwnerKind
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS, Owner
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_AUTO, ANNOTATION_EXCLUDE, API_VERSION
from webhook.admission import decide_pod
from webhook.knowledge import Knowledge, KnowledgeReader
from webhook.owners import owner_of
from webhook.reviews import Reason
from webhook.settings import InjectionSettings
from webhook.watching import FolderWatch

LLAMA = WorkloadRef("apps", "Deployment", "llama")
SETTINGS = InjectionSettings()


def _recommendation(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "VLLMRecommendation",
        "metadata": {"name": "deployment-llama-main-01234567", "namespace": "prod"},
        "spec": {"targetRef": {"group": "apps", "kind": "Deployment", "name": "llama", "container": "main"}},
        "status": {
            "fingerprint": "0123456789abcdef",
            "gpuMemoryTotalBytes": {"min": 100, "max": 100},
            "target": {
                "kvBytes": 40,
                "kvBlocks": 4,
                "allocationBytes": 60,
                "gpuMemoryUtilization": "0.6000",
                "flags": [],
                "predictedHitRate": None,
                "boundBy": "floor",
            },
            **status,
        },
    }


def _named(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, **rest}


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path / "objects")


def test_everything_is_read(store: FileObjectStore) -> None:
    degraded = {
        "type": "Degraded",
        "status": "True",
        "reason": "HitRateLost",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    store.apply(_recommendation(conditions=[degraded]))
    store.apply(_named("AutomatedNamespace", "prod", spec={"vllmOptimize": True}))
    store.apply(_named("ClusterAutomation", "default", spec={"defaultVllmPolicy": "careful"}))
    store.apply(_named("ClusterAutomation", "other", spec={"mode": "DryRun"}))
    store.apply(_named("VLLMPolicy", "careful", spec={"mode": "DryRun"}))
    store.apply(_named("VLLMPolicy", "default"))
    annotations = {ANNOTATION_EXCLUDE: "true", "other": "x"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment"}
    store.apply({**deployment, "metadata": {"name": "llama", "namespace": "prod", "annotations": annotations}})
    knowledge = KnowledgeReader(store).read()
    recommended = knowledge.recommended("prod", LLAMA, "main")
    assert recommended is not None
    assert (recommended.kv_bytes, recommended.utilization, recommended.allocation_bytes) == (40, "0.6000", 60)
    assert recommended.degraded == "HitRateLost"
    assert recommended.one_gpu_size
    assert knowledge.recommended("dev", LLAMA, "main") is None
    assert dict(knowledge.owners) == {("prod", LLAMA): Owner({ANNOTATION_EXCLUDE: "true"}, ())}
    automation = knowledge.automation("prod", LLAMA, {})
    assert automation.excluded
    assert automation.enabled
    assert knowledge.only_shown(automation)


def test_an_empty_store_is_knowledge_too(store: FileObjectStore) -> None:
    assert KnowledgeReader(store).read() == Knowledge()


def test_an_object_that_turns_bad_keeps_what_it_said(store: FileObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    reader = KnowledgeReader(store)
    store.apply(_recommendation())
    good = reader.read()
    store.apply(_recommendation(target={"kvBytes": "many"}))
    with caplog.at_level(logging.WARNING):
        assert reader.read() == good
        assert reader.read() == good
    assert len(caplog.records) == 1
    assert "deployment-llama-main-01234567" in caplog.text
    assert "what it said before holds on" in caplog.text
    store.delete("VLLMRecommendation", "prod", "deployment-llama-main-01234567")
    assert reader.read() == Knowledge()


@pytest.mark.parametrize("bad", [{"spec": None}, {"spec": {"vllmOptimize": "maybe"}}, {"spec": {"unknown": 1}}])
def test_a_bad_object_is_passed_over(
    store: FileObjectStore, bad: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.apply(_named("AutomatedNamespace", "prod", **bad))
    store.apply(_named("AutomatedNamespace", "good", spec={"vllmOptimize": True}))
    with caplog.at_level(logging.WARNING):
        assert set(KnowledgeReader(store).read().namespaces) == {"good"}
    assert "AutomatedNamespace None/prod" in caplog.text


async def _soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_folder_is_followed(store: FileObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = FolderWatch(store, interval_seconds=0.01)
    assert watch.knowledge is None
    assert watch.trouble == "the objects have not been read yet"
    assert watch.ages() == {"all": float("inf")}
    async with watch.running():
        await _soon(lambda: watch.knowledge is not None)
        store.apply(_recommendation())
        await _soon(lambda: bool(watch.knowledge and watch.knowledge.recommendations))
        assert watch.ages()["all"] < float("inf")

        def broken() -> None:
            raise PermissionError("no")

        monkeypatch.setattr(store, "revision", broken)
        await _soon(lambda: "cannot be read" in str(watch.trouble))
        await _soon(lambda: watch.ages()["all"] > 0.05)
        assert watch.knowledge is not None
        assert watch.knowledge.recommendations
        broken_until = time.monotonic()
        monkeypatch.undo()
        await _soon(lambda: watch.trouble is None)
        assert watch.ages()["all"] < time.monotonic() - broken_until


def _reference(api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "name": name, "controller": True}


RESOURCES = {resource.kind: resource for resource in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS)}
DEPLOYMENT = _reference("apps/v1", "Deployment", "llama")


@pytest.mark.parametrize(
    ("kind", "metadata", "kept"),
    [
        ("Deployment", {}, False),
        ("Deployment", {"annotations": {"other": "x"}}, False),
        ("Deployment", {"annotations": {ANNOTATION_EXCLUDE: "true"}}, True),
        ("Deployment", {"annotations": {"scaleops.sh/default-vllm-auto": "true"}}, True),
        ("Deployment", {"ownerReferences": [_reference("serving.kserve.io/v1beta1", "InferenceService", "x")]}, True),
        # Ten of them to each Deployment, and their names tell as much.
        ("ReplicaSet", {"labels": {"pod-template-hash": "5d"}, "ownerReferences": [DEPLOYMENT]}, False),
        ("ReplicaSet", {"labels": {"pod-template-hash": "6e"}, "ownerReferences": [DEPLOYMENT]}, True),
        ("ReplicaSet", {"ownerReferences": [DEPLOYMENT]}, True),
        ("Job", {"ownerReferences": [_reference("batch/v1", "CronJob", "nightly")]}, True),
    ],
)
def test_little_is_kept_of_owners(kind: str, metadata: dict[str, Any], kept: bool) -> None:
    raw = {"metadata": {"name": "llama-5d", "namespace": "prod", **metadata}}
    found = owner_of(raw, RESOURCES[kind])
    assert (found is not None) is kept
    if found is not None:
        assert found[0] == ("prod", WorkloadRef(RESOURCES[kind].group, kind, "llama-5d"))


SERVICE = WorkloadRef("serving.kserve.io", "InferenceService", "chat")


@pytest.mark.parametrize(
    ("above", "own", "expected"),
    [
        ({ANNOTATION_EXCLUDE: "true"}, {}, (True, False)),
        ({ANNOTATION_EXCLUDE: "true"}, {ANNOTATION_EXCLUDE: "false"}, (True, False)),
        ({ANNOTATION_AUTO: "true"}, {}, (False, True)),
        ({ANNOTATION_AUTO: "true"}, {ANNOTATION_AUTO: "false"}, (False, False)),
        ({}, {}, (False, False)),
    ],
)
def test_what_is_said_above_a_workload(above: dict[str, str], own: dict[str, str], expected: tuple[bool, bool]) -> None:
    owners = {("prod", LLAMA): Owner(own, (SERVICE,)), ("prod", SERVICE): Owner(above, (LLAMA,))}
    knowledge = Knowledge(owners=owners)
    automation = knowledge.automation("prod", LLAMA, {})
    assert (automation.excluded, automation.enabled) == expected
    assert not knowledge.automation("dev", LLAMA, {}).excluded


@pytest.mark.parametrize(
    ("labels", "owner", "excluded", "workload"),
    [
        ({}, ("batch", "Job", "eval-29000000"), ("batch", "Job", "eval-29000000"), "CronJob/eval"),
        (
            {"leaderworkerset.sigs.k8s.io/name": "big"},
            ("apps", "StatefulSet", "big"),
            ("apps", "StatefulSet", "big"),
            "LeaderWorkerSet/big",
        ),
        (
            {"serving.kserve.io/inferenceservice": "chat", "pod-template-hash": "5d"},
            ("apps", "ReplicaSet", "llama-5d"),
            ("apps", "Deployment", "llama"),
            "InferenceService/chat",
        ),
    ],
)
def test_an_exclusion_holds_below_the_workload_too(
    labels: dict[str, str], owner: tuple[str, str, str], excluded: tuple[str, str, str], workload: str
) -> None:
    group, kind, name = owner
    before = pod(labels=labels, ownerReferences=[_reference(f"{group}/v1", kind, name)])
    owners = {("prod", WorkloadRef(*excluded)): Owner({ANNOTATION_EXCLUDE: "true"}, ())}
    known = Knowledge(owners=owners)
    assert str(known.workload("prod", before)) == workload
    assert decide_pod(before, "prod", known, SETTINGS).reason is Reason.EXCLUDED
    assert decide_pod(before, "dev", known, SETTINGS).reason is Reason.INJECTED


def test_an_owner_group_of_the_users_own_looks_far_up() -> None:
    group = CustomOwnerGroup(name="models", owner=OwnerKind(group="models.example.org", kind="Model"))
    model = WorkloadRef("models.example.org", "Model", "chat")
    pod = {
        "metadata": {
            "labels": {"pod-template-hash": "5d"},
            "ownerReferences": [_reference("apps/v1", "ReplicaSet", "llama-5d")],
        }
    }
    owners = {("prod", LLAMA): Owner({}, (model,))}
    knowledge = Knowledge(cluster=ClusterAutomationSpec(custom_owner_groups=[group]), owners=owners)
    assert knowledge.workload("prod", pod) == model
    assert knowledge.workload("dev", pod) == LLAMA
    assert Knowledge(owners=owners).workload("prod", pod) == LLAMA
