"""How faults are made on the lab, and what `doctor` says of them: run as a user runs it, and so are its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT
from bench.lab.vllm_pods import IMAGE
from vllm_plugin.names import ANNOTATION_CONTAINER

from .lab_cluster import PATIENCE_SECONDS, wait_for
from .pages import reader

TEAM = "team-doctor"
"""Has opted in."""
_OF_NODE = {"usr": "/usr", "alternatives": "/etc/alternatives"}
"""Where its programs are, and which of several of one name it has chosen."""
Harm = Callable[[Kubectl], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`harm` makes it for the length of a block. Then the first finding comes to be `finding`, its fix to contain
    `fix`, and what was seen `seen`. `mends`: after the fix, run as it is printed, nothing is found any more; otherwise
    it only shows something, and what is to be done is for people."""

    harm: Harm
    finding: str
    seen: str
    fix: str
    mends: bool = True

    def __str__(self) -> str:
        return self.harm.__name__

    def tried(self, kubectl: Kubectl) -> None:
        """The installation is well afterwards, or the test fails."""
        with self.harm(kubectl):
            found = first(kubectl, self.finding, self.seen, self.fix)
            run(kubectl, found["fix"], may_find_nothing=not self.mends)
            if self.mends:
                wait_until_well(kubectl)
        if not self.mends:
            wait_until_well(kubectl)


def examined(kubectl: Kubectl, *options: str) -> tuple[int, list[Raw]]:
    """The exit code, and the findings."""
    command = ["vllm-rightsizer", "doctor", "--output=json", *options]
    done = subprocess.run(command, env=reader(kubectl), capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: list[Raw] = json.loads(done.stdout)["findings"]
    return done.returncode, found


def first(kubectl: Kubectl, name: str, seen: str, fix: str = "") -> Raw:
    """The first finding, as soon as it is as it is to be. What was done a moment ago is not everywhere at once: a pod
    that is on its way, or a probe that a busy machine has kept waiting, is a finding, too, and rightly so."""
    last: list[Raw] = []

    def look() -> bool:
        code, last[:] = examined(kubectl)
        assert bool(last) == (code == 1)
        return bool(last) and last[0]["name"] == name and seen in last[0]["seen"] and fix in last[0]["fix"]

    _wait_for(look, f"{name} as the first finding", last)
    return last[0]


def _wait_for(look: Callable[[], bool], what: str, last: list[Raw]) -> None:
    """`last` are the findings of the last look."""
    try:
        wait_for(look, what)
    except AssertionError as error:
        raise AssertionError(f"{error}: {json.dumps(last, indent=1)}") from error


def run(kubectl: Kubectl, fix: str, *, may_find_nothing: bool = False) -> None:
    """A finding's command, as it is printed; `may_find_nothing`: it only looks, and grep says so by its exit code."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", fix],
        cwd=ROOT,
        env=reader(kubectl),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    allowed = (0, 1) if may_find_nothing and "| grep" in fix else (0,)
    assert done.returncode in allowed, f"{fix}\n{done.stdout}{done.stderr}"


def wait_until_well(kubectl: Kubectl, *options: str) -> None:
    last: list[Raw] = []

    def look() -> bool:
        code, last[:] = examined(kubectl, *options)
        return (code, last) == (0, [])

    _wait_for(look, "an installation without findings", last)


def pod(name: str, spec: Raw, namespace: str = TEAM) -> Raw:
    # Whatever its command line seems to be.
    settled = {ANNOTATION_CONTAINER: "vllm"}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": settled}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def idle(code: str = "", options: tuple[str, ...] = (), **container: object) -> Raw:
    """A pod's spec in place of vLLM's, for what is not about vLLM: it starts at once, runs `code`, and stays.

    Python and the checkout are those of this machine, as in `bench.lab.vllm_pods`.
    """
    mounts = {"usr": Path("/usr"), "python": Path(sys.base_prefix), "venv": Path(sys.prefix), "checkout": ROOT}
    mounts = {name: path for name, path in mounts.items() if name == "usr" or not path.is_relative_to("/usr")}
    if Path(sys.prefix).is_relative_to(ROOT):
        del mounts["venv"]
    made = {
        "name": "vllm",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [sys.executable, *options, "-c", f"{code}\nimport time\ntime.sleep(3600)"],
        "volumeMounts": [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in mounts.items()],
        **container,
    }
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounts.items()]
    return {"containers": [made], "volumes": volumes, "terminationGracePeriodSeconds": 1}


@contextmanager
def there(kubectl: Kubectl, *objects: Raw) -> Iterator[None]:
    """These objects for the length of the block; pods of them run."""
    kubectl.apply(*objects)
    try:
        for one in objects:
            if one["kind"] == "Pod":
                wait_for(lambda one=one: _runs(kubectl, one), f"pod {one['metadata']['name']}")
        yield
    finally:
        for one in reversed(objects):
            metadata = one["metadata"]
            where = [f"--namespace={metadata['namespace']}"] if metadata.get("namespace") else []
            kubectl("delete", *where, f"{one['kind'].lower()}/{metadata['name']}", "--ignore-not-found")


def _runs(kubectl: Kubectl, wanted: Raw) -> bool:
    found = kubectl.get(f"--namespace={wanted['metadata']['namespace']}", "pod", wanted["metadata"]["name"])
    states = found["status"].get("containerStatuses") or ()
    return bool(states) and all(one["ready"] for one in states)


def patched(kubectl: Kubectl, what: str, *operations: Raw, namespace: str = "") -> None:
    """A JSON patch of `what`, which is a kind and a name with a slash between."""
    where = [f"--namespace={namespace}"] if namespace else []
    kubectl("patch", *where, what, "--type=json", f"--patch={json.dumps(operations)}")


def on_node(kubectl: Kubectl, name: str, script: str) -> None:
    """Run a script as root of the node, as a network's agent or an administrator can: by a privileged pod."""
    container = {
        "name": "node",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/bash", "-ec", script],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True} for name, path in _OF_NODE.items()],
    }
    spec = {
        "hostPID": True,
        "hostNetwork": True,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in _OF_NODE.items()],
    }
    where = "--namespace=kube-system"
    metadata = {"name": name, "namespace": "kube-system"}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    try:
        wait_for(lambda: kubectl.get(where, "pod", name)["status"]["phase"] in ("Succeeded", "Failed"), name)
        phase = kubectl.get(where, "pod", name)["status"]["phase"]
        assert phase == "Succeeded", kubectl("logs", where, name)
    finally:
        kubectl("delete", where, f"pod/{name}", "--grace-period=0", "--force", "--ignore-not-found")
