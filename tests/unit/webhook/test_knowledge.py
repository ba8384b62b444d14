"""What the webhook knows follows the objects, and survives bad ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_EXCLUDE, API_VERSION
from webhook.knowledge import Knowledge, KnowledgeReader
from webhook.watching import KnowledgeWatch

LLAMA = WorkloadRef("apps", "Deployment", "llama")


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
    assert dict(knowledge.workload_annotations) == {("prod", LLAMA): {ANNOTATION_EXCLUDE: "true"}}
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


def _soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def test_the_watch_follows_the_store(store: FileObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = KnowledgeWatch(store, interval_seconds=0.01)
    assert watch.knowledge is None
    assert watch.age_seconds == float("inf")
    watch.start()
    try:
        assert _soon(lambda: watch.knowledge is not None)
        store.apply(_recommendation())
        assert _soon(lambda: bool(watch.knowledge and watch.knowledge.recommendations))
        assert watch.age_seconds < 5

        def broken() -> None:
            raise PermissionError("no")

        monkeypatch.setattr(store, "revision", broken)
        assert _soon(lambda: watch.age_seconds > 0.05)
        assert watch.knowledge is not None
        assert watch.knowledge.recommendations
        monkeypatch.undo()
        assert _soon(lambda: watch.age_seconds < 0.05)
    finally:
        watch.stop()
