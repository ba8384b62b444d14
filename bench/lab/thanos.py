"""A distributed engine on loopback: sharded Prometheus with a Thanos sidecar each, and one querier over them all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.lab.programs import folder_with, start
from bench.lab.prometheus import Prometheus, PromQL, ScrapedPod, kill, scraping, until_ready
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

REPLICA_LABEL = "prometheus_replica"


class Shard:
    """One Prometheus that scrapes the pods of its shard, and its sidecar."""

    def __init__(
        self, folder: Path, pods: Sequence[ScrapedPod], seconds: float, number: int, shards: int, replica: int
    ) -> None:
        labels = {"shard": str(number), REPLICA_LABEL: str(replica)}
        self.number, self.replica = number, replica
        self.prometheus = Prometheus(folder, scraping(pods, seconds, number, shards, labels))
        self._http, self.grpc = free_ports(2)
        self._sidecar: Program | None = None

    def start(self) -> None:
        self.prometheus.start()
        self._sidecar = start(
            folder_with("thanos") / "thanos",
            [
                "sidecar",
                f"--prometheus.url={self.prometheus.url}",
                f"--tsdb.path={self.prometheus.data}",
                f"--http-address=127.0.0.1:{self._http}",
                f"--grpc-address=127.0.0.1:{self.grpc}",
                "--http-grace-period=1s",
                "--grpc-grace-period=1s",
            ],
            self.prometheus.folder,
        )
        until_ready(self._sidecar, f"http://127.0.0.1:{self._http}/-/ready")

    def kill(self) -> None:
        """Prometheus and sidecar at once, as when their node goes."""
        kill(self._sidecar)
        self.prometheus.kill()

    def stop(self) -> None:
        if self._sidecar is not None:
            self._sidecar.stop()
            self._sidecar = None
        self.prometheus.stop()


class Thanos(PromQL):
    """Shards, each scraped by so many replicas, and a querier that takes replicas for one."""

    def __init__(
        self, folder: Path, pods: Sequence[ScrapedPod], seconds: float, shards: int = 2, replicas: int = 1
    ) -> None:
        """Nothing runs before `start`."""
        [self._port] = free_ports(1)
        super().__init__(f"http://127.0.0.1:{self._port}")
        self._folder = folder
        self.shards = [
            Shard(folder / f"shard-{number}-{replica}", pods, seconds, number, shards, replica)
            for number in range(shards)
            for replica in range(replicas)
        ]
        self._querier: Program | None = None

    def start(self) -> None:
        """Until the querier knows all shards. Raises `LabError` where something does not come up."""
        for shard in self.shards:
            shard.start()
        [grpc] = free_ports(1)
        endpoints = self._folder / "endpoints.yaml"
        endpoints.write_text(
            json.dumps({"endpoints": [{"address": f"127.0.0.1:{shard.grpc}"} for shard in self.shards]})
        )
        self._querier = start(
            folder_with("thanos") / "thanos",
            [
                "query",
                f"--http-address=127.0.0.1:{self._port}",
                f"--grpc-address=127.0.0.1:{grpc}",
                f"--endpoint.sd-config-file={endpoints}",
                f"--query.replica-label={REPLICA_LABEL}",
                "--http-grace-period=1s",
                "--grpc-grace-period=1s",
            ],
            self._folder,
        )
        until_ready(self._querier, f"{self.url}/-/ready")
        self.knows(len({shard.number for shard in self.shards}))

    def knows(self, shards: int) -> None:
        """Wait until the querier answers from so many shards. Raises `LabError` where it does not come to that."""
        self.becomes("count(count by (shard) (up))", shards)

    def stop(self) -> None:
        if self._querier is not None:
            self._querier.stop()
            self._querier = None
        for shard in self.shards:
            shard.stop()


@contextlib.contextmanager
def running(made: Prometheus | Thanos) -> Iterator[None]:
    """It runs for the length of the block."""
    try:
        made.start()
        yield
    finally:
        made.stop()
