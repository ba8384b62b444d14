"""How the tests of the lab speak with a cluster: with the programs that its users have."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import httpx

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT, LabError
from bench.lab.vllm_pods import PORT
from vllm_rightsizer.demo import pattern
from vllm_rightsizer.demo.load import send

from .pages import Page

RELEASE = NAMESPACE = "vllm-rightsizer"
PLUGIN_PORT = 9415
QUICK_START = "docs/quick-start.md"
CHAT, NAME = "chat", "llama-3-8b"
"""The namespace and the Deployment of all pages."""
SIZES = ("--gpu-memory-utilization=0.3", "--max-model-len=2048")
START_SECONDS = 900.0
"""Until a vLLM is ready; where two start beside everything else, each takes minutes."""
PATIENCE_SECONDS = 300.0
"""Until anything else is as it is to be: pods, what the recommender writes, what doctor says."""
REQUESTS = 700
"""With them more tokens were looked up than the pool holds."""
LATER = 400
"""Of these, too, a size can be made; they come to the same pod."""
RECOMMENDER = "app.kubernetes.io/component=recommender"
WEBHOOK = "app.kubernetes.io/component=webhook"
FIGURES: list[str] = []
"""What was measured on the way; shown when all tests are done."""
_Found = TypeVar("_Found")


class Installed:
    """The chart as release `RELEASE`, as the quick start installs it. `began`: when that was, by `time.time`."""

    def __init__(self, kubectl: Kubectl, quick_start: Page) -> None:
        self.kubectl = kubectl
        self.began = 0.0
        self._page = quick_start

    def install(self) -> None:
        self.began = time.time()
        self._page.run("1. Install")
        FIGURES.append(f"helm install, until webhook and recommender are ready: {time.time() - self.began:.0f} s")

    @property
    def uninstall_command(self) -> list[str]:
        return [str(self.kubectl.programs / "helm"), "uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait"]

    def remove(self) -> None:
        """Take away whatever of it is still there, the definitions too."""
        subprocess.run(self.uninstall_command, env=self.kubectl.environment, check=False, capture_output=True)
        self.kubectl("delete", f"--filename={ROOT / 'deploy' / 'crds'}", "--ignore-not-found")
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


@dataclass(frozen=True)
class Measured:
    """What steps 2 and 3 of the quick start gave. `before`: the pod that ran when its namespace opted in. `pod`: the
    one after it. `shown`: of its page."""

    before: Raw
    pod: Raw
    shown: str


def wait_for(look: Callable[[], _Found], what: str, seconds: float = PATIENCE_SECONDS) -> _Found:
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


def is_untouched(pod: Raw) -> bool:
    """Whether nothing in the pod is called as the webhook calls what it adds."""
    parts = [pod["spec"], *pod["spec"]["containers"]]
    names = [one["name"] for part in parts for kind in ("volumes", "env", "ports") for one in part.get(kind, ())]
    return not any("rightsizer" in name.lower() for name in (*names, *labels(pod), *annotations(pod)))


def created(pod: Raw) -> float:
    """When, in seconds since the epoch; the API server knows whole ones."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()


def workload(kind: str, namespace: str, name: str, spec: Raw, annotations: dict[str, str] | None = None) -> Raw:
    """One replica of a pod with that spec; `annotations` are the pods'."""
    own = {"app": name}
    made: Raw = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": own, "annotations": annotations or {}}, "spec": spec},
        },
    }
    if kind == "Deployment":
        # Two engines at a time are too much for a small machine.
        made["spec"]["strategy"] = {"type": "Recreate"}
    else:
        made["spec"]["serviceName"] = name
    return made


def pods_of(kubectl: Kubectl, namespace: str, app: str) -> list[Raw]:
    return kubectl.items(f"--namespace={namespace}", "pods", f"--selector=app={app}")


def first_pod(kubectl: Kubectl, namespace: str, app: str) -> Raw:
    return wait_for(lambda: next(iter(pods_of(kubectl, namespace, app)), None), f"a pod of {app}")


def ready_pod(kubectl: Kubectl, namespace: str = CHAT, app: str = NAME) -> Raw:
    return wait_for(
        lambda: next(filter(is_ready, pods_of(kubectl, namespace, app)), None), f"ready {app}", START_SECONDS
    )


def restarted(kubectl: Kubectl) -> Raw:
    """The pod of the Deployment of all pages that comes with a rollout, as it was admitted."""
    before = {pod["metadata"]["uid"] for pod in pods_of(kubectl, CHAT, NAME)}
    kubectl("rollout", "restart", f"--namespace={CHAT}", f"deployment/{NAME}")
    return wait_for(
        lambda: next((pod for pod in pods_of(kubectl, CHAT, NAME) if pod["metadata"]["uid"] not in before), None),
        f"another {NAME}",
    )


def tried(kubectl: Kubectl, namespace: str, spec: Raw, **metadata: Any) -> Raw:
    """What a pod would be after admission; it is not made."""
    about = {"generateName": "tried-", "namespace": namespace} | metadata
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}
    made: Raw = json.loads(kubectl("create", "--dry-run=server", "--output=json", "--filename=-", given=pod))
    return made


def tried_of_deployment(kubectl: Kubectl) -> Raw:
    """What another pod of the Deployment of all pages would be."""
    sets = kubectl.items(f"--namespace={CHAT}", "replicasets", f"--selector=app={NAME}")
    owner = next(one for one in sets if one["spec"]["replicas"])
    template, own = owner["spec"]["template"], owner["metadata"]
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True}
    about = {name: template["metadata"].get(name) or {} for name in ("labels", "annotations")}
    return tried(
        kubectl,
        CHAT,
        template["spec"],
        ownerReferences=[reference | {name: own[name] for name in ("name", "uid")}],
        **about,
    )


def our_pods(kubectl: Kubectl, component: str) -> list[Raw]:
    """Those that are on their way out, too."""
    return kubectl.items(f"--namespace={NAMESPACE}", "pods", "-l", component)


def ready_pods(kubectl: Kubectl, component: str, count: int, but: Collection[str] = ()) -> list[Raw]:
    """As soon as there are so many of ours that are ready and stay; none of those with the uids `but`."""

    def look() -> list[Raw]:
        found = [pod for pod in our_pods(kubectl, component) if is_ready(pod) and pod["metadata"]["uid"] not in but]
        return found if len(found) == count else []

    return wait_for(look, f"{count} ready pods of ours, {component}")


def plugin_says(pod: Raw, metric: str) -> float:
    """A metric of the plugin in the pod, all its series together."""
    page = httpx.get(f"http://{pod['status']['podIP']}:{PLUGIN_PORT}/metrics", trust_env=False, timeout=60).text
    found = [line for line in page.splitlines() if line.startswith(f"{metric}{{")]
    assert found, f"no {metric} on\n{page}"
    return sum(float(line.split()[-1]) for line in found)


def load(pod: Raw, requests: int, seed: int) -> None:
    """Send so many requests of the demo's traffic to the pod, and wait for all answers."""
    made = pattern.generate(pattern.DEMO, seed)[:requests]
    assert send(f"http://{pod['status']['podIP']}:{PORT}", "tiny", made, lambda: None).requests == requests


def status_of(kubectl: Kubectl) -> Raw:
    """What is recommended for the Deployment of all pages, and why; empty where nothing is said yet."""
    found = kubectl.items(f"--namespace={CHAT}", "vllmrec")
    mine = next((one for one in found if one["spec"]["targetRef"]["name"] == NAME), {})
    return mine.get("status") or {}


def condition(status: Raw, type_: str) -> str:
    """`True`, `False`, or nothing where it is not said."""
    return next((one["status"] for one in status.get("conditions", ()) if one["type"] == type_), "")
