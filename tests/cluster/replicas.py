"""Replicas of our webhook behind a Service of their own, and pods that are created meanwhile."""

from __future__ import annotations

import base64
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from bench.lab.client import ApiClient
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT
from bench.lab.webhook import own_address
from vllm_rightsizer.demo.ports import free_ports

from .pods import injected, vllm_pod

_PROGRAM = """
import sys
from datetime import timedelta
from pathlib import Path
from webhook.pairs import Lifetimes
from webhook.server import serve
from webhook.settings import ClusterSettings, WebhookSettings
host, port, name, kubeconfig, drain, tls_dir, *times = sys.argv[1:]
cluster = ClusterSettings(Path(kubeconfig), name, name, name, name, float(drain))
lifetimes = Lifetimes(*(timedelta(seconds=float(seconds)) for seconds in times))
tls = Path(tls_dir) if tls_dir else None
serve(WebhookSettings(tls_dir=tls, host=host, port=int(port), cluster=cluster), lifetimes)
"""


class Replica:
    """One process. Its log is one JSON object a line."""

    def __init__(
        self,
        installation: Installation,
        *,
        drain: float,
        tls_dir: Path | None,
        times: tuple[float, ...],
        kubeconfig: Path | None,
    ) -> None:
        self.address = own_address()
        [self.port] = free_ports(1, self.address)
        self._installation = installation
        self.log = installation.folder / f"{self.port}.log"
        config = kubeconfig or installation.plane.kubeconfig
        arguments = [self.address, self.port, installation.name, config, drain, tls_dir or ""]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, [*arguments, *times])], stderr=log, cwd=ROOT
            )

    def readiness(self) -> tuple[int, str]:
        """Status and sentence, asked as the kubelet asks: whatever the certificate. Status 0: nobody answers."""
        try:
            answer = httpx.get(
                f"https://{self.address}:{self.port}/readyz", verify=_blind(), trust_env=False, timeout=5
            )
        except httpx.TransportError as error:
            return 0, str(error)
        return answer.status_code, answer.text.strip()

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self.readiness()[0] == 200

    def presented(self, trusted: bytes | None = None) -> x509.Certificate:
        """The certificate of a new handshake; with `trusted`, by one who believes these authorities and no others."""
        context = _blind() if trusted is None else ssl.create_default_context(cadata=trusted.decode())
        name = f"{self._installation.name}.{self._installation.name}.svc"
        with (
            socket.create_connection((self.address, self.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _blind() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Installation:
    """Namespace, Service and configuration, all of one name, for pods of one namespace, beside what is shipped."""

    def __init__(self, plane: ControlPlane, name: str, folder: Path) -> None:
        self.plane, self.name, self.folder = plane, name, folder
        self.replicas: list[Replica] = []
        self._behind: set[Replica] = set()
        plane.namespace(name)
        self.pods_namespace = plane.namespace(f"{name}-pods", {"served-by": name})
        plane.client.create(
            f"/api/v1/namespaces/{name}/services",
            {"metadata": {"name": name}, "spec": {"ports": [{"name": "https", "port": 443}]}},
        )
        plane.client.apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": name},
                "webhooks": [
                    {
                        "name": "pods.vllm-rightsizer.io",
                        "clientConfig": {"service": {"namespace": name, "name": name, "path": "/mutate"}},
                        "rules": [
                            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                        ],
                        "failurePolicy": "Ignore",
                        # Whoever is gone is noticed at once; a machine that is busy is not to count as a miss.
                        "timeoutSeconds": 20,
                        "admissionReviewVersions": ["v1"],
                        "sideEffects": "None",
                        "namespaceSelector": {"matchLabels": {"served-by": name}},
                    }
                ],
            }
        )

    def start(
        self,
        *,
        drain: float = 0.0,
        tls_dir: Path | None = None,
        times: tuple[float, ...] = (),
        kubeconfig: Path | None = None,
    ) -> Replica:
        made = Replica(self, drain=drain, tls_dir=tls_dir, times=times, kubeconfig=kubeconfig)
        self.replicas.append(made)
        return made

    def stop(self) -> None:
        for replica in self.replicas:
            replica.stop()
        self.plane.client.delete(f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self.name}")

    def serve(self, *replicas: Replica) -> None:
        """These are behind the Service from now on, one EndpointSlice each, and no others."""
        # What changes and nothing else: a replica that ends does not wait for long.
        for replica in [one for one in self.replicas if (one in self._behind) != (one in replicas)]:
            endpoints = [{"addresses": [replica.address], "conditions": {"ready": True}}] if replica in replicas else []
            self.plane.client.apply(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": f"{self.name}-{replica.port}",
                        "namespace": self.name,
                        "labels": {"kubernetes.io/service-name": self.name},
                    },
                    "addressType": "IPv4",
                    "endpoints": endpoints,
                    "ports": [{"name": "https", "port": replica.port, "protocol": "TCP"}],
                }
            )
        self._behind = set(replicas)

    def ready(self, *replicas: Replica) -> None:
        """They are ready, behind the Service, and called."""
        self.plane.wait_for(lambda: all(replica.ready() for replica in replicas), "ready replica")
        self.serve(*replicas)
        self.plane.wait_for(lambda: injected(self.create(self.plane.client)), "call of the webhook")

    def create(self, client: ApiClient) -> dict[str, Any]:
        pod = vllm_pod(None, generateName="llama-")
        return client.create(f"/api/v1/namespaces/{self.pods_namespace}/pods", pod)

    def published(self) -> bytes:
        return published(self.plane.client, self.name)

    def publish(self, authorities: bytes) -> None:
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self.name}"
        bundle = base64.b64encode(authorities).decode()
        self.plane.client.patch(
            path, [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}], "json"
        )

    def secret(self) -> dict[str, bytes]:
        data = self.plane.client.get(f"/api/v1/namespaces/{self.name}/secrets/{self.name}")["data"]
        return {name: base64.b64decode(value) for name, value in data.items()}


def published(client: ApiClient, name: str) -> bytes:
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    return base64.b64decode(client.get(path)["webhooks"][0]["clientConfig"].get("caBundle") or "")


class Load:
    """Creates pods one after the other in `threads`, and counts those that came out with and without the plugin.

    A creation that fails ends the block with its error.
    """

    def __init__(self, installation: Installation, threads: int = 2) -> None:
        self._installation = installation
        self._stopped = threading.Event()
        self.seen: Counter[bool] = Counter()
        self._errors: list[Exception] = []
        plane = installation.plane
        user = plane.user("load", "system:masters")
        self._clients = [ApiClient(plane.url, plane.ca_file, user) for _ in range(threads)]
        self._threads = [threading.Thread(target=self._run, args=[client]) for client in self._clients]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread, client in zip(self._threads, self._clients, strict=True):
            thread.join()
            client.http.close()
        if self._errors:
            raise self._errors[0]

    def goes_on(self, pods: int = 50) -> None:
        """Wait for so many more."""
        wanted = self.seen.total() + pods
        self._installation.plane.wait_for(lambda: self.seen.total() >= wanted, "pods")

    def _run(self, client: ApiClient) -> None:
        while not self._stopped.is_set():
            try:
                self.seen[injected(self._installation.create(client))] += 1
            except Exception as error:
                self._errors.append(error)
                return
            time.sleep(0.01)
