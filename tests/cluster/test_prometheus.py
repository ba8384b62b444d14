"""A real Prometheus reads the plugin's page in each form that it can ask for, and finds the same."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from bench.lab.programs import folder_with
from vllm_plugin import names
from vllm_plugin.exporter import Exporter
from vllm_rightsizer.demo.ports import free_ports

pytestmark = pytest.mark.e2e

JOBS = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: native
    scrape_native_histograms: true
    scrape_protocols: [PrometheusProto]
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
  - job_name: both
    scrape_native_histograms: true
    always_scrape_classic_histograms: true
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
  - job_name: openmetrics
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
  - job_name: text
    scrape_protocols: [PrometheusText0.0.4]
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
"""
HISTOGRAM = names.KV_REUSE_DISTANCE_BYTES
BUCKETS = len(names.REUSE_BUCKET_BOUNDS) + 1


@dataclass
class Engines:
    """What the plugin's process measures: two engines, the second of which nobody asked anything."""

    counts: list[int]

    def report(self) -> dict[str, Any]:
        engines = [self._engine(0, self.counts), self._engine(1, [0] * BUCKETS)]
        hooks = {"lookup": {"active": True, "errors": 0, "seconds": 0.25}}
        about = {"pid": os.getpid(), "version": names.VERSION, "loaded_from": 'a "quoted" path', "pod_uid": "0b5e"}
        return {**about, "engines": engines, "workers": [], "hooks": hooks}

    @staticmethod
    def _engine(number: int, counts: list[int]) -> dict[str, Any]:
        sizes = dict.fromkeys(("block_bytes", "capacity_bytes", "active_bytes", "floor_bytes"), 1 << 30)
        counters = dict.fromkeys(("requests", "lookup_tokens", "hit_tokens"), 7)
        reuse = {"reuse_counts": counts, "reuse_sum_bytes": 123 * sum(counts[:-1])}
        return {"server": "a", "engine": number, "info": {"model": "é\\"}, **sizes, **counters, **reuse}


@dataclass
class Prometheus:
    port: int

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        where = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(where, timeout=30) as answer:
            result = json.loads(answer.read())["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def value(self, expression: str) -> float:
        ((_, value),) = self.query(expression)
        return value

    def becomes(self, expression: str, expected: float) -> None:
        deadline = time.monotonic() + 180
        seen: Any = None
        while time.monotonic() < deadline:
            try:
                seen = [value for _, value in self.query(expression)]
            except OSError as error:
                seen = error
            if seen == [expected]:
                return
            time.sleep(0.1)
        raise AssertionError(seen)


@pytest.fixture
def engines() -> Engines:
    drawn = random.Random(1)
    return Engines([drawn.choice((0, 0, 3, 50, 1000)) for _ in range(BUCKETS - 1)] + [40_000])


@pytest.fixture
def prometheus(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    plugin, port = free_ports(2)
    monkeypatch.setenv(names.ENV_PORT, str(plugin))
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "snapshots"))
    exporter = Exporter(engines.report)
    exporter.tick()
    (tmp_path / "prometheus.yaml").write_text(JOBS.replace("PORT", str(plugin)))
    command = [folder_with("prometheus") / "prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        exporter._step_down()


def test_prometheus_reads_every_form_alike(prometheus: Prometheus, engines: Engines) -> None:
    for job in ("native", "both", "openmetrics", "text"):
        prometheus.becomes(f'sum(up{{job="{job}"}})', 1)
    cumulative = list(accumulate(engines.counts))

    # One series an engine instead of 148.
    assert prometheus.value(f'count({{__name__=~"{HISTOGRAM}.*", job="native"}})') == 2
    for job in ("openmetrics", "text"):
        assert prometheus.value(f'count({{__name__=~"{HISTOGRAM}.*", job="{job}"}})') == 2 * (BUCKETS + 2)
    assert prometheus.value(f'count({{__name__=~"{HISTOGRAM}.*", job="both"}})') == 2 * (BUCKETS + 3)

    for function, classic in (("count", cumulative[-1]), ("sum", engines.report()["engines"][0]["reuse_sum_bytes"])):
        assert prometheus.value(f'histogram_{function}({HISTOGRAM}{{job="native", engine="0"}})') == classic
        assert prometheus.value(f'{HISTOGRAM}_{function}{{job="text", engine="0"}}') == classic
    assert prometheus.value(f'histogram_count({HISTOGRAM}{{job="native", engine="1"}})') == 0

    # The hit-rate curve is the same, size by size.
    classic: dict[str, dict[str, float]] = {}
    for labels, value in prometheus.query(f'{HISTOGRAM}_bucket{{engine="0"}}'):
        classic.setdefault(labels["job"], {})[labels["le"]] = value
    assert classic.keys() == {"both", "openmetrics", "text"}
    assert classic["both"] == classic["openmetrics"] == classic["text"]
    assert [count for _, count in sorted((float(le), count) for le, count in classic["text"].items())] == cumulative
    for at in range(0, BUCKETS - 1, 9):
        bound = names.REUSE_BUCKET_BOUNDS[at]
        fraction = prometheus.value(f'histogram_fraction(-Inf, {bound!r}, {HISTOGRAM}{{job="native", engine="0"}})')
        assert fraction * cumulative[-1] == pytest.approx(cumulative[at], abs=1e-6)

    # A quantile of what has one lies in the same bucket; blocks that no pool would keep have none.
    for quantile in (0.05, 0.1, 0.3):
        of_native, of_classic = (
            prometheus.value(f'histogram_quantile({quantile}, {name}{{job="{job}", engine="0"}})')
            for name, job in ((HISTOGRAM, "native"), (f"{HISTOGRAM}_bucket", "text"))
        )
        assert math.ceil(math.log2(of_native) * 8) == math.ceil(math.log2(of_classic) * 8)
    assert math.isinf(prometheus.value(f'histogram_quantile(0.99, {HISTOGRAM}{{job="native", engine="0"}})'))

    # All else is one and the same; native and classic alike.
    others = f'{{__name__=~"{names.PREFIX}.+", __name__!~"{HISTOGRAM}.*|{names.HOOK_SECONDS}"'
    series = {
        job: {
            tuple(sorted((key, text) for key, text in labels.items() if key != "job")): value
            for labels, value in prometheus.query(f'{others}, job="{job}"}}')
        }
        for job in ("native", "openmetrics", "text")
    }
    assert len(series["text"]) > 15
    assert series["native"] == series["openmetrics"] == series["text"]


def test_what_comes_later_adds_up(prometheus: Prometheus, engines: Engines) -> None:
    """`increase` over the native form gives the curve of a window."""
    counted = f'histogram_count({HISTOGRAM}{{job="native", engine="0"}})'
    before = sum(engines.counts)
    prometheus.becomes(counted, before)
    # Buckets that were empty so far, below, between and above others.
    for at in (0, 72, BUCKETS - 2, BUCKETS - 1):
        engines.counts[at] += 1000
    prometheus.becomes(counted, before + 4000)
    middle = names.REUSE_BUCKET_BOUNDS[72]
    window = f'increase({HISTOGRAM}{{job="native", engine="0"}}[30s])'
    for bound, fraction in ((names.REUSE_BUCKET_BOUNDS[0], 0.25), (middle, 0.5), (names.REUSE_BUCKET_BOUNDS[-1], 0.75)):
        assert prometheus.value(f"histogram_fraction(-Inf, {bound!r}, {window})") == pytest.approx(fraction)
