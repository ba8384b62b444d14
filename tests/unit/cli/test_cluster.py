"""The API server's part: admission by the real webhook, over real TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recommender.api.object_store import FileObjectStore
from recommender.api.plugin_wheel import plugin_config_map
from recommender.api.workloads import WorkloadRef, workload_of
from vllm_plugin.names import LABEL_INJECTED
from vllm_rightsizer.demo.cluster import Cluster, MutatingWebhook
from vllm_rightsizer.demo.objects import DEPLOYMENT, NAMESPACE, deployment, namespace_objects
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.services import Service, answers_http

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> FileObjectStore:
    store = FileObjectStore(tmp_path_factory.mktemp("objects"))
    for obj in (*namespace_objects(), plugin_config_map(NAMESPACE)):
        store.apply(obj)
    return store


@pytest.fixture(scope="module")
def webhook(objects: FileObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutatingWebhook]:
    folder = tmp_path_factory.mktemp("webhook")
    (port,) = free_ports(1)
    arguments = ["--objects", str(objects.folder), "--tls-dir", str(folder / "tls"), "--port", str(port)]
    service = Service("webhook", arguments, folder)
    ca_file = folder / "tls" / "ca.crt"
    try:
        service.wait_until(lambda: answers_http(f"https://127.0.0.1:{port}/readyz", ca_file))
        yield MutatingWebhook(f"https://127.0.0.1:{port}/mutate", ca_file)
    finally:
        service.stop()


def tiny_deployment(tmp_path: Path) -> dict[str, Any]:
    return deployment(tmp_path, "0.32.0", 8000, ["--gpu-memory-utilization=0.5"])


def test_a_pod_is_admitted_with_the_plugin(webhook: MutatingWebhook, objects: FileObjectStore, tmp_path: Path) -> None:
    cluster = Cluster(objects, webhook)
    admitted = cluster.admit_pod(tiny_deployment(tmp_path))
    assert admitted.patch
    assert admitted.pod["metadata"]["labels"][LABEL_INJECTED] == "true"
    assert workload_of(admitted.pod) == WorkloadRef("apps", "Deployment", DEPLOYMENT)
    created = cluster.create(admitted.pod)
    assert created["metadata"]["name"].startswith(admitted.pod["metadata"]["generateName"])
    stored = objects.get("Pod", NAMESPACE, created["metadata"]["name"])
    assert stored is not None
    assert stored["spec"] == admitted.pod["spec"]


def test_namespaces_that_have_not_opted_in_are_not_shown(webhook: MutatingWebhook, tmp_path: Path) -> None:
    admitted = Cluster(FileObjectStore(tmp_path / "objects"), webhook).admit_pod(tiny_deployment(tmp_path))
    assert admitted.patch == []
    assert LABEL_INJECTED not in admitted.pod["metadata"]["labels"]


def test_a_webhook_with_another_authority_is_ignored(
    webhook: MutatingWebhook, objects: FileObjectStore, tmp_path: Path
) -> None:
    from webhook.certificates import ensure_certificates

    stranger = MutatingWebhook(webhook.url, ensure_certificates(tmp_path / "other").ca)
    admitted = Cluster(objects, stranger).admit_pod(tiny_deployment(tmp_path))
    assert admitted.patch == []
    assert "the webhook failed and is ignored: " in admitted.warnings[0]
    assert "certificate" in admitted.warnings[0].lower()


def test_a_webhook_that_is_down_is_ignored(webhook: MutatingWebhook, objects: FileObjectStore, tmp_path: Path) -> None:
    [port] = free_ports(1)
    admitted = Cluster(objects, MutatingWebhook(f"https://127.0.0.1:{port}/mutate", webhook.ca_file)).admit_pod(
        tiny_deployment(tmp_path)
    )
    assert admitted.patch == []
    assert LABEL_INJECTED not in admitted.pod["metadata"]["labels"]
