"""Figures for autoscalers: what they count, and that a pool of another size changes nothing of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from evaluated import FINGERPRINT, pod
from synthetic import BLOCK_BYTES, KEY, SyntheticEngine, cluster_objects, facts, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.history import History
from recommender.kv_demands import KVDemand, demands_of
from recommender.recommending import Recommender
from recommender.samples import Counters, EngineSample, PodSample
from recommender.scraping import Scrape, Scraper
from recommender.telemetry import Telemetry

OLDER = "0" * 16
OWN = 4096 * BLOCK_BYTES


def scrape(*demand_blocks: int, blocks: int = 4096, fingerprint: str = FINGERPRINT) -> Scrape:
    """Of a pod with an engine for each demand."""
    counters = Counters(0, 0, 0, 0, 0)
    engines = tuple(
        EngineSample(str(index), facts(blocks), 0, 0, 0, demand * BLOCK_BYTES, counters)
        for index, demand in enumerate(demand_blocks)
    )
    return Scrape(pod(fingerprint=fingerprint), 0.0, 0.0, PodSample("0.1.0", engines))


def demand(*scrapes: Scrape, own: dict[str, int] | None = None) -> KVDemand:
    own_pools = {(KEY, name): size for name, size in ({FINGERPRINT: OWN} if own is None else own).items()}
    found = demands_of(scrapes, own_pools)
    assert found.keys() == {KEY}
    return found[KEY]


def test_engines_of_all_pods_count_alike() -> None:
    found = demand(scrape(1024, 2048), scrape(0))
    assert found == KVDemand(3072 * BLOCK_BYTES, pytest.approx(0.25), 0.0)


@pytest.mark.parametrize("blocks", [1025, 2048, 4096, 8192])
def test_the_pool_of_today_does_not_matter(blocks: int) -> None:
    assert demand(scrape(1024, blocks=blocks)) == KVDemand(1024 * BLOCK_BYTES, 0.25, 0.0)


def test_a_pool_is_saturated_where_more_is_needed_than_it_serves() -> None:
    """The null block serves nobody."""
    assert demand(scrape(1023, blocks=1024)).saturated_ratio == 0
    assert demand(scrape(1024, blocks=1024)).saturated_ratio == 1
    assert demand(scrape(1024, 1023, 0, 0, blocks=1024)).saturated_ratio == 0.25


def test_in_a_rollout_each_pod_is_held_against_its_own_arguments() -> None:
    pods = scrape(1024), scrape(1024, fingerprint=OLDER)
    assert demand(*pods, own={FINGERPRINT: OWN, OLDER: OWN // 2}).demand_ratio == pytest.approx(0.375)
    known = demand(*pods)
    assert (known.demand_ratio, known.demand_bytes) == (0.25, 2048 * BLOCK_BYTES)
    assert demand(*pods, own={}).demand_ratio is None


def test_a_pod_that_does_not_answer_counts_for_nothing() -> None:
    silent = Scrape(pod(), 0.0, 0.0, fault="no answer")
    assert demand(scrape(1024), silent).demand_ratio == 0.25
    assert demands_of([silent], {}) == {}


class Stand:
    """A recommender with one pod, which can be started anew."""

    def __init__(self, folder: Path, engine: SyntheticEngine, port: int, history: History, scraper: Scraper) -> None:
        self.store, self.engine, self.port = FileObjectStore(folder), engine, port
        self.answers = True
        self._history, self._scraper = history, scraper
        for obj in (*cluster_objects(), policy_object()):
            self.store.apply(obj)
        self.start()

    def start(self) -> None:
        self.telemetry = Telemetry()
        self.recommender = Recommender(self.store, self._history, self._scraper, self.telemetry)

    def replace_pod(self, name: str | None) -> None:
        for raw in self.store.list("Pod"):
            self.store.delete("Pod", KEY.namespace, raw["metadata"]["name"])
        if name is not None:
            self.store.apply(pod_object(self.port, name, uid=name, applied=True))

    async def figures(self) -> tuple[float | None, float | None, float | None]:
        """Demand in blocks, as a ratio, and saturation, after one more round."""
        await self.recommender.round()
        labels = {"namespace": "chat", "kind": "Deployment", "workload": "llama", "container": "vllm"}
        value = self.telemetry.registry.get_sample_value
        size, *ratios = (
            value(f"vllm_rightsizer_workload_kv_{name}", labels)
            for name in ("demand_bytes", "demand_ratio", "saturated_ratio")
        )
        return (None if size is None else size / BLOCK_BYTES, *ratios)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    engine = SyntheticEngine(demand_blocks=1024)
    made: list[Stand] = []

    def page() -> bytes:
        return engine.page().encode() if made[0].answers else b"no page of ours"

    with served(page) as port, History.open(tmp_path / "history.db") as history:
        async with Scraper(deadline_seconds=60) as scraper:
            made.append(Stand(tmp_path / "objects", engine, port, history, scraper))
            yield made[0]


async def test_a_threshold_means_the_same_before_and_after_a_shrink(stand: Stand) -> None:
    """Also after a restart of the recommender, which has never seen the larger pool."""
    stand.replace_pod("first")
    assert await stand.figures() == (1024, 0.25, 0)
    stand.engine.blocks = 1200
    stand.replace_pod("second")
    assert await stand.figures() == (1024, 0.25, 0)
    stand.start()
    assert await stand.figures() == (1024, 0.25, 0)
    stand.engine.demand_blocks = 1280
    assert await stand.figures() == (1280, 0.3125, 1)


async def test_what_is_gone_has_no_figures(stand: Stand) -> None:
    nothing = (None, None, None)
    assert await stand.figures() == nothing
    stand.replace_pod("first")
    assert await stand.figures() == (1024, 0.25, 0)
    stand.answers = False
    assert await stand.figures() == nothing
    stand.answers = True
    assert await stand.figures() == (1024, 0.25, 0)
    stand.replace_pod(None)
    assert await stand.figures() == nothing
    assert stand.store.list("VLLMRecommendation")
    assert not stand.recommender._evaluator.own_pools
