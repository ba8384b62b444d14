"""cert-manager itself, its controller and its injector, in the place of our own certificates."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bench.lab.chart import CHART, Helm
from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import folder_with, start
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program
from webhook.pairs import read_bundle

from .replicas import Installation, Load, Replica

pytestmark = pytest.mark.e2e

TIMES = (3600.0, 3600.0, 1.0)
"""Of certificates of our own, of which there are none here."""
SKEW_SECONDS = 5.0
CONTROLLERS = (
    "issuers,certificates-issuing,certificates-key-manager,certificates-metrics,certificates-readiness,"
    "certificates-request-manager,certificates-revision-manager,certificates-trigger,certificaterequests-approver,"
    "certificaterequests-issuer-ca,certificaterequests-issuer-selfsigned"
)
KINDS = "cert-manager.io/v1"


@pytest.fixture(scope="module")
def cert_manager(
    request: pytest.FixtureRequest, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """Its custom resources, its controller and its injector."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        binaries = folder_with("cert-manager-controller", "cert-manager-cainjector", "helm")
    folder = tmp_path_factory.mktemp("cert-manager")
    definitions = [definition for file in sorted(binaries.glob("crd-*.yaml")) for definition in documents(file)]
    for definition in definitions:
        # They are parts of a chart, whose words stand in the labels.
        del definition["metadata"]["labels"]
    crds.define(*definitions)
    [metrics] = free_ports(1)
    common = [f"--kubeconfig={crds.kubeconfig}", "--leader-elect=false"]
    programs: list[Program] = []
    try:
        options = [*common, f"--controllers={CONTROLLERS}", f"--metrics-listen-address=127.0.0.1:{metrics}"]
        programs.append(start(binaries / "cert-manager-controller", options, folder))
        programs.append(start(binaries / "cert-manager-cainjector", common, folder))
        yield crds
    finally:
        for program in programs:
            program.stop()


class Kubelet(threading.Thread):
    """Keeps a Secret's files in a folder, as the kubelet does for a volume of it."""

    def __init__(self, plane: ControlPlane, path: str, folder: Path) -> None:
        super().__init__(daemon=True)
        self._client = plane.admin_client()
        self._path, self._folder = path, folder
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.2):
            found = self._client.http.get(self._path)
            data = found.json().get("data") if found.status_code == 200 else None
            for name, value in (data or {}).items():
                content = base64.b64decode(value)
                if not (self._folder / name).exists() or (self._folder / name).read_bytes() != content:
                    (self._folder / name).write_bytes(content)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture(params=[("root",), ("root", "between")], ids=["of-a-root", "of-an-intermediate"])
def installation(
    request: pytest.FixtureRequest, cert_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Authorities of cert-manager's, a certificate of the last one for our Service, and a configuration that asks for
    it."""
    authorities: tuple[str, ...] = request.param
    space = f"cert-manager-of-{authorities[-1]}"
    made = Installation(cert_manager, space, tmp_path_factory.mktemp(space))
    client = cert_manager.client

    def make(kind: str, name: str, spec: dict[str, Any]) -> None:
        client.apply({"apiVersion": KINDS, "kind": kind, "metadata": {"name": name, "namespace": space}, "spec": spec})

    make("Issuer", "self-signed", {"selfSigned": {}})
    for issuer, name in pairwise(("self-signed", *authorities)):
        authority = {"isCA": True, "commonName": f"{name} of {space}", "secretName": name}
        make("Certificate", name, authority | {"issuerRef": {"name": issuer}})
        make("Issuer", name, {"ca": {"secretName": name}})
    hosts = [f"{space}.{space}.svc", f"{space}.{space}.svc.cluster.local"]
    make("Certificate", space, {"secretName": "served", "dnsNames": hosts, "issuerRef": {"name": authorities[-1]}})
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{space}"
    client.patch(path, {"metadata": {"annotations": {"cert-manager.io/inject-ca-from": f"{space}/{space}"}}})
    try:
        yield made
    finally:
        made.stop()


def _secret(installation: Installation, name: str) -> dict[str, bytes]:
    data = installation.plane.client.get(f"/api/v1/namespaces/{installation.name}/secrets/{name}")["data"]
    return {key: base64.b64decode(value) for key, value in data.items()}


def _leaf(installation: Installation) -> x509.Certificate:
    return read_bundle(_secret(installation, "served")["tls.crt"])[0]


@pytest.fixture(scope="module")
def reader(cert_manager: ControlPlane) -> Path:
    """A user who may read what the webhook follows, and write nothing: neither Secrets nor configurations."""
    plane = cert_manager
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "watch"]}]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    plane.client.create(f"{rbac}/clusterroles", {"metadata": {"name": "only-reads"}, "rules": rules})
    plane.client.create(
        f"{rbac}/clusterrolebindings",
        {
            "metadata": {"name": "only-reads"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "only-reads"},
            "subjects": [{"kind": "User", "name": "only-reads", "apiGroup": "rbac.authorization.k8s.io"}],
        },
    )
    return plane.kubeconfig_of("only-reads", plane.user("only-reads"))


def test_cert_manager_issues_renews_and_injects(installation: Installation, reader: Path, tmp_path: Path) -> None:
    """No pod misses the plugin while the leaf is renewed, and nothing of it is written by the webhook."""
    plane = installation.plane
    kubelet = Kubelet(plane, f"/api/v1/namespaces/{installation.name}/secrets/served", tmp_path)
    kubelet.start()
    times = (*TIMES, SKEW_SECONDS)
    replica: Replica = installation.start(tls_dir=tmp_path, times=times, kubeconfig=reader)
    installation.ready(replica)
    first = _leaf(installation)
    assert replica.presented(installation.published()) == first
    assert installation.published() == _secret(installation, "served")["ca.crt"]
    with Load(installation) as load:
        _renew(plane, installation.name)
        plane.wait_for(lambda: _leaf(installation) != first, "second leaf")
        renewed = _leaf(installation)
        plane.wait_for(lambda: replica.presented(installation.published()) == renewed, "leaf being served")
        # An API server whose clock is behind would have refused it before.
        assert datetime.now(UTC) - renewed.not_valid_before_utc >= timedelta(seconds=SKEW_SECONDS)
        load.goes_on()
    assert load.seen[False] == 0, load.seen
    kubelet.stop()


def _renew(plane: ControlPlane, name: str) -> None:
    """As `cmctl renew` does, in the namespace of that name."""
    path = f"/apis/{KINDS}/namespaces/{name}/certificates/{name}"

    def issued() -> bool:
        conditions = plane.client.get(path).get("status", {}).get("conditions", ())
        return [(one["type"], one["status"]) for one in conditions] == [("Ready", "True")]

    # The Secret is written first.
    plane.wait_for(issued, "end of the first issuance")
    condition = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "by hand",
        "lastTransitionTime": "2026-11-01T12:00:00Z",
    }
    patch = [{"op": "add", "path": "/status/conditions/-", "value": condition}]
    plane.client.patch(f"{path}/status", patch, "json")


@pytest.mark.parametrize("issuer", [{}, {"kind": "Issuer", "name": "of-others"}], ids=["own", "of-others"])
def test_by_the_chart(cert_manager: ControlPlane, tmp_path: Path, issuer: dict[str, str]) -> None:
    """What the chart asks for is made and published, and an upgrade leaves it alone."""
    client, name = cert_manager.client, f"chart-{'others' if issuer else 'own'}"
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    values = {
        "fullnameOverride": name,
        "webhook": {"certManager": {"enabled": True, "issuerRef": issuer}},
        "clusterAutomation": {"create": False},
        "policies": {"default": None},
        "crds": {"apply": False},
    }

    def published() -> list[x509.Certificate]:
        [webhook] = client.get(path)["webhooks"]
        return list(read_bundle(base64.b64decode(webhook["clientConfig"].get("caBundle", ""))))

    helm = Helm(tmp_path, cert_manager.kubeconfig)
    cert_manager.namespace(name)
    if issuer:
        metadata = {"name": issuer["name"], "namespace": name}
        client.apply({"apiVersion": KINDS, "kind": "Issuer", "metadata": metadata, "spec": {"selfSigned": {}}})
    where = (name, str(CHART), f"--namespace={name}", "--skip-crds")
    helm("install", *where, values=values)
    try:
        secret = f"/api/v1/namespaces/{name}/secrets/{name}-webhook-served"
        cert_manager.wait_for(lambda: cert_manager.exists(secret) and published(), "certificate")
        [leaf, *_] = read_bundle(base64.b64decode(client.get(secret)["data"]["tls.crt"]))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{name}-webhook.{name}.svc"]
        [authority] = published()
        leaf.verify_directly_issued_by(authority)
        helm("upgrade", *where, values=values | {"image": {"tag": "0.1.1"}})
        assert published() == [authority]
    finally:
        helm("uninstall", name, f"--namespace={name}")
