"""A Deployment of vLLM pods that serve the plugin's pages, and recommenders and webhooks that look at it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from synthetic import KEY, cluster_objects, pod_object, policy_object

from bench.lab.plugin_pods import PluginPod
from bench.lab.programs import start
from bench.lab.prometheus import ScrapedPod, until_ready
from recommender.api.object_store import FileObjectStore
from recommender.api.workloads import recommendation_name
from vllm_rightsizer.demo.ports import free_ports

Raw = dict[str, Any]

NODE = "gpu-node-1"


def scraped(pods: Sequence[PluginPod]) -> list[ScrapedPod]:
    """The pods as targets of Prometheus."""
    return [ScrapedPod(f"127.0.0.1:{pod.port}", KEY.namespace, pod.name, KEY.container) for pod in pods]


class Stage:
    """Objects in a folder, and the processes that read them; `folder` has both."""

    def __init__(self, folder: Path, pods: Sequence[PluginPod], **policy: Any) -> None:
        """The pods must be served. `policy`: spec of their VLLMPolicy."""
        self._folder = folder
        self.store = FileObjectStore(folder / "objects")
        gpus = {"nvidia.com/gpu": "8"}
        labels = {"nvidia.com/gpu.memory": "81559", "node.kubernetes.io/instance-type": "p5.48xlarge"}
        labels["topology.kubernetes.io/region"] = "us-east-1"
        node = {"kind": "Node", "metadata": {"name": NODE, "labels": labels}}
        for obj in (*cluster_objects(), policy_object(**policy), node | {"status": {"allocatable": gpus}}):
            self.store.apply(obj)
        for pod in pods:
            self.show(pod_object(pod.port, pod.name, pod.uid))

    def show(self, pod: Raw) -> None:
        """A pod on the Node, with one GPU of it."""
        pod["spec"]["nodeName"] = NODE
        pod["spec"]["containers"][1]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        self.store.apply(pod)

    @property
    def status(self) -> Raw:
        """Of the recommendation; empty where there is none yet."""
        found = self.store.get("VLLMRecommendation", KEY.namespace, recommendation_name(KEY.workload, KEY.container))
        return (found or {}).get("status") or {}

    @property
    def kv_bytes(self) -> int | None:
        """What is recommended."""
        return (self.status.get("target") or {}).get("kvBytes")

    @contextmanager
    def recommender(self, *options: str) -> Iterator[int]:
        """Runs for the length of the block; its port."""
        with self._running("recommender", "http", f"--history={self._folder / 'history.db'}", *options) as port:
            yield port

    @contextmanager
    def webhook(self) -> Iterator[int]:
        """Runs for the length of the block; its port."""
        with self._running("webhook", "https", f"--tls-dir={self._folder / 'tls'}") as port:
            yield port

    @contextmanager
    def _running(self, command: str, scheme: str, *options: str) -> Iterator[int]:
        [port] = free_ports(1)
        arguments = ["-m", "vllm_rightsizer", command, f"--objects={self.store.folder}", f"--port={port}", *options]
        folder = self._folder / command
        folder.mkdir()
        program = start(Path(sys.executable), arguments, folder)
        try:
            until_ready(program, f"{scheme}://127.0.0.1:{port}/healthz")
            yield port
        finally:
            program.stop()


def metric(port: int, name: str, **labels: str) -> float:
    """The sum of a recommender's samples of that name with these labels; 0 where there is none."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in page.splitlines() if line.partition("{")[0].split(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(pair in line for pair in wanted))
