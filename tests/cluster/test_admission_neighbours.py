"""Our webhook among others that change the same pods, called before or after it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from bench.lab.webhook import Webhook
from recommender.api.workloads import WorkloadRef

from .neighbours import Change, neighbour
from .pods import (
    AUTOMATED,
    CONTAINER,
    FLAGS,
    OPTED_IN,
    Raw,
    args_of,
    injected,
    recommend,
    vllm_pod,
    without_server_fields,
)

LLAMA = WorkloadRef("", "Pod", "llama")
FIRST, LAST = "a-neighbour", "z-neighbour"
"""Before and after `vllm-rightsizer`."""


def _adds_a_sidecar(pod: Raw) -> list[Raw]:
    """In front of all others, so that every index moves."""
    if any(container["name"] == "proxy" for container in pod["spec"]["containers"]):
        return []
    return [{"op": "add", "path": "/spec/containers/0", "value": {"name": "proxy", "image": "example.test/proxy"}}]


def _adds_an_argument(pod: Raw) -> list[Raw]:
    """At the end of the list, behind what is there."""
    [(at, args)] = [
        (at, container["args"])
        for at, container in enumerate(pod["spec"]["containers"])
        if container["name"] == CONTAINER
    ]
    if "--enable-log-requests" in args:
        return []
    return [{"op": "add", "path": f"/spec/containers/{at}/args/-", "value": "--enable-log-requests"}]


def _adds_an_init_container_and_a_variable(pod: Raw) -> list[Raw]:
    if pod["spec"].get("initContainers"):
        return []
    return [
        {"op": "add", "path": "/spec/initContainers", "value": [{"name": "setup", "image": "example.test/setup"}]},
        {
            "op": "add",
            "path": "/spec/containers/0/env",
            "value": [
                {"name": "PYTHONPATH", "value": "/opt/theirs"},
                *(entry for entry in pod["spec"]["containers"][0].get("env", ()) if entry["name"] != "PYTHONPATH"),
            ],
        },
    ]


@pytest.mark.parametrize("reinvocation", ["Never", "IfNeeded"])
@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize("change", [_adds_a_sidecar, _adds_an_argument, _adds_an_init_container_and_a_variable])
def test_in_whatever_order_they_are_called(
    webhook: Webhook, tmp_path: Path, change: Change, name: str, reinvocation: str
) -> None:
    plane = webhook.plane
    namespace = f"{change.__name__.strip('_').replace('_', '-')[:30]}-{name[0]}-{reinvocation.lower()}"
    pods = f"/api/v1/namespaces/{plane.namespace(namespace, OPTED_IN)}/pods"
    pod = vllm_pod(annotations=AUTOMATED)
    # The recommendation was made for a pod that ran, as both webhooks left it.
    ran = copy.deepcopy(pod)
    if change is _adds_an_argument:
        ran["spec"]["containers"][0]["args"].append("--enable-log-requests")
    recommend(plane, namespace, LLAMA, ran)
    with neighbour(plane, tmp_path, name, namespace, change, reinvocation) as seen:
        plane.wait_for(lambda: plane.client.create(pods, pod, dryRun="All") and seen, "call of the neighbour")
        seen.clear()
        stored = plane.client.create(pods, pod)
    assert injected(stored)
    assert args_of(stored) == [*args_of(ran), *FLAGS]
    [container] = [found for found in stored["spec"]["containers"] if found["name"] == CONTAINER]
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    [path] = [entry["value"] for entry in container["env"] if entry["name"] == "PYTHONPATH"]
    assert path.startswith("/opt/theirs:") is (change is _adds_an_init_container_and_a_variable)
    assert path.endswith(".whl")
    mounts = [entry["mountPath"] for entry in container["volumeMounts"]]
    assert len(mounts) == len(set(mounts))
    assert len(seen) >= 1


def test_an_admitted_pod_is_admitted_again_unchanged(webhook: Webhook) -> None:
    plane = webhook.plane
    pods = f"/api/v1/namespaces/{plane.namespace('again', OPTED_IN)}/pods"
    pod = vllm_pod(annotations=AUTOMATED)
    recommend(plane, "again", LLAMA, pod)
    once = plane.client.create(pods, pod, dryRun="All")
    assert args_of(once)[-2:] == FLAGS
    twice = plane.client.create(pods, without_server_fields(once) | {"metadata": _named(once)}, dryRun="All")
    assert without_server_fields(twice) == without_server_fields(once)


def _named(pod: Raw) -> Raw:
    return {key: pod["metadata"][key] for key in ("name", "labels", "annotations")}
