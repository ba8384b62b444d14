"""The recommender as a process on a real API server, and pods that serve a page of the plugin's on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.lab.client import StatusError, documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT, start
from recommender.api.workloads import WorkloadRef, recommendation_name
from vllm_plugin.names import API_VERSION, ENV_PORT, LABEL_INJECTED
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

from .pods import CONTAINER, OPTED_IN, template, vllm_pod
from .single_rights import holds

Raw = dict[str, Any]

NAMESPACE = "vllm-rightsizer"
ACCOUNT = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/vllm-rightsizer-recommender"
MANIFESTS = ROOT / "deploy" / "kubernetes"
HASTY = {"observationWindow": "48s", "windowCoverage": 2.5, "minRequests": 100}
"""Seconds in the place of hours: an interval is as long as a round, and a size follows from a few of them."""
RULE_OF_CLAIMS = {
    "apiGroups": ["resource.k8s.io"],
    "resources": ["resourceclaimtemplates"],
    "verbs": ["list", "watch", "create", "delete"],
}
"""What the chart adds to the rights of its defaults where GPUs are allocated by claims."""


def install(plane: ControlPlane) -> None:
    """Its rights, as they are shipped; those of the cluster hold then, which takes an API server a moment."""
    plane.client.apply_files(MANIFESTS / "namespace.yaml", MANIFESTS / "recommender-rbac.yaml")
    [rules] = [one["rules"] for one in documents(MANIFESTS / "recommender-rbac.yaml") if one["kind"] == "ClusterRole"]
    user = f"system:serviceaccount:{NAMESPACE}:vllm-rightsizer-recommender"
    plane.wait_for(lambda: holds(plane, user, rules), "rights of the recommender")


def kubeconfig(plane: ControlPlane, folder: Path, url: str | None = None) -> Path:
    """By which the recommender's own service account reaches the API server; at `url`, where one is given."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = plane.client.create(f"{ACCOUNT}/token", request)["status"]["token"]
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    if url is not None:
        config["clusters"][0]["cluster"] = {"server": url}
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    return file


def install_claims(plane: ControlPlane) -> None:
    """And that rule."""
    group, name = "rbac.authorization.k8s.io", "vllm-rightsizer-recommender-claims"
    account = {"kind": "ServiceAccount", "name": "vllm-rightsizer-recommender", "namespace": NAMESPACE}
    binding = {"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}, "subjects": [account]}
    for kind, said in (("ClusterRole", {"rules": [RULE_OF_CLAIMS]}), ("ClusterRoleBinding", binding)):
        plane.client.apply({"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": name}, **said})


class RecommenderProcess:
    """`vllm-rightsizer recommender` with the rights that are shipped."""

    def __init__(self, plane: ControlPlane, folder: Path, url: str | None = None, history: Path | None = None) -> None:
        """It reaches the API server at `url`, and shares `history`, where these are given."""
        [self.port] = free_ports(1)
        self.history = history or folder / "history.db"
        self._plane = plane
        self._folder = folder
        self._kubeconfig = kubeconfig(plane, folder, url)
        self.program: Program | None = None

    def start(self, *more: str, leads: bool = True) -> None:
        """Until it is ready, and leads unless it is to stand by."""
        arguments = ["-m", "vllm_rightsizer", "recommender", f"--kubeconfig={self._kubeconfig}", "--context=lab"]
        arguments += [f"--history={self.history}", f"--port={self.port}", "--api", "--no-gpu-claims", *more]
        self.program = start(Path(sys.executable), arguments, self._folder)
        self._plane.wait_for(
            lambda: self.answer("/readyz") == "ok" and (self.leads() or not leads), "ready recommender", self.program
        )

    def stop(self) -> None:
        if self.program is not None:
            self.program.stop()
            self.program = None

    def leads(self) -> bool:
        return self.metric("vllm_rightsizer_recommender_leader ") == 1

    def log(self) -> str:
        assert self.program is not None
        return self.program.log.read_text()

    def answer(self, path: str) -> str:
        """What it says on `path`, whatever the status."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=30).text
        except httpx.TransportError as error:
            return str(error)

    def metric(self, start: str) -> float:
        """The value of the sample that begins so; 0 where there is none."""
        for line in self.answer("/metrics").splitlines():
            if line.startswith(start):
                return float(line.rpartition(" ")[2])
        return 0.0


@contextmanager
def recommending(plane: ControlPlane, folder: Path, policy: str) -> Iterator[RecommenderProcess]:
    """A recommender that runs under its shipped rights, and a hasty policy of that name."""
    install(plane)
    put_policy(plane, policy, **HASTY)
    made = RecommenderProcess(plane, folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        plane.client.http.delete(f"/apis/{API_VERSION}/vllmpolicies/{policy}")


def opted_in(plane: ControlPlane, name: str, policy: str) -> str:
    """An opted-in namespace, automated by `policy`."""
    plane.namespace(name, OPTED_IN)
    spec = {"vllmOptimize": True, "defaultVllmPolicy": policy}
    plane.client.apply(
        {"apiVersion": API_VERSION, "kind": "AutomatedNamespace", "metadata": {"name": name}, "spec": spec}
    )
    return name


def put_policy(plane: ControlPlane, name: str, **spec: Any) -> None:
    plane.client.apply({"apiVersion": API_VERSION, "kind": "VLLMPolicy", "metadata": {"name": name}, "spec": spec})


def measured_pod(port: int, name: str | None = "llama", **labels: str) -> Raw:
    """A pod as the webhook leaves it, whose plugin has its page on `port`."""
    pod = vllm_pod(name, labels={LABEL_INJECTED: "true", **labels})
    pod["spec"]["containers"][0]["env"] = [{"name": ENV_PORT, "value": str(port)}]
    return pod


def run(plane: ControlPlane, namespace: str, name: str) -> None:
    """Say of a pod what a kubelet would: that it runs, on this machine."""
    status = {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    plane.client.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status}, "strategic")


def deployed(plane: ControlPlane, namespace: str, pod: Raw) -> str:
    """A Deployment of `pod`; the name of the pod that its controllers make, which runs."""
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "llama"}}}
    labels = {"app": "llama", **(pod["metadata"].get("labels") or {})}
    spec["template"] = template(pod, **labels)
    metadata = {"name": "llama", "namespace": namespace}
    plane.client.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    pods = f"/api/v1/namespaces/{namespace}/pods"
    plane.wait_for(lambda: plane.client.get(pods)["items"], "pod of the Deployment")
    [made] = plane.client.get(pods)["items"]
    run(plane, namespace, made["metadata"]["name"])
    return str(made["metadata"]["name"])


def path_of(namespace: str, workload: WorkloadRef, container: str = CONTAINER) -> str:
    name = recommendation_name(workload, container)
    return f"/apis/{API_VERSION}/namespaces/{namespace}/vllmrecommendations/{name}"


def found(plane: ControlPlane, path: str) -> Raw:
    """The object at `path`; an empty one where there is none."""
    try:
        return plane.client.get(path)
    except StatusError as error:
        # 429: the storage of a new kind is being made.
        if error.code not in (404, 429):
            raise
        return {}


def condition(obj: Raw, type_: str) -> Raw:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == type_), {})


def told(plane: ControlPlane, namespace: str, name: str, reason: str) -> Raw:
    """The one event about the object of that name for that reason, once it is there."""

    def events() -> list[Raw]:
        return [one for one in events_of(plane, namespace, name) if one["reason"] == reason]

    plane.wait_for(events, f"event {reason}")
    [event] = events()
    return event


def events_of(plane: ControlPlane, namespace: str, name: str) -> list[Raw]:
    """What `kubectl describe` shows: it asks the core group by the object's name."""
    path = f"/api/v1/namespaces/{namespace}/events"
    return list(plane.client.get(path, fieldSelector=f"involvedObject.name={name}")["items"])
