"""etcd and kube-apiserver, and kube-controller-manager where it is asked for."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx

from bench.lab.certificates import Authority, KeyPair, signing_key
from bench.lab.client import ApiClient, Raw, StatusError, documents
from bench.lab.programs import LabError, folder_with, start
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

_UP_SECONDS = 180.0
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourceclaim-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)
"""Those that make pods, what pods and namespaces need, and roles of several parts; each other would cost start-up
time."""


POD_ADDRESSES = "10.244.0.0/16"
API_SERVICE = "10.96.0.1"
"""Where pods reach the API server: the first address for Services."""


class ControlPlane:
    """A real API server on loopback, with an etcd of its own; everything lies in `folder`.

    `ca_file` signs the API server. `kubeconfig` is the admin's, `client` speaks as the admin.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1", controllers: Sequence[str] = _CONTROLLERS) -> None:
        """Start both; raises `LabError` with the log's end where one does not come up.

        `address`: where the API server listens, one that pods can reach where there are any. `controllers`: those that
        `start_controller_manager` runs.
        """
        self._binaries = folder_with("etcd", "kube-apiserver")
        self._address = address
        self._controllers = controllers
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._etcd_port, etcd_peer_port = free_ports(2)
        [self._port] = free_ports(1, address)
        self.url = f"https://{address}:{self._port}"
        self._authority = Authority(folder / "pki")
        self.ca_file = self._authority.files.certificate
        self._tokens = signing_key(folder / "pki" / "service-accounts.key")
        hosts = (address, "localhost", "kubernetes.default.svc", API_SERVICE)
        self._serving = self._authority.issue("kube-apiserver", hosts=hosts)
        self._towards_kubelets = self.user("kube-apiserver-kubelet-client", "system:masters")
        self.admin = self.user("admin", "system:masters")
        self.kubeconfig = self.kubeconfig_of("admin", self.admin)
        self.client = self.admin_client()
        self._api_server: Program | None = None
        self._controller_manager: Program | None = None
        self._etcd = start(
            self._binaries / "etcd",
            [
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{etcd_peer_port}",
                "--unsafe-no-fsync",
                "--log-level=error",
            ],
            folder,
        )
        try:
            self._start_api_server()
            # It makes its own namespaces after it says that it is ready, this one last.
            self.wait_for(lambda: self.exists("/api/v1/namespaces/kube-node-lease"), "its namespaces", self._api_server)
        except BaseException:
            self.stop()
            raise

    def user(self, name: str, *groups: str) -> KeyPair:
        """A certificate by which the API server knows user `name`."""
        return self._authority.issue(name, groups)

    def serving_certificate(self, name: str, *hosts: str) -> KeyPair:
        """A certificate by which `hosts` can be recognised."""
        return self._authority.issue(name, hosts=hosts)

    def admin_client(self) -> ApiClient:
        """Another client of the admin's, with connections of its own."""
        return ApiClient(self.url, self.ca_file, self.admin)

    def client_of(self, name: str, *groups: str) -> ApiClient:
        """A client that speaks as `name`, with what RBAC allows it."""
        return ApiClient(self.url, self.ca_file, self.user(name, *groups))

    def kubeconfig_of(self, name: str, user: KeyPair) -> Path:
        """A kubeconfig file for that user."""
        file = self._folder / f"{name.replace(':', '-')}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [
                {"name": name, "user": {"client-certificate": str(user.certificate), "client-key": str(user.key)}}
            ],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        }
        file.write_text(json.dumps(config))
        return file

    def namespace(self, name: str, labels: dict[str, str] | None = None) -> str:
        """Make a namespace in which pods can be made at once, without a controller manager too."""
        self.client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})
        with contextlib.suppress(StatusError):
            # The controller manager makes it too, where there is one.
            self.client.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        return name

    def install_crds(self, folder: Path) -> None:
        """Those in `folder`."""
        self.define(*(definition for file in sorted(folder.glob("*.yaml")) for definition in documents(file)))

    def define(self, *definitions: Raw) -> None:
        """Apply CustomResourceDefinitions, and wait until objects of their kinds can be made and followed."""
        for spec in [self.client.apply(definition)["spec"] for definition in definitions]:
            for version in spec["versions"]:
                if version["served"]:
                    self.wait_for(partial(self._serves, spec, version["name"]), spec["names"]["kind"])

    def _serves(self, definition: Raw, version: str) -> bool:
        """Objects can be read before the kind is established, and before it is listed among the group's."""
        root, plural = f"/apis/{definition['group']}/{version}", definition["names"]["plural"]
        if not self.exists(root) or not self.exists(f"{root}/{plural}"):
            return False
        if not any(listed["name"] == plural for listed in self.client.get(root)["resources"]):
            return False
        # Lists are answered while watches are still put off.
        query = {"watch": "true", "timeoutSeconds": "1"}
        with self.client.http.stream("GET", f"{root}/{plural}", params=query) as answer:
            return answer.status_code == 200

    def start_controller_manager(self) -> None:
        """Deployments, StatefulSets, Jobs and the like make pods from now on. Does nothing where it runs."""
        if self._controller_manager is not None and self._controller_manager.exit_code() is None:
            return
        name = "system:kube-controller-manager"
        config = self.kubeconfig_of(name, self.user(name))
        [port] = free_ports(1)
        self._controller_manager = start(
            folder_with("kube-controller-manager") / "kube-controller-manager",
            [
                f"--kubeconfig={config}",
                f"--service-account-private-key-file={self._tokens}",
                f"--root-ca-file={self.ca_file}",
                f"--controllers={','.join(self._controllers)}",
                f"--cluster-signing-cert-file={self.ca_file}",
                f"--cluster-signing-key-file={self._authority.files.key}",
                f"--cluster-cidr={POD_ADDRESSES}",
                "--allocate-node-cidrs=true",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                # The defaults delay the first pods by seconds.
                "--kube-api-qps=300",
                "--kube-api-burst=600",
                # A node that comes late to its turn on a busy machine is not gone, nor are its pods.
                "--node-monitor-grace-period=10m",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
            ],
            self._folder,
        )
        self.wait_for(
            lambda: self.exists("/api/v1/namespaces/default/serviceaccounts/default"),
            "the default ServiceAccount",
            self._controller_manager,
        )

    def stop_controller_manager(self) -> None:
        if self._controller_manager is not None:
            self._controller_manager.stop()
            self._controller_manager = None

    def stop_api_server(self) -> None:
        """Until `start_api_server`, nobody answers at `url`."""
        if self._api_server is not None:
            self._api_server.stop(grace_seconds=3)
            self._api_server = None

    def start_api_server(self) -> None:
        if self._api_server is None:
            self._start_api_server()

    def restart_api_server(self) -> None:
        """All connections break, watches too; what was stored is there again afterwards."""
        self.stop_api_server()
        self._start_api_server()

    def stop(self) -> None:
        """End everything; etcd last, since an API server without its etcd hangs in shutdown."""
        self.client.http.close()
        self.stop_controller_manager()
        self.stop_api_server()
        self._etcd.stop()

    def wait_for(
        self, holds: Callable[[], object], what: str, program: Program | None = None, seconds: float = _UP_SECONDS
    ) -> None:
        """Look until it holds. Raises `LabError` where it does not in that time, or the program has ended."""
        deadline = time.monotonic() + seconds
        while not holds():
            ended = program is not None and program.exit_code() is not None
            if ended or time.monotonic() > deadline:
                printed = f"; {program.log} ends with\n{program.tail()}" if program is not None else ""
                why = "its program has ended" if ended else f"waited {seconds:.0f} s"
                raise LabError(f"no {what}: {why}{printed}")
            time.sleep(0.05)

    def _start_api_server(self) -> None:
        pki = self._serving
        self._api_server = start(
            self._binaries / "kube-apiserver",
            [
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                f"--bind-address={self._address}",
                f"--advertise-address={self._address}",
                f"--secure-port={self._port}",
                f"--tls-cert-file={pki.certificate}",
                f"--tls-private-key-file={pki.key}",
                f"--client-ca-file={self.ca_file}",
                f"--kubelet-client-certificate={self._towards_kubelets.certificate}",
                f"--kubelet-client-key={self._towards_kubelets.key}",
                f"--kubelet-certificate-authority={self.ca_file}",
                # Nobody resolves the names of nodes here.
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-account-key-file={self._tokens}",
                f"--service-account-signing-key-file={self._tokens}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                # Webhooks behind a Service are called at its endpoints: there is no kube-proxy.
                "--enable-aggregator-routing=true",
                # Nothing is in flight that a load balancer would still send here.
                "--shutdown-delay-duration=0s",
            ],
            self._folder,
        )
        self.wait_for(self._ready, "API server", self._api_server)

    def _ready(self) -> bool:
        try:
            return self.client.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`."""
        try:
            self.client.get(path)
        except StatusError as error:
            # 429: the storage of a new kind is being made.
            if error.code not in (404, 429):
                raise
            return False
        return True


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """A control plane for the length of the block."""
    made = ControlPlane(folder)
    try:
        yield made
    finally:
        made.stop()
