"""What nobody should write, and what nobody owns any more: each is said, and no round ends by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.api.policies import CLUSTER_AUTOMATION_NAME
from recommender.api.workloads import WorkloadRef, recommendation_name
from recommender.history import History
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from vllm_plugin.names import API_VERSION

W = 96.0
ALONE = recommendation_name(WorkloadRef("", "Pod", "alone"), KEY.container)


class Stand:
    """A recommender with a pod of a Deployment and one that nobody owns, in a world whose clock is ours."""

    def __init__(self, folder: Path, port: int, scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = FileObjectStore(folder / "objects")
        alone = pod_object(port, "alone", "p-2")
        del alone["metadata"]["ownerReferences"]
        for obj in (*cluster_objects(), policy_object(observationWindow="96s"), pod_object(port), alone):
            self.store.apply(obj)
        self.now = 2e9
        monkeypatch.setattr("recommender.recommending.time.time", lambda: self.now)
        self.history = History.open(folder / "history.db")
        self.recommender = Recommender(self.store, self.history, scraper, Telemetry())

    async def round(self, later: float = 0.0) -> None:
        self.now += later
        await self.recommender.round()

    def names(self) -> set[str]:
        return {raw["metadata"]["name"] for raw in self.store.list("VLLMRecommendation")}

    def condition(self, kind: str, name: str) -> dict[str, Any]:
        raw = self.store.get(kind, None, name)
        assert raw is not None
        [condition] = raw["status"]["conditions"]
        return dict(condition)


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        async with Scraper(deadline_seconds=60) as scraper:
            made = Stand(tmp_path, port, scraper, monkeypatch)
            yield made
            made.history.close()


async def test_automation_that_cannot_be_followed_says_so_itself(stand: Stand) -> None:
    await stand.round()
    assert stand.condition("AutomatedNamespace", KEY.namespace)["reason"] == "Understood"
    for kind, name in (("AutomatedNamespace", KEY.namespace), ("ClusterAutomation", CLUSTER_AUTOMATION_NAME)):
        wrong = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": {"vllmOptimize": "often"}}
        stand.store.apply(wrong)
    await stand.round()
    theirs = stand.condition("AutomatedNamespace", KEY.namespace)
    assert (theirs["status"], theirs["reason"]) == ("False", "LastValidGoesOn")
    assert "spec.vllmOptimize" in theirs["message"]
    clusters = stand.condition("ClusterAutomation", CLUSTER_AUTOMATION_NAME)
    assert (clusters["status"], clusters["reason"]) == ("False", "Invalid")
    # What it said before goes on for its workloads.
    for raw in stand.store.list("VLLMRecommendation"):
        assert raw["status"]["automation"] == {"value": "true", "source": "AutomatedNamespace"}
    stand.store.apply({**wrong, "spec": {"vllmOptimize": False}})
    await stand.round()
    assert stand.condition("ClusterAutomation", CLUSTER_AUTOMATION_NAME)["status"] == "True"


async def test_what_nobody_owns_is_removed_once_its_window_is_over(stand: Stand) -> None:
    await stand.round()
    owned = recommendation_name(KEY.workload, KEY.container)
    assert stand.names() == {ALONE, owned}
    stand.store.delete("Pod", KEY.namespace, "alone")
    stand.store.delete("Pod", KEY.namespace, "llama-abc-1")
    await stand.round()
    await stand.round(later=W - 1)
    assert stand.names() == {ALONE, owned}
    await stand.round(later=4)
    # A workload that is scaled to nothing waits for its pods.
    assert stand.names() == {owned}
    await stand.round()
    assert stand.names() == {owned}


async def test_what_somebody_paused_stays(stand: Stand) -> None:
    await stand.round()
    raw = stand.store.get("VLLMRecommendation", KEY.namespace, ALONE)
    assert raw is not None
    raw["spec"]["paused"] = True
    stand.store.apply(raw)
    stand.store.delete("Pod", KEY.namespace, "alone")
    await stand.round()
    await stand.round(later=3 * W)
    assert ALONE in stand.names()
