"""How often a status is written: once for what has changed, and once an interval, however many rounds there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import recommendation_name
from recommender.history import History
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry

KIND = "VLLMRecommendation"
NAME = recommendation_name(KEY.workload, KEY.container)
INTERVAL = 1800.0
"""Of the default window, in seconds."""
SECOND = "llama-abc-2"
Raw = dict[str, Any]


class CountingStore(FileObjectStore):
    """Counts what is asked for recommendations and differs, and keeps no field of a status that is `unknown`."""

    def __init__(self, folder: Path, unknown: tuple[str, ...]) -> None:
        super().__init__(folder)
        self._unknown = unknown
        self.writes = 0

    def apply(self, obj: Raw) -> bool:
        return super().apply(self._counted(obj))

    def apply_status(self, obj: Raw) -> bool:
        return super().apply_status(self._counted(obj))

    def _counted(self, obj: Raw) -> Raw:
        if obj["kind"] != KIND:
            return obj
        self.writes += obj["status"] != (self.get(KIND, KEY.namespace, NAME) or {}).get("status")
        return {**obj, "status": {name: value for name, value in obj["status"].items() if name not in self._unknown}}


class Stand:
    """A recommender with one pod, in a world whose clock is ours."""

    def __init__(self, folder: Path, port: int, scraper: Scraper, unknown: tuple[str, ...]) -> None:
        self.store = CountingStore(folder / "objects", unknown)
        for obj in (*cluster_objects(), policy_object(), pod_object(port)):
            self.store.apply(obj)
        self.history = History.open(folder / "history.db")
        self.recommender = Recommender(self.store, self.history, scraper, Telemetry())
        self.now = 1_000_000 * INTERVAL
        self._port = port

    async def writes(self) -> int:
        """Those of some rounds within one interval."""
        before = self.store.writes
        for _ in range(3):
            self.now += 5.0
            await self.recommender.round()
        return self.store.writes - before

    def next_interval(self) -> None:
        self.now = (self.now // INTERVAL + 1) * INTERVAL

    def scale(self, replicas: int) -> None:
        """To one pod, or two."""
        if replicas == 2:
            self.store.apply(pod_object(self._port, SECOND, "p-2"))
        else:
            self.store.delete("Pod", KEY.namespace, SECOND)


@pytest.fixture(params=[(), ("replicas", "gpus")], ids=["definition", "old-definition"])
async def stand(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stand]:
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        async with Scraper(deadline_seconds=60) as scraper:
            made = Stand(tmp_path, port, scraper, request.param)
            monkeypatch.setattr("recommender.recommending.time.time", lambda: made.now)
            yield made
            made.history.close()


async def test_many_rounds_of_an_interval_write_what_has_changed_and_then_nothing(stand: Stand) -> None:
    # The second time, that there is a recommendation.
    assert 1 <= await stand.writes() <= 2
    assert await stand.writes() == 0


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_interval_is_written_once(stand: Stand, replicas: int) -> None:
    stand.scale(replicas)
    await stand.writes()
    for _ in range(3):
        stand.next_interval()
        assert await stand.writes() == 1


async def test_another_number_of_replicas_is_written_once(stand: Stand) -> None:
    await stand.writes()
    for replicas in (2, 1, 2):
        stand.scale(replicas)
        assert await stand.writes() == 1
        assert await stand.writes() == 0
