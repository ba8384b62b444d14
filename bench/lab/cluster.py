"""A whole cluster on this machine: a control plane, one real node, and who ends it when nobody needs it any more."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.lab.base_images import our_images, own_architecture
from bench.lab.control_plane import ControlPlane
from bench.lab.node import Node, address, missing_for_a_node, the_only_node
from bench.lab.programs import LabError, folder_with, start
from bench.lab.vllm_pods import vllm_image
from vllm_rightsizer.demo.ports import free_ports

_VOLUMES = 10


class Cluster:
    """`plane` is its API server, `node` its one node."""

    def __init__(self, folder: Path, address: str) -> None:
        """Start all parts; raises `LabError` where one does not come up."""
        with contextlib.ExitStack() as undo:
            self.plane = ControlPlane(folder / "plane", address, controllers=("*",))
            undo.callback(self.plane.stop)
            self.plane.start_controller_manager()
            name = "system:kube-scheduler"
            config = self.plane.kubeconfig_of(name, self.plane.user(name))
            [port] = free_ports(1)
            scheduler = start(
                folder_with("kube-scheduler") / "kube-scheduler",
                [f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={port}"],
                folder / "plane",
            )
            undo.callback(scheduler.stop)
            self.node = Node(self.plane, folder / "node")
            undo.callback(self.node.stop)
            self._make_volumes(folder / "volumes")
            self.stop = undo.pop_all().close

    def _make_volumes(self, folder: Path) -> None:
        """Nobody provides volumes here: these are there to be claimed, each once."""
        for number in range(_VOLUMES):
            # Anybody may write there: what Kubernetes gives a pod's group of other volumes it does not give of these.
            place = folder / str(number)
            place.mkdir(parents=True)
            place.chmod(0o777)
            self.plane.client.apply(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"lab-{number}"},
                    "spec": {
                        "capacity": {"storage": "10Gi"},
                        "accessModes": ["ReadWriteOnce"],
                        "hostPath": {"path": str(place), "type": "Directory"},
                    },
                }
            )

    def load_images(self) -> None:
        """Those of the control plane and its injector, as the working tree is, and one that runs vLLM."""
        for archive in our_images(own_architecture()):
            self.node.load(archive)
        with tempfile.TemporaryDirectory() as folder:
            self.node.load(vllm_image(Path(folder, "vllm.tar")))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster for the length of the block. Raises `LabError` where this machine cannot run one; it says why."""
    lacking = missing_for_a_node()
    if lacking is not None:
        raise LabError(lacking)
    with the_only_node(), address() as own:
        made = Cluster(folder, own)
        try:
            yield made
        finally:
            made.stop()
