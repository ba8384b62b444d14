"""A cluster on which Helm installs: a control plane of its own, and what a kubelet would do for the chart's Jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.lab.chart import CHART
from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import NAMESPACE
from vllm_plugin.names import VERSION

Raw = dict[str, Any]

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class JobKubelet(threading.Thread):
    """Runs the pods of Jobs as processes of this machine: the program of this checkout, with the pod's own arguments,
    as the pod's service account. Everything else stays pending, as without any node.

    `ran` has what each of them printed, by its arguments.
    """

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        super().__init__(daemon=True)
        self.ran: dict[str, str] = {}
        self._plane, self._folder = plane, folder
        self._client = plane.admin_client()
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.2):
            found = self._client.http.get(
                _PODS, params={"labelSelector": "job-name", "fieldSelector": "status.phase=Pending"}
            )
            for pod in found.json().get("items") or () if found.status_code == 200 else ():
                self._finish(pod)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _finish(self, pod: Raw) -> None:
        [container] = pod["spec"]["containers"]
        kubeconfig = account_config(self._plane, pod["spec"]["serviceAccountName"], self._folder)
        done = subprocess.run(
            [sys.executable, "-m", "vllm_rightsizer", *container["args"]],
            env=os.environ | {"KUBECONFIG": str(kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        self.ran[" ".join(container["args"])] = done.stderr
        ended = {"terminated": {"exitCode": done.returncode, "reason": "Error" if done.returncode else "Completed"}}
        status = {
            "phase": "Failed" if done.returncode else "Succeeded",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": "",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": ended,
                }
            ],
        }
        # The Job may have been deleted meanwhile.
        self._client.http.patch(
            f"{_PODS}/{pod['metadata']['name']}/status",
            content=json.dumps({"status": status}),
            headers={"Content-Type": "application/strategic-merge-patch+json"},
        )


def account_config(plane: ControlPlane, account: str, folder: Path) -> Path:
    """A kubeconfig by which a service account of the release reaches the API server."""
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    token = plane.admin_client().create(path, {"spec": {"expirationSeconds": 600}})["status"]["token"]
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = folder / f"{account}.kubeconfig"
    file.write_text(json.dumps(config))
    return file


def older_chart(folder: Path) -> Path:
    """The chart as a release before this one may have been: another version, and policies without a loss budget."""
    made = folder / "older"
    shutil.copytree(CHART, made)
    text = (made / "Chart.yaml").read_text()
    (made / "Chart.yaml").write_text(text.replace(f"ersion: {VERSION}", "ersion: 0.0.9"))
    file = made / "crds" / "vllmpolicies.yaml"
    yaml = YAML()
    definition = yaml.load(file)
    del definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["lossBudget"]
    yaml.dump(definition, file)
    return made


def first_deleted_at(plane: ControlPlane, path: str, since: str) -> int:
    """When, in the order of the whole cluster, the first object of a collection was deleted after the version `since`;
    waited for."""
    query = {"watch": "true", "resourceVersion": since, "timeoutSeconds": "120"}
    with plane.client.http.stream("GET", path, params=query, timeout=150) as answer:
        for event in map(json.loads, answer.iter_lines()):
            if event["type"] == "DELETED":
                return int(event["object"]["metadata"]["resourceVersion"])
    raise AssertionError(f"nothing was deleted from {path}")
