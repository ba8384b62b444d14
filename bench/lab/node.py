"""One real node on this machine: containerd, kubelet and kube-proxy, as root; and how nothing of it is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.lab.control_plane import API_SERVICE, POD_ADDRESSES, ControlPlane
from bench.lab.debian import missing_after_install
from bench.lab.images import image
from bench.lab.leftovers import Leftovers, pods_of_others, quietly, rules
from bench.lab.programs import LabError, folder_with, start
from vllm_rightsizer.demo.processes import Program

ADDRESS = "10.88.0.1"
"""The node's, on the loopback device: nothing that is sent there leaves the machine, and kubelet takes no 127.x."""
NAME = "lab"
BRIDGE = "vllmrs0"
PAUSE = "lab.invalid/pause:1"
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "busybox": "busybox-static",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""What of Debian a node needs: a program, or a file, and the package that has it."""
_STATE = Path("/run/vllm-rightsizer-lab")
_OVERLAY = """
place=$(mktemp -d)
mkdir "$place/lower" "$place/upper" "$place/work" "$place/all"
said=$(mount -t overlay overlay -o "lowerdir=$place/lower,upperdir=$place/upper,workdir=$place/work" "$place/all" 2>&1)
refused=$?
[ $refused != 0 ] || umount "$place/all"
rm -rf "$place"
echo "$said" >&2
exit $refused"""
_PROBES = {
    "a namespace of its own": ["unshare", "--net", "--mount", "--pid", "--fork", "true"],
    "the kernel's overlay file system": ["unshare", "--mount", "sh", "-c", _OVERLAY],
    # By a name that no other run has, and none that was killed.
    "a bridge": ["sh", "-c", "ip link add vllmrs$$ type bridge && ip link delete vllmrs$$"],
    "a table of iptables": ["iptables", "--table", "nat", "--list-rules"],
    "a control group that can be written": ["sh", "-c", "test -w /sys/fs/cgroup || test -w /sys/fs/cgroup/memory"],
}
"""What a node does, and what shows that it may."""


def missing_for_a_node() -> str | None:
    """What this machine lacks and cannot be given; None where a node can run here. Installs Debian's packages."""
    if os.geteuid() != 0:
        return "a node needs root: containers are made by it"
    if pods_of_others(_STATE):
        return "another node runs pods on this machine, and a second one would end them: use that by its KUBECONFIG"
    return missing_after_install(PACKAGES, _PROBES)


class Node:
    """Everything lies in `folder`, but for what the kernel holds; `stop` takes all of it away again."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        """Start the three, and wait until the node is ready. Raises `LabError` with the log's end where it does not
        become so. The address must be there: see `address`."""
        self._plane = plane
        self._folder = folder
        self._socket = _STATE / "containerd.sock"
        self._programs: list[Program] = []
        self._leftovers = Leftovers.looked(_STATE, folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start_containerd()
            self.load(_pause_image(folder / "pause.tar"))
            self._start_kubelet()
            self._start_proxy()
            plane.wait_for(self._ready, "ready node", self._programs[1])
            plane.wait_for(_leads_to_the_api_server, "rule of kube-proxy for the API server", self._programs[2])
        except BaseException:
            self.stop()
            raise

    def load(self, archive: Path) -> None:
        """Make an image known, by the name that it carries."""
        self.ctr("images", "import", str(archive))

    def ctr(self, *arguments: str) -> str:
        """What containerd's own client says."""
        command = ["ctr", f"--address={self._socket}", "--namespace=k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout

    def stop(self) -> None:
        """End everything that was started, pods too, and take away what is left in the kernel."""
        # kubelet first: it would start again what ends.
        for program in self._programs[:0:-1]:
            program.stop()
        if self._programs:
            self._remove_containers()
            self._programs[0].stop()
        self._programs.clear()
        self._leftovers.remove(BRIDGE)

    def _start_containerd(self) -> None:
        _write(
            self._folder / "cni" / "10-lab.conflist",
            {
                "cniVersion": "0.4.0",
                "name": "lab",
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": BRIDGE,
                        "isGateway": True,
                        "ipMasq": False,
                        "hairpinMode": True,
                        "ipam": {
                            "type": "host-local",
                            "ranges": [[{"subnet": POD_ADDRESSES.replace("0.0/16", "0.0/24")}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            },
        )
        config = self._folder / "containerd.toml"
        config.write_text(
            f"""version = 2
root = "{self._folder}/containerd"
state = "{_STATE}/state"
oom_score = 0
[grpc]
address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self._folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
path = "{self._folder}/opt"
"""
        )
        program = self._start(Path(shutil.which("containerd") or "containerd"), [f"--config={config}"])
        self._plane.wait_for(self._containerd_answers, "containerd", program)

    def _containerd_answers(self) -> bool:
        try:
            return bool(self.ctr("version"))
        except LabError:
            return False

    def _start_kubelet(self) -> None:
        name = f"system:node:{NAME}"
        serving = self._plane.serving_certificate("kubelet", ADDRESS, NAME)
        config = _write(
            self._folder / "kubelet.json",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": ADDRESS,
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(self._plane.ca_file)},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": str(serving.certificate),
                "tlsPrivateKeyFile": str(serving.key),
                "containerRuntimeEndpoint": f"unix://{self._socket}",
                "cgroupDriver": "cgroupfs",
                "failCgroupV1": False,
                "failSwapOn": False,
                "enforceNodeAllocatable": [],
                "healthzPort": 0,
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "evictionHard": {"memory.available": "50Mi", "nodefs.available": "500Mi", "imagefs.available": "500Mi"},
                "maxPods": 110,
                "volumePluginDir": str(self._folder / "volume-plugins"),
                "resolvConf": "/etc/resolv.conf",
                "podLogsDir": str(self._folder / "pod-logs"),
                # What is mounted into a pod is there at once, and a changed ConfigMap soon.
                "syncFrequency": "10s",
            },
        )
        self._start(
            folder_with("kubelet") / "kubelet",
            [
                f"--config={config}",
                f"--kubeconfig={self._plane.kubeconfig_of(name, self._plane.user(name, 'system:nodes'))}",
                f"--root-dir={self._folder / 'kubelet'}",
                f"--hostname-override={NAME}",
                f"--node-ip={ADDRESS}",
            ],
        )

    def _start_proxy(self) -> None:
        name = "system:kube-proxy"
        config = _write(
            self._folder / "kube-proxy.json",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "bindAddress": ADDRESS,
                "healthzBindAddress": "",
                "metricsBindAddress": "",
                "clientConnection": {"kubeconfig": str(self._plane.kubeconfig_of(name, self._plane.user(name)))},
                "clusterCIDR": POD_ADDRESSES,
                "hostnameOverride": NAME,
                "mode": "iptables",
                "conntrack": {"maxPerCore": 0, "min": None},
                "iptables": {"minSyncPeriod": "0s", "syncPeriod": "10s"},
            },
        )
        self._start(folder_with("kube-proxy") / "kube-proxy", [f"--config={config}"])

    def _start(self, binary: Path, arguments: list[str]) -> Program:
        program = start(binary, arguments, self._folder)
        self._programs.append(program)
        return program

    def _ready(self) -> bool:
        if not self._plane.exists(f"/api/v1/nodes/{NAME}"):
            return False
        status = self._plane.client.get(f"/api/v1/nodes/{NAME}").get("status", {})
        return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))

    def _remove_containers(self) -> None:
        with contextlib.suppress(LabError):
            for container in self.ctr("containers", "ls", "--quiet").split():
                # Some have ended already.
                with contextlib.suppress(LabError):
                    self.ctr("tasks", "kill", "--signal=SIGKILL", "--all", container)
            for container in self.ctr("containers", "ls", "--quiet").split():
                # Once its processes have ended, which this waits for.
                with contextlib.suppress(LabError):
                    self.ctr("tasks", "delete", "--force", container)
                with contextlib.suppress(LabError):
                    self.ctr("containers", "delete", container)


@contextlib.contextmanager
def the_only_node() -> Iterator[bool]:
    """For the length of the block no other process has a node on this machine. Raises `LabError` where one has.

    What one has left that was killed is taken away first; whether there was such a one.
    """
    with socket.socket(socket.AF_UNIX) as held:
        try:
            # In no file system: it goes with the process that holds it.
            held.bind(f"\0{_STATE.name}")
        except OSError as error:
            raise LabError("another lab runs on this machine: use it by its KUBECONFIG, or end it first") from error
        yield _remove_abandoned()


def _remove_abandoned() -> bool:
    """Take away what a node left whose process was killed; whether there was anything."""
    found = Leftovers.abandoned(_STATE)
    if found is None:
        return False
    found.remove(BRIDGE)
    quietly("ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo")
    return True


@contextlib.contextmanager
def address() -> Iterator[str]:
    """The node's address, for the length of the block: it must be there before anything is bound to it."""
    quietly("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")
    try:
        yield ADDRESS
    finally:
        quietly("ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo")


def _leads_to_the_api_server() -> bool:
    leading = [rule for rule in rules("iptables", "nat") if rule.startswith("-A KUBE-SERVICES ")]
    return any(f" {API_SERVICE}/32 " in rule for rule in leading)


def _pause_image(file: Path) -> Path:
    """What holds a pod's network: a program that sleeps."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").resolve()
    # Whichever of Debian's two this machine has: one of them brings no libraries, and needs none.
    listed = subprocess.run(["ldd", str(busybox)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    libraries = {word: Path(word).resolve() for word in listed.split() if word.startswith("/")}
    return image(file, PAUSE, {"/bin/busybox": busybox} | libraries, ["/bin/busybox", "sleep", "2147483647"])


def _write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file
