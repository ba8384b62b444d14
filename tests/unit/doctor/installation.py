"""An installation as it is when all is well: the shipped manifests, and what a cluster makes of them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from bench.lab.client import documents
from bench.lab.programs import ROOT
from recommender.api.crds import definitions
from recommender.api.plugin_wheel import plugin_map_name
from recommender.api.workloads import WorkloadRef, recommendation_name
from vllm_plugin.names import API_VERSION, ENV_PORT, LABEL_INJECT, LABEL_INJECTED
from vllm_rightsizer.doctor.facts import Facts, Page, Probe
from webhook.injection import PLUGIN_VOLUME, WHEEL_PATH
from webhook.pairs import Pair, new_authority, new_leaf, pem_of

Raw = dict[str, Any]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OURS = "vllm-rightsizer"
CHAT = "chat"
POD = "llama-0"
CONTAINER = "vllm"
WORKLOAD = WorkloadRef("apps", "StatefulSet", "llama")
PORT = 9415
HOST = "vllm-rightsizer-webhook.vllm-rightsizer.svc"


@cache
def authority() -> Pair:
    return new_authority(NOW)


@cache
def leaf() -> Pair:
    return new_leaf(authority(), [HOST], NOW)


def bundle(*pairs: Pair) -> str:
    return base64.b64encode(pem_of(*(pair.certificate for pair in pairs))).decode()


@cache
def shipped() -> tuple[Raw, ...]:
    files = ("webhook-configuration", "webhook-deployment", "webhook-service", "recommender-deployment", "automation")
    return tuple(one for name in files for one in documents(ROOT / "deploy" / "kubernetes" / f"{name}.yaml"))


@cache
def served() -> tuple[Raw, ...]:
    return tuple(definitions())


class Installation:
    """Objects that a test changes before `facts` are made of them; `facts` takes what else is known."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Raw]] = {}
        for raw in shipped():
            self.add(copy.deepcopy(raw))
        # Large, and one by one replaced where a test wants others.
        self.objects["CustomResourceDefinition"] = list(served())
        self.webhook["clientConfig"]["caBundle"] = bundle(authority())
        for deployment in list(self.objects["Deployment"]):
            deployment["status"] = {"readyReplicas": deployment["spec"]["replicas"]}
            self.add(_server_pod(deployment))
        self.add(_endpoints())
        for name, labels in ((OURS, {}), (CHAT, {LABEL_INJECT: "enabled"}), ("others", {})):
            self.add({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        self.add({"kind": "Lease", "metadata": {"name": "vllm-rightsizer-recommender", "namespace": OURS}})
        self.one("Lease")["spec"] = {"holderIdentity": "one", "renewTime": "2026-11-21T12:00:00.000000Z"}
        self.add({"kind": "ConfigMap", "metadata": {"name": plugin_map_name(), "namespace": CHAT}})
        self.add(vllm_pod())
        self.add(recommendation())

    def add(self, raw: Raw) -> Raw:
        self.objects.setdefault(raw["kind"], []).append(raw)
        return raw

    def one(self, kind: str, name: str = "") -> Raw:
        return next(raw for raw in self.objects[kind] if not name or raw["metadata"]["name"] == name)

    def remove(self, kind: str, name: str = "") -> None:
        self.objects[kind].remove(self.one(kind, name))

    @property
    def webhook(self) -> Raw:
        found: Raw = self.one("MutatingWebhookConfiguration")["webhooks"][0]
        return found

    @property
    def container(self) -> Raw:
        """Of the vLLM pod."""
        found: Raw = self.one("Pod", POD)["spec"]["containers"][0]
        return found

    def condition(
        self,
        type_: str,
        status: str,
        reason: str = "Because",
        kind: str = "VLLMRecommendation",
        message: str = "as it is said",
    ) -> None:
        """Said of the first object of `kind`."""
        made = {"type": type_, "status": status, "reason": reason, "message": message}
        found = self.one(kind).setdefault("status", {}).setdefault("conditions", [])
        found[:] = [*(one for one in found if one["type"] != type_), made]

    def facts(self, **known: Any) -> Facts:
        defaults: dict[str, Any] = {
            "now": NOW,
            "probe": Probe(CHAT, marked=True),
            "pages": {(CHAT, POD, CONTAINER): Page()},
            "leaf": leaf().certificate,
            "lease_moves": True,
        }
        return Facts(namespace=OURS, objects=self.objects, **(defaults | known))


def vllm_pod(name: str = POD, namespace: str = CHAT) -> Raw:
    """As the webhook leaves it."""
    owner = {"apiVersion": "apps/v1", "kind": WORKLOAD.kind, "name": WORKLOAD.name, "controller": True, "uid": "u"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": "2026-11-21T11:00:00Z",
            "labels": {LABEL_INJECTED: "true", "app": "llama"},
            "ownerReferences": [owner],
        },
        "spec": {
            "containers": [
                {
                    "name": CONTAINER,
                    "image": "vllm/vllm-openai:v0.11.0",
                    "args": ["--model=meta-llama/Llama-3.1-8B-Instruct"],
                    "env": [{"name": ENV_PORT, "value": str(PORT)}, {"name": "PYTHONPATH", "value": WHEEL_PATH}],
                    "ports": [{"name": "rightsizer", "containerPort": PORT}],
                }
            ],
            "volumes": [{"name": PLUGIN_VOLUME, "configMap": {"name": plugin_map_name(), "optional": True}}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "containerStatuses": [{"name": CONTAINER, "ready": True, "state": {"running": {}}}],
        },
    }


def bare(pod: Raw) -> Raw:
    """As its author wrote it."""
    del pod["metadata"]["labels"][LABEL_INJECTED]
    for container in pod["spec"]["containers"]:
        container.pop("env")
    return pod


def recommendation() -> Raw:
    name = recommendation_name(WORKLOAD, CONTAINER)
    said = {"type": "PluginReporting", "status": "True", "reason": "Reporting", "message": "1 of 1 pods report"}
    return {
        "apiVersion": API_VERSION,
        "kind": "VLLMRecommendation",
        "metadata": {"name": name, "namespace": CHAT},
        "status": {"conditions": [said]},
    }


def names(found: Iterable[Any]) -> list[str]:
    return [one.name for one in found]


def _server_pod(deployment: Raw) -> Raw:
    template = deployment["spec"]["template"]
    name = f"{deployment['metadata']['name']}-abc"
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": OURS, "labels": template["metadata"]["labels"]},
        "spec": copy.deepcopy(template["spec"]),
        "status": {"phase": "Running", "containerStatuses": [{"name": "one", "ready": True, "state": {"running": {}}}]},
    }


def _endpoints() -> Raw:
    labels = {"kubernetes.io/service-name": "vllm-rightsizer-webhook"}
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": "vllm-rightsizer-webhook-x", "namespace": OURS, "labels": labels},
        "endpoints": [{"addresses": ["10.0.0.8"], "conditions": {"ready": True}}],
    }
