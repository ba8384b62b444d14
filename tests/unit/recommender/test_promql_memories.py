"""What is remembered beside intervals: shown on our own page, read back from its past, and never put over the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from scraped_series import Scraped
from synthetic import KEY

from recommender.promql.asking import Asking
from recommender.promql.directory import POD_LABELS, KnownPod, labels_of, pod_of
from recommender.promql.memories import CANDIDATE, Memories, Recollection
from recommender.promql.settings import PrometheusSettings
from recommender.standings import Memory, Standing
from recommender.trends import Point

W = 9600.0
OWN_JOB = "vllm-rightsizer-recommender"
NOW = 1_700_000_000.0
MEMORY = Memory(KEY, "f1", "digest", NOW, 700, NOW + W, Standing(1000, 800, "digest"), NOW + W, Point())
SPEC = '{"percentile": 99}'


def metrics(memories: Memories) -> Iterator[Metric]:
    registry = CollectorRegistry()
    registry.register(memories)
    return iter(registry.collect())


def scraped(
    memories: Memories, at: float, into: Scraped, job: str = "vllm-rightsizer-recommender", **more: str
) -> None:
    """As a Prometheus scrapes it that gives its own namespace and pod to all series."""
    for metric in metrics(memories):
        for sample in metric.samples:
            labels = {**sample.labels, "__name__": sample.name, "job": job, "namespace": "monitoring", **more}
            into.add(at, labels, float(sample.value))


@pytest.fixture
def shown() -> Memories:
    memories = Memories()
    memories.show([KnownPod(KEY, "llama-0", "u", "f1")], [KEY])
    memories.remember(MEMORY)
    memories.note_policies({"default": SPEC})
    return memories


def recollection(into: Scraped) -> Recollection:
    return Recollection(Asking(into, PrometheusSettings("http://p:9090")))  # type: ignore[arg-type]  # asks as it does


def test_what_is_shown_is_read_back(shown: Memories) -> None:
    into = Scraped()
    scraped(shown, NOW - 100, into, pod="recommender-1")
    found = asyncio.run(recollection(into).standings(NOW, W))
    [memory] = found.memories
    assert (memory.workload, memory.fingerprint) == (KEY, "f1")
    assert memory.standing == MEMORY.standing
    assert memory.standing_expires == NOW + W
    assert memory.candidate_bytes is None
    assert found.policies == {"default": SPEC}
    [candidate] = asyncio.run(recollection(into).candidates(NOW - 50, W)).memories
    assert (candidate.candidate_bytes, candidate.policy, candidate.at) == (700, "digest", NOW - 50)
    assert candidate.standing is None


def test_what_was_shown_last_holds(shown: Memories) -> None:
    """Another process, and another size, leave older series behind."""
    into = Scraped()
    scraped(shown, NOW - 5000, into, pod="recommender-1")
    shown.remember(replace(MEMORY, policy="newer", standing=Standing(1000, 600, "newer")))
    shown.note_policies({"default": '{"percentile": 95}'})
    scraped(shown, NOW - 30, into, pod="recommender-2")
    found = asyncio.run(recollection(into).standings(NOW, W))
    [memory] = found.memories
    assert memory.standing == Standing(1000, 600, "newer")
    assert found.policies == {"default": '{"percentile": 95}'}


def test_an_evaluation_without_a_standing_leaves_the_one_before(shown: Memories) -> None:
    shown.remember(replace(MEMORY, standing=None, candidate_bytes=650))
    into = Scraped()
    scraped(shown, NOW, into)
    assert asyncio.run(recollection(into).standings(NOW + 1, W)).memories[0].standing == MEMORY.standing


def test_what_somebody_else_shows_is_not_read(shown: Memories) -> None:
    into = Scraped()
    scraped(shown, NOW - 1, into, job="somebody")
    found = asyncio.run(recollection(into).standings(NOW, W))
    assert not found.memories
    assert not found.policies


def test_nonsense_is_not_read() -> None:
    into, labels = Scraped(), {"__name__": CANDIDATE, "job": "vllm-rightsizer-recommender"}
    of_workload = dict(zip(POD_LABELS, labels_of(KnownPod(KEY, "llama-0", "u", "f1")), strict=True))
    into.add(NOW - 1, {**labels, **of_workload, "policy": "a"}, float("nan"))
    into.add(NOW - 1, {**labels, **of_workload, "policy": "b"}, -1.0)
    into.add(NOW - 1, {**labels, "policy": "c"}, 5.0)
    found = asyncio.run(recollection(into).candidates(NOW, W))
    assert [memory.candidate_bytes for memory in found.memories] in ([], [None, None])


def test_a_pod_is_told_by_its_labels() -> None:
    pod = KnownPod(KEY, "llama-0", "u", "f1")
    labels = dict(zip(POD_LABELS, labels_of(pod), strict=True))
    assert pod_of({**labels, "namespace": "monitoring", "pod": "recommender-1"}) == pod
    assert pod_of({**labels, "fingerprint": ""}) is None


def test_workloads_that_are_gone_are_not_shown(shown: Memories) -> None:
    shown.show([], [])
    assert not [sample for metric in metrics(shown) for sample in metric.samples if sample.name == CANDIDATE]
