"""Rounds whose intervals come from elsewhere: what they wait for, what they keep, and what they give back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from scraped_series import Scraped
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import recommendation_name
from recommender.history import History
from recommender.history_files import UnreadableHistoryError
from recommender.promql.asking import Asking
from recommender.promql.client import PromqlTelemetry
from recommender.promql.memories import Memories
from recommender.promql.settings import PrometheusSettings
from recommender.promql.source import PrometheusSource
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.standings import Standing
from recommender.telemetry import Telemetry

W = 9600.0


class Stand:
    """A recommender that sees one pod, and whose intervals come from series."""

    def __init__(self, folder: Path, scraper: Scraper, port: int) -> None:
        self.store = FileObjectStore(folder / "objects")
        self.scraped = Scraped()
        self.history = History.open(folder / "history.db")
        asking = Asking(self.scraped, PrometheusSettings("http://p:9090"))  # type: ignore[arg-type]  # asks as it does
        self.source = PrometheusSource(asking, PromqlTelemetry(CollectorRegistry()), Memories(), self.history)
        for obj in (*cluster_objects(), policy_object(observationWindow=f"{W:g}s"), pod_object(port)):
            self.store.apply(obj)
        self.recommender = Recommender(self.store, self.history, scraper, Telemetry(), source=self.source)

    @property
    def written(self) -> bool:
        name = recommendation_name(KEY.workload, KEY.container)
        return self.store.get("VLLMRecommendation", KEY.namespace, name) is not None


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    with served(lambda: SyntheticEngine().page().encode()) as port:
        async with Scraper() as scraper:
            made = Stand(tmp_path, scraper, port)
            with closing(made.history):
                yield made


async def test_nothing_is_evaluated_before_all_was_asked_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recommendation that stands is not withdrawn because a cache was lost."""
    await stand.recommender.round()
    assert not stand.written
    monkeypatch.setattr(stand.source, "slot", lambda _: 5)
    await stand.recommender.round()
    assert stand.written


async def test_what_is_missing_is_said_by_the_recommender(stand: Stand) -> None:
    await stand.recommender.round()
    assert stand.recommender.fault is None
    stand.source.fault = "no answer from http://p:9090"
    assert stand.recommender.fault == "no answer from http://p:9090"


async def test_what_is_scraped_by_rounds_is_no_interval(stand: Stand) -> None:
    for _ in range(2):
        await stand.recommender.round()
    stand.recommender.stop()
    [pod] = stand.source._living
    assert stand.history.last_interval_end(pod.key, pod.fingerprint) is None


async def test_what_was_remembered_comes_into_an_empty_cache_and_into_no_other(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand.recommender.round()
    [pod] = stand.source._living
    now = 1_700_000_000.0
    monkeypatch.setattr(stand.source, "_clock", lambda: now)
    labels = {
        "job": "vllm-rightsizer-recommender",
        "target_namespace": KEY.namespace,
        "owner_group": KEY.workload.group,
        "owner_kind": KEY.workload.kind,
        "owner_name": KEY.workload.name,
        "target_container": KEY.container,
        "fingerprint": pod.fingerprint,
    }
    stand.scraped.add(now - 9, {"__name__": "vllm_rightsizer_recommender_own_pool_bytes", **labels}, 4096.0)
    said = {"__name__": "vllm_rightsizer_recommender_policy_info", "job": labels["job"]}
    stand.scraped.add(now - 9, {**said, "policy_name": "gone", "spec": '{"percentile": 90}'}, 1.0)
    await stand.source._recall()
    await stand.recommender.round()
    assert stand.history.standing(KEY, pod.fingerprint) == Standing(own_bytes=4096)
    assert stand.history.policies()["gone"] == '{"percentile": 90}'

    stand.scraped.add(now - 5, {"__name__": "vllm_rightsizer_recommender_own_pool_bytes", **labels}, 1.0)
    stand.source.begin_anew()
    await stand.source._recall()
    await stand.recommender.round()
    assert stand.history.standing(KEY, pod.fingerprint) == Standing(own_bytes=4096)


async def test_a_cache_that_is_set_aside_is_filled_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    await stand.recommender.round()
    await stand.source._recall()
    [line] = await stand.source._lines_in_use()
    line.progress.filled = True
    await stand.recommender.round()
    assert stand.source.slot(W) is not None

    def damaged(*_: object) -> None:
        raise UnreadableHistoryError("damaged")

    with monkeypatch.context() as once:
        once.setattr(stand.history, "policies", damaged)
        once.setattr(stand.history, "remember", damaged)
        once.setattr(stand.history, "series", damaged)
        stand.store.apply(policy_object(observationWindow=f"{W:g}s", percentile=95))
        await stand.recommender.round()
    assert stand.source.slot(W) is None
