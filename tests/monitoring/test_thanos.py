"""The recommender over a distributed engine: Thanos, with pods in two shards, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stage import Stage, metric, scraped

from bench.lab.plugin_pods import PluginPod
from bench.lab.thanos import Shard, Thanos, running

pytestmark = pytest.mark.e2e

INTERVAL = 5.0
HASTY = {"observationWindow": f"{96 * INTERVAL:.0f}s", "windowCoverage": 5, "minRequests": 100}
DEEP, SHALLOW = (3000, 300)
"""Blocks that prompts of the one pod of the second shard go back to, and those of all others."""


class Traffic:
    """The same requests in each interval, all at once and not near its ends: all who look see them in the same one."""

    def __init__(self, pods: Sequence[PluginPod]) -> None:
        self._pods = pods
        self.requests = 0

    def goes_on(self, intervals: int, look: Callable[[], None] = lambda: None) -> None:
        """For so many intervals; `look` is called several times in each."""
        for _ in range(intervals):
            begun = (time.time() // INTERVAL + 1) * INTERVAL + 0.2 * INTERVAL
            while time.time() < begun:
                time.sleep(0.25)
                look()
            for pod in self._pods:
                deepest = DEEP if pod is self._pods[0] else SHALLOW
                pod.look_up([*range(0, deepest, 3), *[None] * 200], requests=10)
                self.requests += 10


@dataclass
class Lab:
    thanos: Thanos
    traffic: Traffic
    scraping: Stage
    """Its recommender scrapes the pods itself."""
    asking: Stage
    """Its recommender asks Thanos."""
    port: int
    """Of the latter."""

    def shard_of_the_deep_pod(self) -> Shard:
        [(labels, _)] = self.thanos.query('up{pod="llama-0"}')
        return next(shard for shard in self.thanos.shards if str(shard.number) == labels["shard"])

    def coverage(self, reason: str) -> dict[str, Any]:
        """The condition of the recommender that asks, once it has that reason."""
        deadline = time.monotonic() + 60
        while True:
            said = {one["type"]: one for one in self.asking.status["conditions"]}["CoverageSufficient"]
            if said["reason"] == reason:
                return said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)

    def both_have_counted(self) -> None:
        """Wait until both have seen all requests."""
        deadline = time.monotonic() + 240
        while (seen := (requests(self.scraping), requests(self.asking))) != (self.traffic.requests,) * 2:
            assert time.monotonic() < deadline, (seen, self.traffic.requests)
            time.sleep(0.5)

    def both_answer_alike(self) -> None:
        """Wait until they do: one of them may have come an interval further for a moment."""
        deadline = time.monotonic() + 60
        while (asked := answer(self.asking)) != (scraped := answer(self.scraping)):
            assert time.monotonic() < deadline, (asked, scraped)
            time.sleep(0.5)


def requests(stage: Stage) -> int:
    return int((stage.status.get("measured") or {}).get("requests", 0))


def answer(stage: Stage) -> dict[str, Any]:
    """What is recommended, and from what."""
    status = stage.status
    measured = {name: status["measured"][name] for name in ("requests", "lookupTokens", "hitRate", "kvDemandPeakBytes")}
    bounds = {bound["name"]: bound["kvBytes"] for bound in status["bounds"]}
    return {"target": status.get("target"), "measured": measured, "bounds": bounds}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Both recommenders have looked once, and no request has come."""
    with contextlib.ExitStack() as stack:
        pods = [PluginPod(f"llama-{number}", demand_blocks=200) for number in range(4)]
        for pod in pods:
            stack.enter_context(pod.served())
        thanos = Thanos(tmp_path / "thanos", scraped(pods), 1.0)
        stack.enter_context(running(thanos))
        thanos.becomes("count(up == 1)", 4)
        stages = [Stage(tmp_path / name, pods, **HASTY) for name in ("scraping", "asking")]
        own = stack.enter_context(stages[0].recommender())
        asking = stack.enter_context(stages[1].recommender(f"--prometheus={thanos.url}"))
        deadline = time.monotonic() + 180
        while not (
            metric(own, "vllm_rightsizer_recommender_scrapes_total", outcome="ok") >= 4
            and metric(asking, "vllm_rightsizer_recommender_filled_timestamp_seconds") > time.time() - 3 * INTERVAL
        ):
            assert time.monotonic() < deadline, "the recommenders do not begin"
            time.sleep(0.2)
        yield Lab(thanos, Traffic(pods), *stages, asking)


def test_a_distributed_engine_gives_the_same_answer_and_loses_a_shard_without_harm(lab: Lab) -> None:
    shard = lab.shard_of_the_deep_pod()
    assert len({labels["shard"] for labels, _ in lab.thanos.query("up")}) == 2

    lab.traffic.goes_on(10)
    lab.both_have_counted()
    lab.both_answer_alike()
    before = lab.asking.kv_bytes
    assert before
    # It is the pod of the second shard that needs so much.
    assert before > 2 * SHALLOW * PluginPod.block_bytes

    # A shard is killed while requests come, for longer than W/6; sizes are looked at all the time.
    sizes: set[int | None] = set()
    shard.kill()
    lab.traffic.goes_on(20, look=lambda: sizes.add(lab.asking.kv_bytes))
    said = lab.coverage("PodsWithoutData")
    assert "llama-0 (none since " in said["message"]
    assert "though it answers now" in said["message"]
    assert metric(lab.port, "vllm_rightsizer_recommender_queries_total", outcome="partial") > 0
    shard.start()
    lab.thanos.knows(2)
    lab.traffic.goes_on(4, look=lambda: sizes.add(lab.asking.kv_bytes))
    assert min(size or 0 for size in sizes) >= before

    # What came meanwhile is counted, and once.
    lab.both_have_counted()
    assert lab.asking.kv_bytes == pytest.approx(lab.scraping.kv_bytes, rel=0.05)
