"""Which pods reach our webhook under the configuration that is shipped, and what becomes of them."""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.lab.client import StatusError
from bench.lab.webhook import MANIFESTS, Webhook, allow
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_EXCLUDE, ANNOTATION_ORIGINAL_ARGS, LABEL_INJECT
from webhook.injection import PLUGIN_VOLUME

from .pods import (
    AUTOMATED,
    CONTAINER,
    FLAGS,
    OPTED_IN,
    PATIENCE_SECONDS,
    Raw,
    args_of,
    injected,
    recommend,
    tried,
    vllm_pod,
    without_server_fields,
)

LLAMA = WorkloadRef("", "Pod", "llama")


def _created(webhook: Webhook, namespace: str, pod: Raw) -> Raw:
    return webhook.plane.client.create(f"/api/v1/namespaces/{namespace}/pods", pod)


def _calls(webhook: Webhook) -> float:
    """Reviews that the process has answered."""
    name = "vllm_rightsizer_webhook_request_seconds_count"
    lines = webhook.http("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_only_opted_in_namespaces(webhook: Webhook) -> None:
    plane = webhook.plane
    assert injected(tried(webhook.plane, plane.namespace("scope-in", OPTED_IN), vllm_pod()))
    before = _calls(webhook)
    for name, labels in (("scope-out", {}), ("scope-other", {LABEL_INJECT: "disabled"})):
        assert not injected(tried(webhook.plane, plane.namespace(name, labels), vllm_pod()))
    assert _calls(webhook) == before


@pytest.mark.parametrize("namespace", ["kube-system", "kube-node-lease", "vllm-rightsizer"])
def test_never_the_systems_namespaces(webhook: Webhook, namespace: str) -> None:
    plane, client = webhook.plane, webhook.plane.client

    def label(value: str | None) -> None:
        """The API server hears of labels in their order: when it knows that of `default`, it knows the other, too."""
        for labelled in (namespace, "default"):
            client.patch(f"/api/v1/namespaces/{labelled}", {"metadata": {"labels": {LABEL_INJECT: value}}})
        plane.wait_for(lambda: injected(tried(plane, "default", vllm_pod())) is (value is not None), "label")

    for each in (namespace, "default"):
        with contextlib.suppress(StatusError):
            client.create(f"/api/v1/namespaces/{each}/serviceaccounts", {"metadata": {"name": "default"}})
    try:
        label(OPTED_IN[LABEL_INJECT])
        before = _calls(webhook)
        pod = vllm_pod()
        # Our own namespace takes no other pods.
        pod["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        pod["spec"]["containers"][0]["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not injected(tried(plane, namespace, pod))
        assert _calls(webhook) == before
    finally:
        label(None)


@pytest.mark.parametrize("value", ["true", "1", "yes", "on", " True ", "YES"])
def test_an_excluded_pod_is_not_even_sent(webhook: Webhook, value: str) -> None:
    namespace = _once(webhook, "scope-excluded")
    before = _calls(webhook)
    pod = vllm_pod(annotations={ANNOTATION_EXCLUDE: value})
    assert not injected(tried(webhook.plane, namespace, pod))
    assert _calls(webhook) == before


@pytest.mark.parametrize("value", ["false", "0", "", "perhaps"])
def test_other_values_exclude_nothing(webhook: Webhook, value: str) -> None:
    namespace = _once(webhook, "scope-excluded")
    assert injected(tried(webhook.plane, namespace, vllm_pod(annotations={ANNOTATION_EXCLUDE: value})))


def test_mirror_pods_are_not_sent(webhook: Webhook) -> None:
    namespace = _once(webhook, "scope-mirror")
    before = _calls(webhook)
    pod = vllm_pod(annotations={"kubernetes.io/config.mirror": "0123"})
    pod["spec"]["nodeName"] = "node"
    assert not injected(tried(webhook.plane, namespace, pod))
    assert _calls(webhook) == before


def test_a_pod_of_something_else_stays_as_it_is(webhook: Webhook) -> None:
    pod = vllm_pod()
    pod["spec"]["containers"][0] |= {"image": "nginx:1.29", "args": ["nginx"], "resources": {}}
    stored = tried(webhook.plane, _once(webhook, "scope-nginx"), pod)
    untouched = tried(webhook.plane, _once(webhook, "scope-nginx-out", opted_in=False), pod)
    assert without_server_fields(stored) == without_server_fields(untouched)


def test_what_is_recommended_is_what_starts(webhook: Webhook) -> None:
    namespace = webhook.plane.namespace("scope-applied", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    recommend(webhook.plane, namespace, LLAMA, pod)
    stored = _created(webhook, namespace, pod)
    assert args_of(stored) == [*args_of(pod), *FLAGS]
    annotations = stored["metadata"]["annotations"]
    assert "--kv-cache-memory-bytes" in annotations[ANNOTATION_APPLIED]
    assert "--max-model-len=8192" in annotations[ANNOTATION_ORIGINAL_ARGS]
    # Excluded again, the next one is as the user wrote it.
    pod["metadata"]["annotations"] = AUTOMATED | {ANNOTATION_EXCLUDE: "true"}
    webhook.plane.client.delete(f"/api/v1/namespaces/{namespace}/pods/llama", gracePeriodSeconds="0")
    stored = _created(webhook, namespace, pod)
    assert args_of(stored) == args_of(pod)
    assert not injected(stored)


def test_a_dry_run_shows_the_pod_and_leaves_nothing(webhook: Webhook) -> None:
    client = webhook.plane.client
    namespace = webhook.plane.namespace("scope-dry-run", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    recommend(webhook.plane, namespace, LLAMA, pod)
    before = {kind: client.get(path)["items"] for kind, path in _everything(namespace).items()}
    shown = tried(webhook.plane, namespace, pod)
    assert args_of(shown)[-2:] == FLAGS
    assert {kind: client.get(path)["items"] for kind, path in _everything(namespace).items()} == before
    stored = _created(webhook, namespace, pod)
    assert without_server_fields(stored) == without_server_fields(shown)


def test_what_we_do_not_know_survives(webhook: Webhook) -> None:
    """A pod with much that our code never looks at differs from the one in another namespace by our additions only."""
    pod = _pod_of_many_fields()
    outside = without_server_fields(tried(webhook.plane, _once(webhook, "scope-rich-out", opted_in=False), pod))
    inside = without_server_fields(tried(webhook.plane, _once(webhook, "scope-rich"), pod))
    assert injected(inside)
    assert inside != outside
    assert _without_ours(inside) == outside


def test_without_the_webhook_pods_start_as_they_were_written(webhook: Webhook) -> None:
    namespace = _once(webhook, "scope-down")
    webhook.stop()
    try:
        stored = tried(webhook.plane, namespace, vllm_pod())
    finally:
        webhook.start()
    assert not injected(stored)
    assert injected(tried(webhook.plane, namespace, vllm_pod()))


def test_a_webhook_that_never_answers_is_not_waited_for(webhook: Webhook) -> None:
    namespace, plane = _once(webhook, "scope-hangs"), webhook.plane
    plane.client.apply_files(MANIFESTS / "webhook-configuration.yaml")
    webhook.stop()

    def soon_admitted() -> bool:
        """Two seconds are allowed; an API server that has not heard of that yet waits ten times as long."""
        started = time.monotonic()
        assert not injected(tried(plane, namespace, vllm_pod()))
        return time.monotonic() - started < PATIENCE_SECONDS / 2

    try:
        with _silence(webhook):
            plane.wait_for(soon_admitted, "pod without the webhook's answer")
    finally:
        allow(plane, PATIENCE_SECONDS)
        webhook.start()


def test_an_authority_that_somebody_overwrote_is_published_again(webhook: Webhook) -> None:
    namespace = _once(webhook, "scope-stranger")
    known = webhook.published()
    webhook.publish(webhook.plane.ca_file.read_bytes())
    webhook.plane.wait_for(lambda: webhook.published() == known, "authority of the webhook")
    webhook.plane.wait_for(lambda: injected(tried(webhook.plane, namespace, vllm_pod())), "call of the webhook")


def test_the_api_server_comes_back(webhook: Webhook) -> None:
    namespace = webhook.plane.namespace("scope-restart", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    webhook.plane.restart_api_server()
    webhook.plane.wait_for(lambda: injected(tried(webhook.plane, namespace, pod)), "call of the webhook")
    # What is said after the restart is heard, too.
    recommend(webhook.plane, namespace, LLAMA, pod)


def _once(webhook: Webhook, name: str, *, opted_in: bool = True) -> str:
    """The namespace `name`, made by the first test that wants it."""
    with contextlib.suppress(StatusError):
        webhook.plane.namespace(name, OPTED_IN if opted_in else {})
    return name


def _everything(namespace: str) -> dict[str, str]:
    kinds = ("pods", "configmaps", "secrets", "events", "serviceaccounts")
    return {kind: f"/api/v1/namespaces/{namespace}/{kind}" for kind in kinds}


@contextlib.contextmanager
def _silence(webhook: Webhook) -> Iterator[None]:
    """Something that takes connections where the webhook should be, and says nothing."""
    kept: list[socket.socket] = []
    with socket.create_server((webhook.address, webhook.port)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listening.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


def _pod_of_many_fields() -> Raw:
    pod = vllm_pod(
        labels={"team": "search"}, annotations={"example.test/note": "ü ☃"}, finalizers=["example.test/wait"]
    )
    pod["spec"] |= {
        "hostUsers": False,
        "schedulingGates": [{"name": "example.test/gate"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"team": "search"}},
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["models"]}],
        "readinessGates": [{"conditionType": "example.test/warm"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "securityContext": {"fsGroup": 1000, "supplementalGroupsPolicy": "Merge", "seLinuxOptions": {"level": "s0"}},
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "trust", "projected": {"sources": [{"clusterTrustBundle": {"name": "all", "path": "ca.pem"}}]}},
        ],
        "initContainers": [
            {"name": "fetch", "image": "example.test/fetch", "args": ["model"]},
            {"name": "proxy", "image": "example.test/proxy", "restartPolicy": "Always"},
        ],
    }
    pod["spec"]["containers"][0] |= {
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token", "optional": True}}},
            {"name": "EMPTY", "value": ""},
        ],
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}, "stopSignal": "SIGTERM"},
        "startupProbe": {"grpc": {"port": 9000, "service": "llm"}, "failureThreshold": 120},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm", "recursiveReadOnly": "Disabled", "readOnly": False}],
        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP", "hostIP": "127.0.0.1"}],
    }
    pod["spec"]["os"] = {"name": "linux"}
    pod["spec"]["containers"].append({"name": "metrics", "image": "example.test/exporter"})
    return pod


def _without_ours(pod: Raw) -> Raw:
    """`pod` less what the webhook adds, by the names that it uses."""
    kept = copy.deepcopy(pod)
    metadata = kept["metadata"]
    for key in ("labels", "annotations"):
        metadata[key] = {
            name: value for name, value in metadata[key].items() if not name.startswith("vllm-rightsizer.io/")
        }
    [container] = [found for found in kept["spec"]["containers"] if found["name"] == CONTAINER]
    own = ("PYTHONPATH", "VLLM_RIGHTSIZER_")
    container["env"] = [entry for entry in container["env"] if not entry["name"].startswith(own)]
    for part, at in ((container, "volumeMounts"), (kept["spec"], "volumes")):
        part[at] = [entry for entry in part[at] if not entry["name"].startswith(PLUGIN_VOLUME.rpartition("-")[0])]
    container["ports"] = [entry for entry in container["ports"] if entry["name"] != "rightsizer"]
    return kept
