"""A real Prometheus on loopback, and whatever else answers PromQL."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from bench.lab.programs import LabError, folder_with, start
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

_UP_SECONDS = 180.0

Series = tuple[dict[str, str], float]
"""Labels and value of one series of an instant query."""


@dataclass(frozen=True)
class ScrapedPod:
    """A target as a PodMonitor makes it of a pod: where it answers, and the labels that its series get."""

    address: str
    namespace: str
    pod: str
    container: str

    def labels(self) -> dict[str, str]:
        return {"namespace": self.namespace, "pod": self.pod, "container": self.container}


class PromQL:
    """Whoever answers PromQL at `url`: a Prometheus, or an engine over several."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def answer(self, expression: str, at: float | None = None, **parameters: str) -> dict[str, Any]:
        """The whole answer to an instant query, warnings too. Raises `LabError` with what is wrong with the query."""
        when = {} if at is None else {"time": str(at)}
        answer = self._http.post("/api/v1/query", data={"query": expression, **when, **parameters})
        found: dict[str, Any] = answer.json()
        if found["status"] != "success":
            raise LabError(f"{expression}: {found['error']}")
        return found

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Each series of an instant query."""
        result = self.answer(expression, at)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def value(self, expression: str) -> float:
        """The value of the one series of the answer."""
        ((_, value),) = self.query(expression)
        return value

    def becomes(self, expression: str, expected: float | Callable[[list[Series]], bool], seconds: float = 180) -> None:
        """Look until the one series has that value, or the series are such. Raises `LabError` with what was last."""
        deadline = time.monotonic() + seconds
        seen: object = None
        while time.monotonic() < deadline:
            try:
                seen = found = self.query(expression)
            except (httpx.HTTPError, LabError, ValueError, KeyError) as error:
                # Of several servers one may not be there yet.
                seen = error
            else:
                holds = expected(found) if callable(expected) else [value for _, value in found] == [expected]
                if holds:
                    return
            time.sleep(0.1)
        raise LabError(f"{expression} is {seen!r}, not {'as wanted' if callable(expected) else expected}")


class Prometheus(PromQL):
    """One Prometheus with a configuration of `config`; its data lies in `folder`, and outlives its end."""

    def __init__(self, folder: Path, config: Mapping[str, Any], options: Sequence[str] = ()) -> None:
        """It does not run before `start`. `options` are added to its command line."""
        [self.port] = free_ports(1)
        super().__init__(f"http://127.0.0.1:{self.port}")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self._options = options
        # JSON is YAML.
        (folder / "prometheus.yaml").write_text(json.dumps(config))
        self._program: Program | None = None

    def start(self) -> None:
        """Until it answers. Raises `LabError` with the end of its log where it does not."""
        self._program = start(
            folder_with("prometheus") / "prometheus",
            [
                f"--config.file={self.folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.data}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                # A sidecar wants blocks that nobody compacts.
                "--storage.tsdb.min-block-duration=2h",
                "--storage.tsdb.max-block-duration=2h",
                *self._options,
            ],
            self.folder,
        )
        until_ready(self._program, f"{self.url}/-/ready")

    def kill(self) -> None:
        """At once, by SIGKILL: what it scraped since its last flush is in its log, as after a crash."""
        kill(self._program)

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None


def kill(program: Program | None) -> None:
    """End a program by SIGKILL. Raises `LabError` where it does not run."""
    if program is None or program.exit_code() is not None:
        raise LabError("there is nothing to kill: it does not run")
    os.kill(program.pid, signal.SIGKILL)
    while program.exit_code() is None:
        time.sleep(0.01)


def until_ready(program: Program, url: str) -> None:
    """Look until `url` answers with 200. Raises `LabError` with the end of the program's log where it does not."""
    deadline = time.monotonic() + _UP_SECONDS
    while True:
        try:
            # On loopback it does not matter who signed a certificate.
            if httpx.get(url, trust_env=False, timeout=5, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if program.exit_code() is not None or time.monotonic() > deadline:
            raise LabError(f"nobody answers at {url}; {program.log} ends with\n{program.tail()}")
        time.sleep(0.05)


def scraping(
    pods: Sequence[ScrapedPod],
    seconds: float,
    shard: int = 0,
    shards: int = 1,
    external_labels: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """A configuration that scrapes the pods of one shard every so many seconds."""
    every = f"{round(seconds * 1000)}ms"
    job = {
        "job_name": "vllm-rightsizer-plugin",
        "scrape_native_histograms": True,
        "always_scrape_classic_histograms": True,
        "static_configs": [{"targets": [pod.address], "labels": pod.labels()} for pod in pods],
        "relabel_configs": [
            {"source_labels": ["pod"], "modulus": shards, "target_label": "__tmp_shard", "action": "hashmod"},
            {"source_labels": ["__tmp_shard"], "regex": str(shard), "action": "keep"},
        ],
    }
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "external_labels": dict(external_labels)},
        "scrape_configs": [job],
    }
