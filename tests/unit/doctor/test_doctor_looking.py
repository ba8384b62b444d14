"""What the doctor makes of an API server that answers some of its questions late, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from installation import POD, Installation, names, recommendation, vllm_pod

from recommender.api.apiserver.connection import ApiServer
from vllm_plugin.names import ANNOTATION_EXCLUDE, ANNOTATION_SKIPPED, LABEL_INJECT, LABEL_INJECTED
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.facts import ALL_DEPLOYMENTS, Facts, Probe, Raw
from vllm_rightsizer.doctor.findings import diagnosed
from vllm_rightsizer.doctor.gathering import gather
from vllm_rightsizer.doctor.probing import probe_of
from vllm_rightsizer.errors import UserError
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME

CHAT = {"metadata": {"name": "chat", "labels": {LABEL_INJECT: "enabled"}}}
AHEAD = timedelta(hours=3)
OF_ALL, OF_ONE = "/apis/apps/v1/deployments", "/apis/apps/v1/namespaces/{}/deployments"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class _Cluster(BaseHTTPRequestHandler):
    """A cluster of one namespace, without us. Connections end without an answer where the path holds `silent`; paths
    in `denied` nobody may look at, and `held` has what is there beside the namespace. `refuses`: pods, by their
    annotations."""

    silent: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    held: Mapping[str, dict[str, Any]] = MappingProxyType({})
    refuses: Callable[[Raw], bool] = staticmethod(lambda _annotations: False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith(self.denied):
            self._answer(403, {"reason": "Forbidden", "message": "it is forbidden"})
        elif path in self.held:
            self._answer(200, self.held[path])
        elif path.endswith("/namespaces"):
            self._answer(200, {"metadata": {}, "items": [CHAT]})
        elif "?limit=" in self.path or "&limit=" in self.path:
            self._answer(200, {"metadata": {}, "items": []})
        else:
            self._answer(404, {"reason": "NotFound", "message": "it is not there"})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refuses(sent.get("metadata", {}).get("annotations", {})):
            self._answer(422, {"kind": "Status", "reason": "Invalid", "message": "a volume is forbidden"})
            return
        made = {"creationTimestamp": f"{datetime.now(UTC) + AHEAD:%Y-%m-%dT%H:%M:%SZ}", "labels": {}}
        self._answer(201, {"metadata": made})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        if any(part in self.path for part in self.silent):
            return
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    """All questions come at once."""


@contextlib.contextmanager
def cluster(
    folder: Path,
    *silent: str,
    denied: tuple[str, ...] = (),
    held: Mapping[str, list[Raw] | Raw] | None = None,
    refuses: Callable[[Raw], bool] = _Cluster.refuses,
) -> Iterator[Path]:
    """The kubeconfig of one that says nothing where a path holds one of `silent`, and forbids what ends with one of
    `denied`, and pods whose annotations it `refuses`. `held`: lists and objects by path."""
    answers = {
        path: {"metadata": {}, "items": said} if isinstance(said, list) else said for path, said in (held or {}).items()
    }
    said = {"silent": silent, "denied": denied, "held": answers, "refuses": staticmethod(refuses)}
    handler = type("Handler", (_Cluster,), said)
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            file = folder / "kubeconfig"
            named = {"name": "one", "context": {"cluster": "one", "user": "one"}}
            config = {"clusters": [{"name": "one", "cluster": {"server": address}}], "contexts": [named]}
            users = {"users": [{"name": "one", "user": {}}], "current-context": "one"}
            file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config, **users}))
            yield file
        finally:
            server.shutdown()


def gathered(kubeconfig: Path) -> Facts:
    async def look() -> Facts:
        server = await ApiServer.connect(kubeconfig)
        try:
            return await gather(server)
        finally:
            await server.close()

    return asyncio.run(look())


def test_an_answer_that_does_not_come_does_not_hide_the_others(tmp_path: Path) -> None:
    """To one request, and to the pod that is tried."""
    with cluster(tmp_path, "/leases/", "dryRun") as kubeconfig:
        facts = gathered(kubeconfig)
    assert "did not answer when asked to get leases in vllm-rightsizer" in facts.unseen["Lease"]
    assert facts.opted_in == ["chat"]
    assert facts.probe is not None
    assert "had no answer" in str(facts.probe.refused)


def test_rights_in_our_namespace_alone_show_that_nobody_runs_there(tmp_path: Path) -> None:
    with cluster(tmp_path, denied=(OF_ALL,)) as kubeconfig:
        facts = gathered(kubeconfig)
    assert "not allowed to list deployments" in facts.unseen[ALL_DEPLOYMENTS]
    assert "Deployment" not in facts.unseen
    assert "WebhookNotRunning" in names(diagnosed(facts, CHECKS))


def test_a_former_namespace_that_may_not_be_seen_does_not_hide_ours(tmp_path: Path) -> None:
    with cluster(tmp_path, denied=(OF_ONE.format("former"),), held=held("former", "ours", runs=True)) as kubeconfig:
        facts = gathered(kubeconfig)
    assert facts.namespace == "ours"
    assert "Deployment" not in facts.unseen


def test_our_servers_may_be_in_the_namespace_that_may_not_be_seen(tmp_path: Path) -> None:
    with cluster(tmp_path, denied=(OF_ONE.format("ours"),), held=held("former", "ours", runs=False)) as kubeconfig:
        facts = gathered(kubeconfig)
    assert "not allowed" in facts.unseen["Deployment"]
    assert "WebhookNotRunning" not in names(diagnosed(facts, CHECKS))


def held(*namespaces: str, runs: bool) -> dict[str, list[Raw] | Raw]:
    """A configuration that calls each; in the last one, the webhook's Deployment."""
    configurations = []
    for namespace in namespaces:
        found = Installation().one("MutatingWebhookConfiguration")
        found["metadata"]["name"] = namespace
        found["webhooks"][0]["clientConfig"]["service"]["namespace"] = namespace
        configurations.append(found)
    deployment = Installation().one("Deployment", "vllm-rightsizer-webhook")
    deployment["metadata"]["namespace"] = namespaces[-1]
    return {CONFIGURATIONS: configurations, OF_ONE.format(namespaces[-1]): [deployment] if runs else []}


def test_maps_of_a_silent_pod_are_read_whose_page_nobody_may_ask_for(tmp_path: Path) -> None:
    """Its engine is an init container."""
    pod, said = vllm_pod(), recommendation()
    spec = pod["spec"]
    [engine] = spec["containers"]
    spec["containers"] = [{"name": "main", "image": "main"}]
    source = {"envFrom": [{"configMapRef": {"name": "plugins"}}]}
    spec["initContainers"] = [{**engine, **source, "restartPolicy": "Always"}]
    pod["status"]["initContainerStatuses"] = pod["status"].pop("containerStatuses")
    said["status"]["conditions"][0] |= {"status": "False", "reason": "ScrapeFailed"}
    there: dict[str, list[Raw] | Raw] = {
        "/api/v1/pods": [pod],
        "/apis/vllm-rightsizer.io/v1alpha1/vllmrecommendations": [said],
        "/api/v1/namespaces/chat/configmaps/plugins": {"data": {"VLLM_PLUGINS": "lora", "OTHER": "x"}},
    }
    with cluster(tmp_path, denied=("/proxy/metrics",), held=there) as kubeconfig:
        facts = gathered(kubeconfig)
    assert [one.name for one in facts.pods.injected] == [POD]
    assert facts.environments == {("chat", "plugins"): {"VLLM_PLUGINS": "lora"}}


def test_an_api_server_that_says_nothing_at_all(tmp_path: Path) -> None:
    with cluster(tmp_path, "/") as kubeconfig, pytest.raises(UserError, match="cannot be reached"):
        gathered(kubeconfig)


def test_certificates_are_judged_by_the_clock_of_the_api_server(tmp_path: Path) -> None:
    with cluster(tmp_path) as kubeconfig:
        facts = gathered(kubeconfig)
    assert abs(facts.now - datetime.now(UTC) - AHEAD) < timedelta(hours=1)


def test_what_the_webhook_says_of_the_pod_that_was_tried() -> None:
    metadata = {"annotations": {ANNOTATION_SKIPPED: "no plugin: why"}, "creationTimestamp": "2026-11-21T12:00:00Z"}
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert probe_of("chat", {"metadata": metadata}) == Probe("chat", left_out="no plugin: why", at=at)


MOUNTED = {"configMap": {"name": "plugin-1", "optional": True}}


@pytest.mark.parametrize(
    ("volume", "begun", "probe"),
    [
        (MOUNTED, (), Probe("chat", marked=True, plugin_map="plugin-1")),
        ({"image": {"reference": "injector"}}, (), Probe("chat", marked=True)),
        ({"emptyDir": {}}, ({"name": INIT_CONTAINER},), Probe("chat", marked=True)),
        # Of what an API server does not know it leaves nothing.
        ({"emptyDir": {}}, ({"name": "other"},), Probe("chat", marked=True, lost=True)),
        (None, (), Probe("chat", marked=True, lost=True)),
    ],
)
def test_where_the_plugin_comes_from_in_the_pod_that_was_tried(
    volume: Raw | None, begun: tuple[Raw, ...], probe: Probe
) -> None:
    volumes = [{"name": "shm", "emptyDir": {}}] + ([{"name": PLUGIN_VOLUME, **volume}] if volume is not None else [])
    made = {"metadata": {"labels": {LABEL_INJECTED: "true"}}, "spec": {"volumes": volumes, "initContainers": [*begun]}}
    assert probe_of("chat", made) == probe


@pytest.mark.parametrize("ours", [True, False])
def test_a_pod_that_is_refused_is_tried_without_us(tmp_path: Path, ours: bool) -> None:
    with cluster(tmp_path, refuses=lambda said: not (ours and ANNOTATION_EXCLUDE in said)) as kubeconfig:
        probe = gathered(kubeconfig).probe
    refused = "a vLLM pod could not be tried there: a volume is forbidden"
    assert probe == Probe("chat", refused=refused, taken_without_us=ours)


@pytest.mark.parametrize(
    ("former", "own", "ours"), [("Ignore", "Ignore", True), ("Ignore", "Fail", False), ("Fail", "Ignore", False)]
)
def test_a_webhook_that_fails_closed_may_itself_be_why_a_pod_is_refused(
    tmp_path: Path, former: str, own: str, ours: bool
) -> None:
    """No webhook of ours is asked about the second pod: what it adds may be well."""
    there = held("former", "ours", runs=True)
    for raw, policy in zip(there[CONFIGURATIONS], (former, own), strict=True):
        raw["webhooks"][0]["failurePolicy"] = policy
    with cluster(tmp_path, held=there, refuses=lambda said: ANNOTATION_EXCLUDE not in said) as kubeconfig:
        probe = gathered(kubeconfig).probe
    refused = "a vLLM pod could not be tried there: a volume is forbidden"
    assert probe == Probe("chat", refused=refused, taken_without_us=ours)


def test_a_pod_that_is_refused_once_met_a_bad_moment(tmp_path: Path) -> None:
    bad = [True]
    with cluster(tmp_path, refuses=lambda _said: bool(bad) and bad.pop()) as kubeconfig:
        probe = gathered(kubeconfig).probe
    assert probe is not None
    assert (probe.refused, probe.taken_without_us) == (None, False)
