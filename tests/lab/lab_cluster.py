"""How the tests of the lab speak with a cluster: with the programs that its users have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT, LabError

RELEASE = NAMESPACE = "vllm-rightsizer"
PLUGIN_PORT = 9415
_Found = TypeVar("_Found")


class Installed:
    """The chart as release `RELEASE`."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def install(self) -> None:
        self.kubectl.apply(_volume(self.kubectl.scratch / "history"))
        self.kubectl.helm(
            *("install", RELEASE, str(ROOT / "deploy" / "chart"), f"--namespace={NAMESPACE}", "--create-namespace"),
            *("--set=image.pullPolicy=Never", "--set=clusterAutomation.vllm.optimize=true"),
            *("--set=policies.default.observationWindow=5m", "--set=policies.default.windowCoverage=10"),
            *("--set=policies.default.minRequests=300", "--set=policies.default.verify.settle=1m"),
            *("--wait", "--timeout=120s"),
        )

    @property
    def uninstall_command(self) -> list[str]:
        return [str(self.kubectl.programs / "helm"), "uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait"]


def wait_for(look: Callable[[], _Found], what: str, seconds: float = 120.0) -> _Found:
    """What `look` finds, as soon as that is something; what fails meanwhile may succeed later."""
    deadline = time.monotonic() + seconds
    trouble = ""
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except LabError as error:
            trouble = f": {error}"
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s for {what}{trouble}")


def labels(pod: Raw) -> dict[str, Any]:
    return pod["metadata"].get("labels") or {}


def annotations(pod: Raw) -> dict[str, Any]:
    return pod["metadata"].get("annotations") or {}


def is_ready(pod: Raw) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def _volume(folder: Path) -> Raw:
    """For the recommender's history; nobody provides volumes in the lab."""
    folder.mkdir(mode=0o777, exist_ok=True)
    folder.chmod(0o777)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "vllm-rightsizer-history"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
        },
    }
