"""What a platform engineer does on the first day, on real pods: the tests follow each other, as the steps do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.vllm_pods import PORT, vllm_pod
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_EXCLUDE, LABEL_INJECT, LABEL_INJECTED
from vllm_rightsizer.demo import pattern
from vllm_rightsizer.demo.load import send

from .lab_cluster import NAMESPACE, PLUGIN_PORT, Installed, annotations, is_ready, labels, wait_for

CHAT = "team-chat"
OTHERS = "team-others"
OPTED_IN = {LABEL_INJECT: "enabled"}
START_SECONDS = 400.0
REQUESTS = 700
SIZES = ("--gpu-memory-utilization=0.3", "--max-model-len=2048")


def workload(kind: str, namespace: str, name: str, spec: Raw, annotations: dict[str, str] | None = None) -> Raw:
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


@pytest.fixture(scope="module")
def model(kubectl: Kubectl) -> Path:
    return kubectl.scratch / "model"


@pytest.fixture(scope="module")
def chat(installed: Installed, model: Path) -> Iterator[str]:
    """A namespace that has opted in, with a Deployment of real vLLM; its name."""
    kubectl = installed.kubectl
    kubectl.namespace(CHAT, OPTED_IN)
    wait_for(lambda: kubectl.items(f"--namespace={CHAT}", "configmaps", "-l", "app.kubernetes.io/managed-by"), "plugin")
    kubectl.apply(workload("Deployment", CHAT, "chat", vllm_pod(model, *SIZES)))
    yield "chat"
    kubectl("delete", "namespace", CHAT, "--wait=false")


def pods_of(kubectl: Kubectl, namespace: str, app: str) -> list[Raw]:
    return kubectl.items(f"--namespace={namespace}", "pods", f"--selector=app={app}")


def ready_pod(kubectl: Kubectl, namespace: str, app: str) -> Raw:
    return wait_for(
        lambda: next(filter(is_ready, pods_of(kubectl, namespace, app)), None), f"ready {app}", START_SECONDS
    )


def new_pod(kubectl: Kubectl, namespace: str, app: str, old: Raw) -> Raw:
    """The pod that came in place of another."""
    return wait_for(
        lambda: next(
            (pod for pod in pods_of(kubectl, namespace, app) if pod["metadata"]["uid"] != old["metadata"]["uid"]), None
        ),
        f"another {app}",
    )


def capacity(pod: Raw) -> int:
    """Bytes of the KV pool, as the plugin in the pod says."""
    page = httpx.get(f"http://{pod['status']['podIP']}:{PLUGIN_PORT}/metrics", trust_env=False).text
    [line] = [line for line in page.splitlines() if line.startswith("vllm_rightsizer_kv_cache_capacity_bytes{")]
    return int(line.split()[-1])


def recommendation(kubectl: Kubectl, namespace: str, workload_name: str) -> Raw | None:
    found = kubectl.items(f"--namespace={namespace}", "vllmrec")
    return next((one for one in found if one["spec"]["targetRef"]["name"] == workload_name), None)


def target(kubectl: Kubectl) -> Raw | None:
    found = recommendation(kubectl, CHAT, "chat")
    status: Raw = (found or {}).get("status", {})
    enough = (status.get("measured") or {}).get("requests", 0) >= REQUESTS
    sized: Raw | None = status.get("target") if enough else None
    return sized


def test_first_pod_is_admitted_soon_after_the_install(installed: Installed, chat: str) -> None:
    [pod] = wait_for(lambda: pods_of(installed.kubectl, CHAT, chat), "a pod")
    assert labels(pod)[LABEL_INJECTED] == "true"


def test_measured_pod_is_recommended_a_size(installed: Installed, chat: str) -> None:
    kubectl = installed.kubectl
    pod = ready_pod(kubectl, CHAT, chat)
    requests = pattern.generate(pattern.DEMO, 1)[:REQUESTS]
    # What it counts from is there.
    wait_for(lambda: ((recommendation(kubectl, CHAT, chat) or {}).get("status") or {}).get("measured"), "a first look")
    send(f"http://{pod['status']['podIP']}:{PORT}", "tiny", requests, lambda: None)
    found = wait_for(lambda: target(kubectl), "a recommendation")
    assert 0 < found["kvBytes"] < capacity(pod)
    shown = kubectl("get", "vllmrec", f"--namespace={CHAT}")
    assert "chat" in shown
    assert str(found["kvBytes"])[:3] in shown


def test_next_pod_runs_with_the_recommendation_and_serves(installed: Installed, chat: str) -> None:
    kubectl = installed.kubectl
    before = ready_pod(kubectl, CHAT, chat)
    kubectl("rollout", "restart", f"--namespace={CHAT}", "deployment/chat")
    admitted = new_pod(kubectl, CHAT, chat, before)
    pod = ready_pod(kubectl, CHAT, chat)
    assert pod["metadata"]["uid"] == admitted["metadata"]["uid"]
    # In whole blocks, which are smaller than a hundredth of it.
    assert capacity(pod) == pytest.approx(applied_bytes(admitted), rel=0.01)
    assert capacity(pod) < capacity_of_its_own_arguments(kubectl)
    answered = send(f"http://{pod['status']['podIP']}:{PORT}", "tiny", pattern.generate(pattern.DEMO, 2)[:20], _nothing)
    assert answered.requests == 20


def test_killed_recommender_goes_on_with_its_history(installed: Installed, chat: str) -> None:
    kubectl = installed.kubectl
    ready_pod(kubectl, CHAT, chat)
    wait_for(lambda: target(kubectl), "a recommendation")
    kubectl("delete", "pod", f"--namespace={NAMESPACE}", "-l", "app.kubernetes.io/component=recommender", "--force")
    wait_for(
        lambda: any(map(is_ready, kubectl.items(f"--namespace={NAMESPACE}", "pods", "-l", _RECOMMENDER))),
        "another recommender",
    )
    # All requests are still known, those before its death too: a target that is made from fewer does not count.
    after = wait_for(lambda: target(kubectl), "the recommendation")
    assert after["kvBytes"] < capacity_of_its_own_arguments(kubectl)


def test_who_is_left_alone(installed: Installed, model: Path) -> None:
    """Pods are looked at as they are admitted: that says it, none of them has to start."""
    kubectl = installed.kubectl
    kubectl.namespace(OTHERS)
    kubectl.namespace(f"{OTHERS}-in", OPTED_IN)
    spec = vllm_pod(model, *SIZES) | {"nodeSelector": {"nowhere": "true"}}
    plain = {"containers": [{"name": "web", "image": "nginx"}], "nodeSelector": {"nowhere": "true"}}
    inside = f"{OTHERS}-in"
    kubectl.apply(
        workload("Deployment", OTHERS, "opted-out", spec),
        workload("Deployment", inside, "excluded", spec, {ANNOTATION_EXCLUDE: "true"}),
        workload("Deployment", inside, "web", plain),
        workload("StatefulSet", inside, "stateful", spec),
    )
    assert LABEL_INJECTED not in labels(_pod(kubectl, OTHERS, "opted-out"))
    assert LABEL_INJECTED not in labels(_pod(kubectl, inside, "excluded"))
    assert LABEL_INJECTED not in labels(_pod(kubectl, inside, "web"))
    assert labels(_pod(kubectl, inside, "stateful"))[LABEL_INJECTED] == "true"


def test_without_webhook_pods_start_unmodified(installed: Installed, model: Path) -> None:
    kubectl = installed.kubectl
    kubectl("scale", f"--namespace={NAMESPACE}", "deployment", "-l", _WEBHOOK, "--replicas=0")
    wait_for(lambda: not kubectl.items(f"--namespace={NAMESPACE}", "pods", "-l", _WEBHOOK), "no webhook")
    name = kubectl.namespace("team-late", OPTED_IN)
    spec = vllm_pod(model, *SIZES) | {"nodeSelector": {"nowhere": "true"}}
    kubectl.apply(workload("Deployment", name, "late", spec))
    assert LABEL_INJECTED not in labels(_pod(kubectl, name, "late"))
    kubectl("scale", f"--namespace={NAMESPACE}", "deployment", "-l", _WEBHOOK, "--replicas=2")
    wait_for(
        lambda: sum(map(is_ready, kubectl.items(f"--namespace={NAMESPACE}", "pods", "-l", _WEBHOOK))) == 2, "webhook"
    )
    kubectl("delete", "pod", f"--namespace={name}", "--selector=app=late")
    wait_for(lambda: LABEL_INJECTED in labels(_pod(kubectl, name, "late")), "the plugin in the next pod")


def test_uninstall_leaves_nothing_that_blocks_pods(installed: Installed, model: Path) -> None:
    kubectl = installed.kubectl
    kubectl.run(*installed.uninstall_command)
    assert not kubectl.items("mutatingwebhookconfigurations")
    assert kubectl.items("customresourcedefinitions")
    spec = vllm_pod(model, *SIZES) | {"nodeSelector": {"nowhere": "true"}}
    name = kubectl.namespace("team-after", OPTED_IN)
    kubectl.apply(workload("Deployment", name, "after", spec))
    assert LABEL_INJECTED not in labels(_pod(kubectl, name, "after"))


_RECOMMENDER = "app.kubernetes.io/component=recommender"
_WEBHOOK = "app.kubernetes.io/component=webhook"


def capacity_of_its_own_arguments(kubectl: Kubectl) -> int:
    status = (recommendation(kubectl, CHAT, "chat") or {})["status"]
    return next(int(bound["kvBytes"]) for bound in status["bounds"] if bound["name"] == "pool")


def applied_bytes(pod: Raw) -> int:
    """Of the KV pool, as the webhook has written them."""
    [written] = json.loads(annotations(pod)[ANNOTATION_APPLIED]).values()
    [found] = [one for one in written if one.startswith(("VLLM_RIGHTSIZER_KV_BYTES=", "--kv-cache-memory-bytes="))]
    return int(found.partition("=")[2])


def _pod(kubectl: Kubectl, namespace: str, app: str) -> Raw:
    return wait_for(lambda: next(iter(pods_of(kubectl, namespace, app)), None), f"a pod of {app}")


def _nothing() -> None:
    return None
