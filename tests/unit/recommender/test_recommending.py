"""Rounds, one by one: what is written, what is said, and what happens to a history that is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import BLOCK_BYTES, KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import recommendation_name
from recommender.history import History
from recommender.history_files import HistoryError
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from vllm_plugin.names import ANNOTATION_EXCLUDE

POLICY = {"observationWindow": "96s", "minRequests": 1}
NAME = recommendation_name(KEY.workload, KEY.container)


class Stand:
    """A recommender with one pod, its store and its history."""

    def __init__(self, folder: Path, port: int, scraper: Scraper) -> None:
        self.store = FileObjectStore(folder / "objects")
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            self.store.apply(obj)
        self.history = History.open(folder / "history.db")
        self.scraper = scraper
        self.recommender = self.started()

    def started(self) -> Recommender:
        return Recommender(self.store, self.history, self.scraper, Telemetry())

    def recommendation(self) -> dict[str, Any]:
        found = self.store.get("VLLMRecommendation", KEY.namespace, NAME)
        assert found is not None
        return found

    def vandalise(self, statement: str) -> None:
        self.history._connection.execute(statement)


@pytest.fixture
def engine() -> SyntheticEngine:
    return SyntheticEngine()


@pytest.fixture
def port(engine: SyntheticEngine) -> Iterator[int]:
    with served(lambda: engine.page().encode()) as found:
        yield found


@pytest.fixture
async def stand(tmp_path: Path, port: int) -> AsyncIterator[Stand]:
    async with Scraper(deadline_seconds=60) as scraper:
        made = Stand(tmp_path, port, scraper)
        yield made
        made.history.close()


async def test_damaged_text_in_the_store_ends_no_round(stand: Stand) -> None:
    await stand.recommender.round()
    stand.recommender.stop()
    stand.vandalise("UPDATE series SET counters = substr(counters, 1, 20)")
    again = stand.started()
    await again.round()
    assert list(stand.history.path.parent.glob("*.unreadable-*"))
    await again.round()
    assert again.fault is None


async def test_a_new_history_gets_the_last_valid_policies(stand: Stand) -> None:
    """Also those whose objects are invalid by now."""
    await stand.recommender.round()
    known = stand.history.policies()
    assert known
    stand.recommender.stop()
    stand.store.apply(policy_object(observationWindow="two days"))
    stand.vandalise("UPDATE series SET facts = '{'")
    again = stand.started()
    await again.round()
    assert list(stand.history.path.parent.glob("*.unreadable-*"))
    await again.round()
    assert stand.history.policies() == known


async def test_a_new_history_is_tried_again_until_it_can_be_begun(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand.recommender.round()
    stand.recommender.stop()
    stand.vandalise("UPDATE series SET facts = '{'")
    again = stand.started()

    def no_space(_: Path) -> sqlite3.Connection:
        raise HistoryError("no space left")

    with monkeypatch.context() as full:
        full.setattr("recommender.history.connect_to_write", no_space)
        with pytest.raises(HistoryError, match="no space left"):
            await again.round()
        await again.round()
        assert again.fault is not None
    await again.round()
    assert again.fault is None
    assert stand.history.policies()


async def test_a_pause_is_not_overwritten(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person writes after the recommender has read, before it writes."""
    await stand.recommender.round()

    original = stand.history.remembered

    def meanwhile(*arguments: Any) -> Any:
        raw = stand.recommendation()
        raw["spec"]["paused"] = True
        stand.store.apply(raw)
        return original(*arguments)

    monkeypatch.setattr(stand.history, "remembered", meanwhile)
    # So that there is something to write.
    stand.store.apply(cluster_objects(policy="other")[1])
    await stand.recommender.round()
    found = stand.recommendation()
    assert found["spec"]["paused"] is True
    assert found["status"]["policy"]["value"] == "other"


async def test_the_own_pool_is_kept_for_each_fingerprint(stand: Stand, port: int, engine: SyntheticEngine) -> None:
    """A canary takes the status, and is undone when the window has forgotten the larger pool."""
    await stand.recommender.round()
    former = stand.recommendation()["status"]["fingerprint"]
    stand.store.apply(pod_object(port, name="canary", uid="p-2", arguments=("vllm", "serve", "mistral")))
    stand.store.delete("Pod", KEY.namespace, "llama-abc-1")
    await stand.recommender.round()
    assert stand.recommendation()["status"]["fingerprint"] != former
    assert stand.history.standing(KEY, former).own_bytes == 4096 * BLOCK_BYTES
    stand.recommender.stop()
    stand.vandalise("DELETE FROM observed")
    engine.blocks = 2048
    stand.store.delete("Pod", KEY.namespace, "canary")
    stand.store.apply(pod_object(port, applied=True))
    await stand.recommender.round()
    status = stand.recommendation()["status"]
    assert status["fingerprint"] == former
    assert [bound["kvBytes"] for bound in status["bounds"] if bound["name"] == "pool"] == [4096 * BLOCK_BYTES]


async def test_an_exclusion_holds_without_pods(stand: Stand) -> None:
    await stand.recommender.round()
    assert stand.recommendation()["status"]["automation"]["value"] == "true"
    stand.store.delete("Pod", KEY.namespace, "llama-abc-1")
    deployment = cluster_objects()[2]
    deployment["metadata"]["annotations"] = {ANNOTATION_EXCLUDE: "true"}
    stand.store.apply(deployment)
    await stand.recommender.round()
    assert stand.recommendation()["status"]["automation"]["value"] == "false"


async def test_a_pause_survives_a_status_of_another_release(stand: Stand) -> None:
    for _ in range(2):
        await stand.recommender.round()
    raw = stand.recommendation()
    raw["spec"]["paused"] = True
    raw["status"]["unheardOf"] = 1
    stand.store.apply(raw)
    await stand.recommender.round()
    found = stand.recommendation()
    assert found["spec"]["paused"] is True
    assert "unheardOf" not in found["status"]


async def test_trouble_with_a_workload_is_said_once(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = ["first"]

    def fail(*_: object) -> None:
        raise RuntimeError(trouble[0])

    with monkeypatch.context() as broken:
        broken.setattr("recommender.evaluating.evaluate", fail)
        for _ in range(3):
            await stand.recommender.round()
        assert caplog.text.count("cannot be evaluated") == 1
        trouble[0] = "second"
        for _ in range(2):
            await stand.recommender.round()
        assert caplog.text.count("cannot be evaluated") == 2
    await stand.recommender.round()
    monkeypatch.setattr("recommender.evaluating.evaluate", fail)
    stand.store.apply(policy_object(**POLICY, percentile=95))
    await stand.recommender.round()
    assert caplog.text.count("cannot be evaluated") == 3


async def test_a_store_that_takes_no_writes(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    """What is measured is kept all the same; said once, and not ready."""
    # Of the own policy's intervals, of a second, several may end meanwhile.
    stand.store.apply(policy_object(**POLICY | {"observationWindow": "96h"}))
    lock = stand.store.folder / ".lock"
    lock.unlink()
    lock.mkdir()
    for _ in range(3):
        await stand.recommender.round()
    assert "objects cannot be written" in str(stand.recommender.fault)
    assert caplog.text.count("objects cannot be written") == 1
    assert stand.store.get("VLLMRecommendation", KEY.namespace, NAME) is None
    stand.recommender.stop()
    assert stand.history._connection.execute("SELECT count(*) FROM observed").fetchone()[0] == 1
    lock.rmdir()
    await stand.recommender.round()
    assert stand.recommender.fault is None
    assert stand.recommendation()["status"]["measured"]


async def test_objects_that_are_none_end_no_round(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    folder = stand.store.folder
    (folder / "vllmpolicy" / "_cluster" / "nameless.json").write_text('{"metadata": {}}')
    stand.store.apply({"kind": "VLLMRecommendation", "metadata": {"name": "odd", "namespace": "chat"}, "spec": {}})
    for _ in range(3):
        await stand.recommender.round()
    assert stand.recommendation()["status"]["measured"]
    assert caplog.text.count("a VLLMRecommendation is passed over") == 1
    stand.store.delete("VLLMRecommendation", "chat", "odd")
    await stand.recommender.round()
    stand.store.apply({"kind": "VLLMRecommendation", "metadata": {"name": "odd", "namespace": "chat"}, "spec": {}})
    await stand.recommender.round()
    assert caplog.text.count("a VLLMRecommendation is passed over") == 2


async def test_how_long_a_round_may_take(stand: Stand) -> None:
    """One pod: a look at its plugin, and one at its vLLM."""
    await stand.recommender.round()
    assert stand.recommender.longest_look == 2 * stand.scraper.longest(1) > 0


async def test_the_plugins_map_is_kept_only_where_it_is_wanted(stand: Stand) -> None:
    other = Recommender(stand.store, stand.history, stand.scraper, Telemetry(), plugin_maps=False)
    await other.round()
    assert stand.store.list("ConfigMap") == []
    await stand.recommender.round()
    [found] = stand.store.list("ConfigMap")
    assert found["metadata"]["namespace"] == KEY.namespace
