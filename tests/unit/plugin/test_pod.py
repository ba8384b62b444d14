"""Real processes of one pod: engines, workers, and several vLLM servers, on one page at one port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import names
from vllm_rightsizer.demo.ports import free_ports

from .pages import engine, samples, worker

ROOT = Path(__file__).parents[3]

PROCESS = """
import json, os, signal, sys, time
from vllm_plugin import exporter, process
from vllm_plugin.override import Outcome

exporter._PERIOD_SECONDS = 0.05
engines, workers = json.loads(sys.argv[1])

class Tracker:
    vllm_config = None
    def __init__(self, report):
        self.outcome = Outcome(server=report["server"])
        self.vllm_config = Config(report["engine"])
        self._report = report
    def alive(self):
        return True
    def report(self):
        return dict(self._report)

class Config:
    def __init__(self, index):
        self.parallel_config = self
        self.data_parallel_index = index

for report in engines:
    process.track_pool(Tracker(report))
for report in workers:
    process.track_worker(Tracker(report))
print("tracked", flush=True)
# Longer than the test takes, which ends it.
time.sleep(600)
"""


REQUESTS_OF_0 = (names.REQUESTS, (("engine", "0"),))


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Pod:
    """Processes that share a network, and the folder that their environment names."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self, engines: list[dict[str, Any]], workers: list[dict[str, Any]], container: str = "one"
    ) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            names.ENV_PORT: str(self.port),
            names.ENV_DIR: str(self._folder / container),
        }
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, json.dumps([engines, workers])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=(self._folder / f"log-{container}").open("w"),
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "tracked\n"
        return process

    def log(self, container: str) -> str:
        return (self._folder / f"log-{container}").read_text()

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)

    def page(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return samples(answer.read().decode())

    def becomes(self, ranks: set[str], engines: set[str]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """The page, once it shows exactly these `engine/rank` and engines."""
        deadline = time.monotonic() + 60
        seen: tuple[set[str], set[str]] = (set(), set())
        while time.monotonic() < deadline:
            try:
                page = self.page()
            except OSError:
                page = {}
            seen = (
                {
                    "/".join(value for _, value in sorted(labels))
                    for name, labels in page
                    if name == names.MODEL_WEIGHTS_BYTES
                },
                {dict(labels)["engine"] for name, labels in page if name == names.REQUESTS},
            )
            if seen == (ranks, engines):
                return page
            time.sleep(0.05)
        raise AssertionError(seen)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Callable[[], Pod]]:
    made: list[Pod] = []

    def make() -> Pod:
        made.append(Pod(tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_who_dies_takes_its_series_along_and_another_serves(pod: Callable[[], Pod]) -> None:
    """Two data-parallel engines of two tensor-parallel ranks."""
    one = pod()
    workers = {(at, rank): one.start([], [worker(at, rank)]) for at in (0, 1) for rank in (0, 1)}
    engines = [one.start([{**engine(at), "requests": 10 + at}], []) for at in (0, 1)]
    page = one.becomes({"0/0", "0/1", "1/0", "1/1"}, {"0", "1"})
    assert page[names.REQUESTS, (("engine", "1"),)] == 11
    one.kill(workers[1, 1])
    # At the very next look.
    ranks = {labels for name, labels in one.page() if name == names.MODEL_WEIGHTS_BYTES}
    assert (("engine", "1"), ("rank", "1")) not in ranks
    # Now the engine that serves.
    one.kill(engines[0])
    one.becomes({"0/0", "0/1", "1/0"}, {"1"})


def test_several_servers_of_a_pod_keep_their_labels(pod: Callable[[], Pod]) -> None:
    one = pod()
    first = one.start([engine(server="a")], [worker(server="a")])
    one.becomes({"0/0"}, {"0"})
    one.start([engine(server="b")], [worker(server="b")])
    one.becomes({"0/0", "1.0/0"}, {"0", "1.0"})
    one.kill(first)
    one.becomes({"1.0/0"}, {"1.0"})
    one.start([engine(server="c")], [worker(server="c")])
    one.becomes({"0/0", "1.0/0"}, {"0", "1.0"})


def test_two_containers_without_a_common_folder(pod: Callable[[], Pod]) -> None:
    """The port is the first one's; the second says so, and takes over once it is free."""
    one = pod()
    first = one.start([{**engine(), "requests": 1}], [worker()], container="one")
    one.becomes({"0/0"}, {"0"})
    one.start([{**engine(), "requests": 2}], [worker()], container="two")
    eventually(lambda: f"On port {one.port} another vLLM's vllm-rightsizer serves" in one.log("two"))
    assert one.page()[REQUESTS_OF_0] == 1
    one.kill(first)
    eventually(lambda: one.becomes({"0/0"}, {"0"})[REQUESTS_OF_0] == 2)
    assert one.log("two").count(f"cannot serve metrics on port {one.port}") == 1
