"""Our webhook as a process, behind its Service, as the API server calls it."""

from __future__ import annotations

import base64
import socket
import ssl
import sys
import time
from pathlib import Path

import httpx

from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT, LabError, start
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

MANIFESTS = ROOT / "deploy" / "kubernetes"
NAMESPACE = "vllm-rightsizer"
SERVICE = "vllm-rightsizer-webhook"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/vllm-rightsizer"
_UP_SECONDS = 180.0


def own_address() -> str:
    """An address of this machine that is not loopback: endpoints of a Service take no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only says by which address it would.
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            raise LabError("this machine has no address but loopback, and a Service needs one") from error
        return str(probe.getsockname()[0])


def install(plane: ControlPlane) -> None:
    """The namespace, the rights, the Service and the configuration, as they are shipped."""
    for name in ("namespace", "webhook-rbac", "recommender-rbac", "webhook-service", "webhook-configuration"):
        plane.client.apply_files(MANIFESTS / f"{name}.yaml")


def allow(plane: ControlPlane, seconds: int) -> None:
    """Have the API server wait so long for the webhook's answer."""
    patch = [{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": seconds}]
    plane.client.patch(CONFIGURATION, patch, "json")


class Webhook:
    """One replica of `vllm-rightsizer webhook`, with the rights that are shipped. It publishes its own authority.

    `options` are added to its command line.
    """

    def __init__(self, plane: ControlPlane, folder: Path, *options: str, name: str = "webhook") -> None:
        self.plane = plane
        self.name = name
        self.address = own_address()
        [self.port] = free_ports(1, self.address)
        self.options = options
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        account = f"system:serviceaccount:{NAMESPACE}:{SERVICE}"
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")
        self._kubeconfig = plane.kubeconfig_of(account, plane.user(account, *groups))
        self._program: Program | None = None

    @property
    def pid(self) -> int:
        if self._program is None:
            raise LabError("the webhook does not run")
        return self._program.pid

    def start(self) -> None:
        """Until it is ready and called. Raises `LabError` with the end of its log where it does not become so."""
        program = self.launch()
        deadline = time.monotonic() + _UP_SECONDS
        while not self.ready():
            if program.exit_code() is not None or time.monotonic() > deadline:
                why = f"{program.log} ends with\n{program.tail()}"
                raise LabError(f"the webhook is not ready ({self._trouble()}); {why}")
            time.sleep(0.05)
        self._serve_the_service(True)

    def launch(self) -> Program:
        """Start it, and do not wait."""
        arguments = ["-m", "vllm_rightsizer", "webhook", f"--host={self.address}", f"--port={self.port}"]
        arguments += [f"--kubeconfig={self._kubeconfig}", f"--namespace={NAMESPACE}", "--drain-seconds=0"]
        self._program = start(Path(sys.executable), [*arguments, *self.options], self._folder)
        return self._program

    def stop(self) -> None:
        """It is asked to end; its address stays behind the Service, where nobody answers then."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def leave(self) -> None:
        """Its address goes from behind the Service."""
        self._serve_the_service(False)

    def come_back(self) -> None:
        """It stands there again."""
        self._serve_the_service(True)

    def ready(self) -> bool:
        try:
            return self.http("/readyz").status_code == 200
        except (httpx.TransportError, KeyError, ValueError):
            return False

    def http(self, path: str) -> httpx.Response:
        """What the process answers on `path`, to one who believes only the published authority."""
        context = ssl.create_default_context(cadata=self.published().decode())
        url = f"https://{self.address}:{self.port}{path}"
        return httpx.get(url, verify=context, trust_env=False, timeout=30)

    def _trouble(self) -> str:
        """What the process itself says, whatever its certificate is."""
        try:
            url = f"https://{self.address}:{self.port}/readyz"
            return httpx.get(url, verify=False, trust_env=False, timeout=5).text.strip()
        except httpx.TransportError as error:
            return str(error)

    def published(self) -> bytes:
        """The authorities that the API server believes, as PEM. Raises KeyError where there are none yet."""
        [found] = self.plane.client.get(CONFIGURATION)["webhooks"]
        return base64.b64decode(found["clientConfig"]["caBundle"])

    def publish(self, authorities: bytes) -> None:
        """Have the API server believe others, as somebody might by mistake."""
        bundle = base64.b64encode(authorities).decode()
        patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        self.plane.client.patch(CONFIGURATION, patch, "json")

    def _serve_the_service(self, served: bool) -> None:
        endpoints = [{"addresses": [self.address], "conditions": {"ready": True}}] if served else []
        self.plane.client.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{SERVICE}-{self.name}",
                    "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": SERVICE},
                },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}],
            }
        )
