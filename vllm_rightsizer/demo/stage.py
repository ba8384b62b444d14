"""What the demo plays on: the object store, webhook, recommender and kubelet, and the steps that use them together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recommender.api.object_store import FileObjectStore
from recommender.api.plugin_wheel import plugin_map_name
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.workloads import WorkloadRef, recommendation_name
from vllm_plugin.names import ANNOTATION_APPLIED, LABEL_INJECTED
from vllm_rightsizer.demo.cluster import Admitted, Cluster, MutatingWebhook
from vllm_rightsizer.demo.interrupts import uninterrupted
from vllm_rightsizer.demo.kubelet import Kubelet, RunningPod
from vllm_rightsizer.demo.load import LoadResult, send
from vllm_rightsizer.demo.machine import vllm_version
from vllm_rightsizer.demo.model import model_folder
from vllm_rightsizer.demo.objects import CONTAINER, DEPLOYMENT, MODEL_NAME, NAMESPACE, deployment, namespace_objects
from vllm_rightsizer.demo.pattern import Request
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.readings import PluginReading, UsageSampler, read_plugin, read_vllm
from vllm_rightsizer.demo.results import Measurement
from vllm_rightsizer.demo.services import Service, answers_http
from vllm_rightsizer.errors import UserError

Raw = dict[str, Any]
_Found = TypeVar("_Found")

_READY_SECONDS = 900.0
"""What ends is noticed at once; vLLM may take minutes where others are at work."""
_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 0.25
_END_SECONDS = 10.0
"""So long a vLLM whose engine died may go on to answer."""


class Stage:
    """Everything that runs, from entering the block to leaving it; nothing is left running then.

    `folder`: for objects, certificates, volumes, logs and history. `sizing`: what the Deployment says about memory.
    """

    def __init__(self, folder: Path, console: Console, sizing: list[str]) -> None:
        self._folder = folder
        self._console = console
        self._stack = contextlib.ExitStack()
        self._webhook_port, self._recommender_port, self._vllm_port, self._plugin_port = free_ports(4)
        self._deployment = deployment(model_folder(), vllm_version(), self._vllm_port, sizing)
        self._store = FileObjectStore(folder / "objects")
        ca_file = folder / "tls" / "ca.crt"
        self._webhook = MutatingWebhook(f"https://127.0.0.1:{self._webhook_port}/mutate", ca_file)
        self._cluster = Cluster(self._store, self._webhook)
        self._kubelet = Kubelet(folder / "pods", self._store)

    def __enter__(self) -> Self:
        try:
            self._start_services()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with uninterrupted():
            self._stack.close()

    def _start_services(self) -> None:
        for obj in (*namespace_objects(), self._deployment):
            self._cluster.apply(obj)
        objects = ["--objects", str(self._store.folder)]
        webhook = self._start_service(
            "webhook",
            [*objects, "--tls-dir", str(self._webhook.ca_file.parent), "--plugin-port", str(self._plugin_port)],
            self._webhook_port,
        )
        recommender = self._start_service(
            "recommender", [*objects, "--history", str(self.history)], self._recommender_port
        )
        # Last started, first stopped: pods end before those who watch them.
        self._stack.callback(self._kubelet.stop_all)
        ready = f"https://127.0.0.1:{self._webhook_port}/readyz"
        webhook.wait_until(lambda: answers_http(ready, self._webhook.ca_file))
        recommender.wait_until(lambda: answers_http(f"http://127.0.0.1:{self._recommender_port}/healthz"))
        self.wait_for(
            lambda: self._store.get("ConfigMap", NAMESPACE, plugin_map_name()),
            "the recommender to bring the plugin into the namespace",
        )

    def _start_service(self, command: str, arguments: list[str], port: int) -> Service:
        with uninterrupted():
            service = Service(command, [*arguments, "--port", str(port)], self._folder / command)
            self._stack.callback(service.stop)
        return service

    @property
    def history(self) -> Path:
        """The recommender's store."""
        return self._folder / "history.db"

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def wait_for(self, look: Callable[[], _Found | None], what: str) -> _Found:
        """Wait until `look` finds something; raises `UserError` where that takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise UserError(f"waited {_PATIENCE_SECONDS:.0f} s for {what}; the logs are in {self._folder}")
            time.sleep(_POLL_SECONDS)
        return found

    def admit(self) -> Admitted:
        """The Deployment's next pod, with the plugin in it."""
        admitted = self._cluster.admit_pod(self._deployment)
        if LABEL_INJECTED not in (admitted.pod["metadata"].get("labels") or {}):
            raise UserError(f"the webhook did not bring the plugin into the pod: {'; '.join(admitted.warnings)}")
        return admitted

    def admit_with_sizes(self) -> Admitted | None:
        """The same, with sizes written by the webhook; None as long as it writes none."""
        admitted = self.admit()
        return admitted if ANNOTATION_APPLIED in (admitted.pod["metadata"].get("annotations") or {}) else None

    def start_pod(self, admitted: Admitted) -> RunningPod:
        """Start an admitted pod, and wait until vLLM is ready."""
        pod = self._kubelet.start(self._cluster.create(admitted.pod))
        with self._console.status("vLLM is starting") as status:
            pod.wait_ready(_READY_SECONDS, lambda seconds: status.update(f"vLLM is starting, {seconds:.0f} s"))
        return pod

    def arguments(self, admitted: Admitted) -> list[str]:
        """vLLM's arguments in an admitted pod."""
        container = next(one for one in admitted.pod["spec"]["containers"] if one["name"] == CONTAINER)
        return list(container["args"])

    def recommendation(self) -> VLLMRecommendation | None:
        """What the recommender has written of the Deployment."""
        name = recommendation_name(WorkloadRef("apps", "Deployment", DEPLOYMENT), CONTAINER)
        raw = self._store.get(VLLMRecommendation.KIND, NAMESPACE, name)
        return None if raw is None else VLLMRecommendation.from_json(raw)

    def measure(self, requests: Sequence[Request]) -> Measurement:
        """Send `requests`, and read what vLLM and the plugin counted meanwhile."""
        vllm_url = f"http://127.0.0.1:{self._vllm_port}"
        before = read_vllm(vllm_url)
        with UsageSampler(vllm_url) as usage:
            sent = self._send(vllm_url, requests)
        after = read_vllm(vllm_url)
        plugin = self.wait_for(lambda: self._plugin_that_saw(after.lookup_tokens), "the plugin's page to show the load")
        lookup_tokens = after.lookup_tokens - before.lookup_tokens
        return Measurement(
            pool_blocks=after.pool_blocks,
            hit_rate=(after.hit_tokens - before.hit_tokens) / lookup_tokens,
            lookup_tokens=lookup_tokens,
            preemptions=int(after.preemptions - before.preemptions),
            requests_per_second=sent.requests_per_second,
            usage_p99=usage.p99(),
            plugin=plugin,
        )

    def _plugin_that_saw(self, lookup_tokens: float) -> PluginReading | None:
        """The plugin's page, once so many tokens were looked up: each process writes what it knows once a second."""
        reading = read_plugin(f"http://127.0.0.1:{self._plugin_port}")
        return reading if reading.lookup_tokens >= lookup_tokens else None

    def _send(self, url: str, requests: Sequence[Request]) -> LoadResult:
        columns = (TextColumn("   requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=len(requests))
            try:
                return send(url, MODEL_NAME, requests, lambda: progress.advance(task))
            except UserError as error:
                # A vLLM whose engine died answers a little longer: its own log says more than its answers.
                deadline = time.monotonic() + _END_SECONDS
                while time.monotonic() < deadline:
                    self._kubelet.check_alive()
                    time.sleep(_POLL_SECONDS)
                raise UserError(f"{error}; vLLM's log is in {self._folder / 'pods'}") from error
