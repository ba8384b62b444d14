"""What an installation costs a cluster: `python -m bench.cluster [--json]`, on a real one with one node, as root.

From `helm install` to the first pod that the webhook has changed; and what the control plane takes while nothing
happens. One JSON object a figure; ends with 1 where one misses its target, with 2 where no node runs here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.figures import Figure
from bench.lab.client import Raw
from bench.lab.cluster import running
from bench.lab.kubectl import Kubectl
from bench.lab.node import NAME
from bench.lab.programs import ROOT, LabError, folder_with
from bench.lab.vllm_pods import vllm_pod
from vllm_plugin.names import LABEL_INJECT, LABEL_INJECTED

RELEASE = "vllm-rightsizer"
_SETTLE_SECONDS = 60.0
_IDLE_SECONDS = 120.0
_POLL_SECONDS = 0.1
_INSTALLATIONS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    missed = False
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as name:
        try:
            for figure in _figures(Path(name)):
                missed |= figure.ok is False
                about = figure.as_json()
                print(json.dumps(about) if options.json else "  ".join(map(str, about.values())), flush=True)
        except LabError as error:
            print(f"bench.cluster: {error}", file=sys.stderr)
            return 2
    return 1 if missed else 0


def _figures(scratch: Path) -> Iterator[Figure]:
    with running(scratch / "cluster") as cluster:
        cluster.load_images()
        kubectl = Kubectl(folder_with("kubectl", "helm"), cluster.plane.kubeconfig, scratch)
        kubectl.namespace("vllm", {LABEL_INJECT: "enabled"})
        took = []
        for number in range(_INSTALLATIONS):
            if number:
                kubectl.helm("uninstall", RELEASE, f"--namespace={RELEASE}", "--wait")
            took.append(_first_pod_seconds(kubectl, scratch / "model"))
        yield Figure("install_to_first_pod_seconds", max(took), "s", len(took), 30.0, notes="the slowest")
        time.sleep(_SETTLE_SECONDS)
        before, began = _control_plane(kubectl), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        after, passed = _control_plane(kubectl), time.monotonic() - began
        memory = sum(pod["memory"]["workingSetBytes"] for pod in after) / (1 << 20)
        yield Figure(
            "idle_memory_mib", memory, "MiB", len(after), 250.0, notes="all pods of the control plane together"
        )
        yield Figure(
            "idle_core_share", (_processor(after) - _processor(before)) / passed, "of a core", len(after), 0.02
        )


def _first_pod_seconds(kubectl: Kubectl, model: Path) -> float:
    """From the command until a pod is admitted with the plugin in it; dry runs ask for it."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vllm", "namespace": "vllm"},
        "spec": vllm_pod(model),
    }
    began = time.monotonic()
    kubectl.helm(
        *("install", RELEASE, str(ROOT / "deploy" / "chart"), f"--namespace={RELEASE}", "--create-namespace"),
        *("--set=image.pullPolicy=Never", "--set=recommender.persistence.enabled=false", "--timeout=120s"),
    )
    while True:
        said = json.loads(kubectl("create", "--dry-run=server", "--output=json", "--filename=-", given=pod))
        if LABEL_INJECTED in said["metadata"].get("labels", {}):
            return time.monotonic() - began
        if time.monotonic() - began > 120:
            raise LabError("no pod was admitted with the plugin within 120 s of the installation")
        time.sleep(_POLL_SECONDS)


def _control_plane(kubectl: Kubectl) -> list[Raw]:
    """What kubelet measures of each of our pods."""
    summary = json.loads(kubectl("get", "--raw", f"/api/v1/nodes/{NAME}/proxy/stats/summary"))
    return [pod for pod in summary["pods"] if pod["podRef"]["namespace"] == RELEASE]


def _processor(pods: Sequence[Raw]) -> float:
    """Seconds of a core so far."""
    return sum(float(pod["cpu"]["usageCoreNanoSeconds"]) for pod in pods) / 1e9


if __name__ == "__main__":
    sys.exit(main())
