"""Engines over several pods: what counts for whom, and what is recommended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluated import pod
from synthetic import BLOCK_BYTES, KEY, SyntheticEngine, cluster_objects, facts, pod_object, policy_object, served

from recommender.api.launches import Launch, launch_of
from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import WorkloadRef, recommendation_name
from recommender.engine_members import counting, is_member, with_members
from recommender.exposition import parse_page
from recommender.history import History
from recommender.recommending import Recommender
from recommender.samples import PodSample, Rank
from recommender.scraping import Scrape, Scraper
from recommender.telemetry import Telemetry
from vllm_plugin import names

GROUP = WorkloadRef("leaderworkerset.x-k8s.io", "LeaderWorkerSet", "big")


def rank(number: int, blocks: int = 4096, block_bytes: int = BLOCK_BYTES) -> Rank:
    first = facts(blocks=blocks, block_bytes=block_bytes).ranks[0]
    return replace(first, rank=str(number))


def leader(name: str = "big-0") -> Scrape:
    return Scrape(pod(name), 1.0, 0.1, parse_page(SyntheticEngine().page()))


def worker(name: str, *ranks: Rank) -> Scrape:
    of = replace(pod(name, fingerprint="w" * 16), launch=Launch(in_group=True, may_be_member=True))
    return Scrape(of, 1.0, 0.1, PodSample("0.1.0", (), members={"0": ranks}))


def test_ranks_of_other_pods_stand_with_their_engine() -> None:
    """By their blocks: those of another group have as many only by chance, and are the same then."""
    others = worker("big-1-1", rank(1, blocks=4095))
    found = with_members([leader(), others, worker("big-0-1", rank(1, block_bytes=2 * BLOCK_BYTES), rank(0))])
    assert [scrape.pod.name for scrape in found] == ["big-0"]
    assert found[0].sample is not None
    (engine,) = found[0].sample.engines
    assert [(one.rank, one.block_bytes) for one in engine.facts.ranks] == [("0", BLOCK_BYTES), ("1", 2 * BLOCK_BYTES)]


def test_pods_without_an_engine_of_their_own_do_not_count() -> None:
    scrapes = [leader(), worker("big-0-1", rank(1))]
    pods = [scrape.pod for scrape in scrapes]
    assert is_member(scrapes[1])
    assert counting(pods, scrapes, ()) == [pods[0]]
    # Before it answers nobody can tell; one that has a recommendation stays.
    assert counting(pods, scrapes[:1], ()) == [pods[0]]
    assert counting(pods, scrapes[:1], {(pods[1].key, pods[1].fingerprint)}) == pods
    assert counting(pods, [Scrape(pods[0], 1.0, 0.1, fault="no page")], ()) == [pods[0]]


def test_who_may_have_ranks_alone() -> None:
    raw = grouped(pod_object(1), "0")
    assert (launch_of(raw, "vllm").in_group, launch_of(raw, "vllm").may_be_member) == (True, False)
    assert launch_of(grouped(pod_object(1), "1"), "vllm").may_be_member
    assert not launch_of(pod_object(1), "vllm").may_be_member


def grouped(raw: dict[str, Any], index: str) -> dict[str, Any]:
    raw["metadata"]["labels"] |= {
        "leaderworkerset.sigs.k8s.io/name": GROUP.name,
        "leaderworkerset.sigs.k8s.io/worker-index": index,
    }
    raw["metadata"]["annotations"]["leaderworkerset.sigs.k8s.io/size"] = "2"
    return raw


def page_of_rank(engine: SyntheticEngine) -> str:
    """That of a pod with the second rank: as long as the first one, without what a scheduler tells."""
    kept = (names.MODEL_WEIGHTS_BYTES, names.KV_CACHE_CAPACITY_BYTES, names.KV_CACHE_BLOCK_BYTES)
    kept += (names.GPU_MEMORY_TOTAL_BYTES, names.GPU_MEMORY_ALLOCATED_BYTES, names.RUNTIME_OVERHEAD_BYTES)
    lines = (line for line in engine.page().splitlines() if line.startswith((*kept, names.BUILD_INFO)))
    return "\n".join(lines).replace('rank="0"', 'rank="1"') + "\n"


class Stand:
    """A recommender, and a group of two pods whose containers have names of their own."""

    def __init__(self, folder: Path, scraper: Scraper, leads: int, follows: int) -> None:
        self.store = FileObjectStore(folder / "objects")
        head = grouped(pod_object(leads, "big-0", "p-0"), "0")
        tail = grouped(pod_object(follows, "big-0-1", "p-1", arguments=("ray", "start")), "1")
        tail["spec"]["containers"][1]["name"] = "worker"
        owner = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": GROUP.kind}
        owner |= {"metadata": {"name": GROUP.name, "namespace": KEY.namespace, "uid": "g-1"}}
        for obj in (*cluster_objects(), owner, policy_object(observationWindow="96s", minRequests=1), head, tail):
            self.store.apply(obj)
        self.history = History.open(folder / "history.db")
        self.recommender = Recommender(self.store, self.history, scraper, Telemetry())

    def names(self) -> set[str]:
        return {raw["metadata"]["name"] for raw in self.store.list("VLLMRecommendation")}


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as leads, served(lambda: page_of_rank(engine).encode()) as follows:
        async with Scraper(deadline_seconds=60) as scraper:
            made = Stand(tmp_path, scraper, leads, follows)
            yield made
            made.history.close()


async def test_a_group_has_the_recommendation_of_its_leader_alone(stand: Stand) -> None:
    """One of the worker, which never gets a size, would keep the webhook from giving the leader its own."""
    await stand.recommender.round()
    leaders = recommendation_name(GROUP, KEY.container)
    assert stand.names() == {leaders}
    (raw,) = stand.store.list("VLLMRecommendation")
    assert raw["status"]["conditions"][0]["message"] == "1 of 1 pods report"
    # One that an earlier release made goes.
    workers = recommendation_name(GROUP, "worker")
    target = {**raw["spec"]["targetRef"], "container": "worker"}
    stand.store.apply({**raw, "metadata": {**raw["metadata"], "name": workers}, "spec": {"targetRef": target}})
    assert stand.names() == {leaders, workers}
    await stand.recommender.round()
    assert stand.names() == {leaders}
