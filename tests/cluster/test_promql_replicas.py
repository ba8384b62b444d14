"""Two recommenders on a real API server and a real Prometheus, each with a cache of its own: when the leader is killed
the other one keeps the size, and measures on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.lab.control_plane import ControlPlane
from bench.lab.plugin_pods import PluginPod
from bench.lab.programs import folder_with
from bench.lab.prometheus import Prometheus
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import API_VERSION
from vllm_rightsizer.demo.ports import free_ports

from .pods import CONTAINER
from .recommenders import RecommenderProcess, found, install, measured_pod, opted_in, path_of, put_policy, run

pytestmark = pytest.mark.e2e

POLICY = "hasty-on-prometheus"
PATIENT = {"observationWindow": "240s", "windowCoverage": 2, "minRequests": 100}
"""Its window outlasts the test: what was counted at first still counts at the end."""
BARE = WorkloadRef("", "Pod", "llama")
JOB_OF_PLUGIN, JOB_OF_RECOMMENDER = "vllm-rightsizer-plugin", "vllm-rightsizer-recommender"


@dataclass
class LoadedPod(PluginPod):
    """Has the UID that the API server gave it, and the same load all the time."""

    known_uid: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def uid(self) -> str:
        return self.known_uid

    def report(self) -> dict[str, Any]:
        with self.lock:
            return super().report()

    def load(self) -> None:
        while not self.ended.wait(0.1):
            with self.lock:
                self.look_up([*range(0, 1200, 12), *[None] * 25], requests=10)


def _config(namespace: str, pod: LoadedPod, ports: list[int]) -> dict[str, Any]:
    labels = {"namespace": namespace, "pod": pod.name, "container": CONTAINER}
    return {
        # Five in an interval of the policy.
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {
                "job_name": JOB_OF_PLUGIN,
                "scrape_native_histograms": True,
                "scrape_protocols": ["PrometheusProto"],
                "static_configs": [{"targets": [f"127.0.0.1:{pod.port}"], "labels": labels}],
            },
            {
                "job_name": JOB_OF_RECOMMENDER,
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            },
        ],
    }


@pytest.fixture
def namespace(crds: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("prometheus")
    install(crds)
    put_policy(crds, POLICY, **PATIENT)
    yield opted_in(crds, "two-on-prometheus", POLICY)
    crds.client.http.delete(f"/apis/{API_VERSION}/vllmpolicies/{POLICY}")


def test_a_size_outlives_its_leader(crds: ControlPlane, namespace: str, tmp_path: Path) -> None:
    pod = LoadedPod("llama", demand_blocks=300)
    [pod.port] = free_ports(1)
    made = crds.client.create(f"/api/v1/namespaces/{namespace}/pods", measured_pod(pod.port))
    pod.known_uid = made["metadata"]["uid"]
    run(crds, namespace, "llama")
    replicas = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        replicas.append(RecommenderProcess(crds, tmp_path / name))
    leader, other = replicas
    path = path_of(namespace, BARE)

    def status() -> dict[str, Any]:
        return found(crds, path).get("status") or {}

    def size() -> int | None:
        target = status().get("target")
        return int(target["kvBytes"]) if target else None

    with ExitStack() as stack:
        stack.enter_context(pod.served())
        loading = threading.Thread(target=pod.load)
        loading.start()
        stack.callback(loading.join)
        stack.callback(pod.ended.set)
        prometheus = Prometheus(tmp_path / "prometheus", _config(namespace, pod, [one.port for one in replicas]))
        stack.callback(prometheus.stop)
        prometheus.start()
        options = (f"--prometheus={prometheus.url}", f'--prometheus-matcher=job="{JOB_OF_PLUGIN}"')
        for one in replicas:
            stack.callback(one.stop)
            one.start(*options, leads=one is leader)
        crds.wait_for(size, "size")
        # What is remembered of it is there, too.
        remembered = f'vllm_rightsizer_recommender_recommended_pool_bytes{{target_namespace="{namespace}"}}'
        prometheus.becomes(remembered, lambda series: [value for _, value in series] == [size()])
        kept, measured = size(), status()["measured"]["requests"]
        assert not other.history.exists(), "one that stands by keeps nothing"

        assert leader.program is not None
        os.kill(leader.program.pid, signal.SIGKILL)
        sizes, counts = set(), [measured]

        def goes_on() -> bool:
            sizes.add(size())
            counts.append(status()["measured"]["requests"])
            return other.leads() and counts[-1] > measured + 1000

        crds.wait_for(goes_on, "measurements of the other one")
        assert sizes == {kept}
        # The window has room for all of it: what the other one counted is counted still.
        assert counts == sorted(counts)
        assert other.history.exists()
        assert other.metric("vllm_rightsizer_recommender_leader_transitions_total") == 1
