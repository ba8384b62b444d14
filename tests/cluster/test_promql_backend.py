"""The Prometheus-compatible backend on a real Prometheus: the same intervals and the same sizes as from own scrapes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bench.lab.plugin_pods import PluginPod
from bench.lab.programs import start
from bench.lab.prometheus import Prometheus
from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import WorkloadRef, recommendation_name
from recommender.discovery import Pod
from recommender.exposition import PageSample, sample_of
from recommender.history import History
from recommender.intervals import ClosedInterval
from recommender.keys import SeriesKey, WorkloadKey
from recommender.promql.asking import Asking
from recommender.promql.client import PrometheusClient, PromqlTelemetry
from recommender.promql.memories import Memories
from recommender.promql.settings import PrometheusSettings
from recommender.promql.source import PrometheusSource
from recommender.recording import Baseline, Recorder
from vllm_plugin import names
from vllm_plugin.page import Histogram, families
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

pytestmark = pytest.mark.e2e

KEY = WorkloadKey("chat", WorkloadRef("apps", "Deployment", "llama"), "vllm")
PERIOD = 0.25
"""Seconds between two scrapes, and for each of them: ten times what a page takes."""
STEP = 0.1
NATIVE, CLASSIC = "native", "classic"
JOB_OF_RECOMMENDER = "vllm-rightsizer-recommender"


def config(pods: list[PluginPod], recommender_port: int) -> dict[str, Any]:
    """Every pod by two jobs, each of which sees one kind of histogram."""
    period = f"{round(PERIOD * 1000)}ms"
    every = {"scrape_interval": period, "scrape_timeout": period}
    targets = [
        {
            "targets": [f"127.0.0.1:{pod.port}"],
            "labels": {"namespace": KEY.namespace, "pod": pod.name, "container": KEY.container},
        }
        for pod in pods
    ]
    jobs: list[dict[str, Any]] = [
        {"job_name": NATIVE, "scrape_native_histograms": True, "scrape_protocols": ["PrometheusProto"]},
        {"job_name": CLASSIC, "scrape_protocols": ["PrometheusText0.0.4"]},
    ]
    slower = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    own = {**slower, "job_name": JOB_OF_RECOMMENDER, "static_configs": [{"targets": [f"127.0.0.1:{recommender_port}"]}]}
    return {"global": every, "scrape_configs": [*({**job, "static_configs": targets} for job in jobs), own]}


@dataclass
class LoggedPod(PluginPod):
    """Remembers what its page said at each count of requests."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    said: dict[int, dict[str, Any]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        with self.lock:
            return super().report()

    def live(self, chance: random.Random) -> None:
        with self.lock:
            self.look_up([chance.choice((None, 3, 500, 5000)) for _ in range(chance.randrange(1, 40))])
            self.demand_blocks = chance.randrange(2000)
            self.preemptions += chance.random() < 0.1
            self.said[self.requests] = super().report()

    def start_anew(self) -> None:
        """Its vLLM does."""
        with self.lock:
            self.reuse = [0] * len(self.reuse)
            self.lookup_tokens = self.hit_tokens = self.preemptions = self.demand_blocks = 0
            # Another remainder, so that no count of requests stands for two pages.
            self.requests = 0
            self.said[0] = super().report()


def samples_of(report: dict[str, Any]) -> list[PageSample]:
    return [
        (family.name, labels, tuple(accumulate(value.counts)) if isinstance(value, Histogram) else float(value))
        for family in families([report])
        for labels, value in family.samples
    ]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[list[PluginPod], int], Prometheus]]:
    with contextlib.ExitStack() as stack:

        def started(pods: list[PluginPod], recommender_port: int = 1) -> Prometheus:
            server = Prometheus(tmp_path / "prometheus", config(pods, recommender_port))
            stack.callback(server.stop)
            server.start()
            return server

        yield started


def test_the_same_intervals_as_from_the_same_scrapes(
    prometheus: Callable[[list[PluginPod]], Prometheus], tmp_path: Path
) -> None:
    """From both kinds of histogram; one pod is started anew, one comes later, one ends."""
    seconds, chance = 2.0, random.Random(1)
    window = 96 * seconds
    pods = [LoggedPod("llama-0"), LoggedPod("llama-1"), LoggedPod("llama-2")]
    for pod, port in zip(pods, free_ports(3), strict=True):
        pod.port = port
        # What an engine counted before anybody saw it; no count of requests stands for two pages.
        pod.requests = 1000
        pod.said[1000] = pod.report()
    server = prometheus(list(pods))
    with contextlib.ExitStack() as living, contextlib.ExitStack() as leaving:
        living.enter_context(pods[0].served())
        leaving.enter_context(pods[1].served())
        for pod in pods:
            pod.live(chance)
        # Its first scrapes come seconds after it answers: what happens before them nobody sees.
        server.becomes("count(up == 1)", 4)
        for step in range(110):
            for pod in pods:
                pod.live(chance)
            if step == 40:
                pods[0].start_anew()
            if step == 55:
                living.enter_context(pods[2].served())
            if step == 70:
                leaving.close()
            time.sleep(STEP)
    # All that was scraped is there, and the last interval is over.
    time.sleep(2 * seconds)

    for job in (CLASSIC, NATIVE):
        # As the store remembers it.
        stood: dict[SeriesKey, Baseline] = {}
        recorder = Recorder(stood.get)
        recorded: list[ClosedInterval] = []
        scrapes = []
        for pod in pods:
            answer = server.answer(f'{names.REQUESTS}{{job="{job}",pod="{pod.name}"}}[1h]')
            ((_, series),) = [("", one) for one in answer["data"]["result"]]
            scrapes += [(float(at), int(float(count)), pod) for at, count in series["values"]]
        for at, count, pod in sorted(scrapes, key=lambda scrape: scrape[0]):
            closed = recorder.closed(at)
            stood |= {one.key: Baseline(one.counters, one.seen_at) for one in closed}
            recorded += closed
            [engine] = sample_of(samples_of(pod.said[count]), pod.uid).engines
            recorder.take(SeriesKey(KEY, "f", pod.name, pod.uid, "0"), engine, at, window, PERIOD)
        recorded += recorder.closed(time.time() - seconds)
        expected = {(one.key, one.interval.start): one for one in recorded}
        found = {
            (one.key, one.interval.start): one
            for one in asyncio.run(asked(server, job, pods, window, tmp_path / f"{job}.db"))
        }
        assert len(expected) > 8
        assert expected.keys() <= found.keys()
        for place, one in expected.items():
            same = found[place].interval
            assert same.covered_seconds == pytest.approx(one.interval.covered_seconds, abs=3 * PERIOD)
            assert (found[place].counters, found[place].seen_at) == (one.counters, one.seen_at)
            assert found[place].facts == one.facts
            assert (same.samples, same.requests, same.lookup_tokens, same.hit_tokens, same.preemptions) == (
                one.interval.samples,
                one.interval.requests,
                one.interval.lookup_tokens,
                one.interval.hit_tokens,
                one.interval.preemptions,
            )
            assert same.reuse == one.interval.reuse
            assert (same.active_peak_bytes, same.demand_peak_bytes, same.capacity_bytes) == (
                one.interval.active_peak_bytes,
                one.interval.demand_peak_bytes,
                one.interval.capacity_bytes,
            )


async def asked(server: Prometheus, job: str, pods: list[LoggedPod], window: float, path: Path) -> list[ClosedInterval]:
    """Every interval that a source finds there."""
    settings = PrometheusSettings(server.url, matchers=(f'job="{job}"',))
    living = [Pod(KEY, pod.name, pod.uid, "f", None, 0.0, True, False, None, {}) for pod in pods]
    telemetry = PromqlTelemetry(CollectorRegistry())
    with History.open(path) as history:
        async with PrometheusClient(settings, telemetry) as client:
            source = PrometheusSource(Asking(client, settings), telemetry, Memories(), history)
            running = asyncio.create_task(source.run())
            found: list[ClosedInterval] = []
            async with asyncio.timeout(180):
                while source.slot(window) is None:
                    source.tell(living, {KEY: window}, time.time())
                    source.recalled()
                    found += source.taken()
                    assert source.fault is None
                    await asyncio.sleep(0.02)
            running.cancel()
            return found + source.taken()


def objects(folder: Path, pod: PluginPod) -> FileObjectStore:
    """A cluster with one measured pod."""
    store = FileObjectStore(folder)
    metadata = {"namespace": KEY.namespace}
    environment = [{"name": names.ENV_PORT, "value": str(pod.port)}]
    container = {"name": KEY.container, "image": "vllm/vllm-openai:v0.32.0", "env": environment}
    container["command"] = ["vllm", "serve", "llama"]
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "llama-abc", "uid": "r", "controller": True}
    policy = {"observationWindow": "96s", "windowCoverage": 2.5, "minRequests": 100}
    for obj in (
        {"kind": "Namespace", "metadata": {"name": KEY.namespace, "labels": {names.LABEL_INJECT: "enabled"}}},
        {"kind": "AutomatedNamespace", "metadata": {"name": KEY.namespace}, "spec": {"vllmOptimize": True}},
        {"kind": "VLLMPolicy", "metadata": {"name": "default"}, "spec": policy},
        {"kind": "Deployment", "metadata": {**metadata, "name": "llama", "uid": "d"}},
        {
            "kind": "Pod",
            "metadata": {
                **metadata,
                "name": pod.name,
                "uid": pod.uid,
                "labels": {names.LABEL_INJECTED: "true", "pod-template-hash": "abc"},
                "ownerReferences": [owner],
            },
            "spec": {"containers": [container]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        },
    ):
        ours = obj["kind"] in ("AutomatedNamespace", "VLLMPolicy")
        store.apply({"apiVersion": names.API_VERSION if ours else "v1", **obj})
    return store


def target_of(store: FileObjectStore) -> int | None:
    raw = store.get("VLLMRecommendation", KEY.namespace, recommendation_name(KEY.workload, KEY.container))
    target = ((raw or {}).get("status") or {}).get("target")
    return int(target["kvBytes"]) if target else None


def answer(port: int, path: str) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=30).text
    except httpx.TransportError as error:
        return str(error)


def until(holds: Callable[[], object], program: Program, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert program.exit_code() is None, program.tail()
        assert time.monotonic() < deadline, program.tail()
        time.sleep(0.05)


def test_the_same_size_and_nothing_lost_with_the_cache(
    prometheus: Callable[[list[PluginPod], int], Prometheus], tmp_path: Path
) -> None:
    pod = LoggedPod("llama-abc-1", demand_blocks=300)
    [pod.port, own_port, port] = free_ports(3)
    server = prometheus([pod], port)
    ended = threading.Event()

    def load() -> None:
        while not ended.wait(STEP):
            with pod.lock:
                pod.look_up([*range(0, 1200, 12), *[None] * 25], requests=10)

    def recommender(name: str, port: int, *more: str) -> Program:
        (tmp_path / name).mkdir(exist_ok=True)
        arguments = ["-m", "vllm_rightsizer", "recommender", f"--objects={tmp_path / name / 'objects'}"]
        arguments += [f"--history={tmp_path / name / 'history.db'}", f"--port={port}", *more]
        return start(Path(sys.executable), arguments, tmp_path / name)

    own, promql = objects(tmp_path / "own" / "objects", pod), objects(tmp_path / "promql" / "objects", pod)
    options = (f"--prometheus={server.url}", f'--prometheus-matcher=job="{NATIVE}"')
    with pod.served(), contextlib.ExitStack() as stack:
        loading = threading.Thread(target=load)
        loading.start()
        stack.callback(loading.join)
        stack.callback(ended.set)
        by_scrapes = recommender("own", own_port)
        stack.callback(by_scrapes.stop)
        by_promql = recommender("promql", port, *options)
        stack.callback(by_promql.stop)
        until(lambda: target_of(own) and target_of(promql), by_promql)
        until(lambda: target_of(own) == target_of(promql), by_promql)
        size = target_of(promql)
        assert answer(port, "/readyz") == "ok"

        # The cache is lost: what is recommended stands, also until everything has been asked for again.
        until(lambda: server.query('vllm_rightsizer_recommender_own_pool_bytes{owner_name="llama"}'), by_promql)
        by_promql.stop()
        for file in (tmp_path / "promql").glob("history.db*"):
            file.unlink()
        by_promql = recommender("promql", port, *options)
        stack.callback(by_promql.stop)

        def filled() -> bool:
            assert target_of(promql) == size
            return "vllm_rightsizer_recommender_evaluations_total{" in answer(port, "/metrics")

        until(filled, by_promql)
        assert target_of(promql) == size

        server.stop()
        until(lambda: "no answer from" in answer(port, "/readyz"), by_promql)
        assert target_of(promql) == size
        server.start()
        until(lambda: answer(port, "/readyz") == "ok", by_promql)
        assert target_of(promql) == size
