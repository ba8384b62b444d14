"""Faults around single pods, and what keeps the plugin from them, on a real API server: each for the length of a block.

`tests/cluster/test_doctor_gathering.py` says what the doctor is to find of each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import NAMESPACE, SERVICE, Webhook
from recommender.api.plugin_wheel import plugin_config_map, plugin_map_name
from vllm_plugin.names import API_VERSION, LABEL_INJECT
from vllm_rightsizer.doctor.probing import probe_pod
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME

from .pods import CONTAINER, OPTED_IN, injected, tried, vllm_pod

Raw = dict[str, Any]

CHAT = "chat"
"""Opted in, with the plugin's ConfigMap."""
INJECTOR = "example.test/vllm-rightsizer-injector:1"
_MAPS = f"/api/v1/namespaces/{CHAT}/configmaps"
_POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
_BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
_AUTOMATION = f"/apis/{API_VERSION}/clusterautomations/default"
_CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"


@contextlib.contextmanager
def shown(plane: ControlPlane, pod: Raw, status: Raw) -> Iterator[None]:
    """A pod of `CHAT` of which the kubelet says `status`, for the length of the block."""
    path = f"/api/v1/namespaces/{CHAT}/pods"
    name = plane.client.create(path, pod)["metadata"]["name"]
    plane.client.patch(f"{path}/{name}/status", {"status": status})
    try:
        yield
    finally:
        plane.client.delete(f"{path}/{name}", gracePeriodSeconds="0")


@contextlib.contextmanager
def policy_against_our_volume(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    """Pods are refused by what the webhook adds to them."""
    name = "no-folders"
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    rule = {
        "expression": "!has(object.spec.volumes) || object.spec.volumes.all(one, !has(one.emptyDir))",
        "message": "no pod may have an emptyDir",
    }
    spec = {"matchConstraints": {"resourceRules": [pods]}, "validations": [rule]}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CHAT}}}
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    plane.client.create(_POLICIES, {"metadata": {"name": name}, "spec": spec})
    plane.client.create(_BINDINGS, {"metadata": {"name": name}, "spec": bound})
    plane.wait_for(lambda: not _taken(plane), "policy that holds")
    try:
        yield
    finally:
        plane.client.delete(f"{_BINDINGS}/{name}")
        plane.client.delete(f"{_POLICIES}/{name}")
        plane.wait_for(lambda: _taken(plane), "end of the policy")


def _taken(plane: ControlPlane) -> bool:
    """Whether a vLLM pod can be made, with the plugin."""
    try:
        return injected(tried(plane, CHAT, vllm_pod()))
    except StatusError:
        return False


@contextlib.contextmanager
def injector_that_does_not_come(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    """A pod of which the kubelet says so, as an earlier pass of a webhook with other options has left it."""
    pod = vllm_pod()
    pod["spec"]["volumes"] = [{"name": PLUGIN_VOLUME, "emptyDir": {"medium": "Memory"}}]
    pod["spec"]["initContainers"] = [{"name": INIT_CONTAINER, "image": INJECTOR}]
    said = f'Back-off pulling image "{INJECTOR}": ErrImagePull: 401 Unauthorized'
    waiting = {
        INIT_CONTAINER: {"reason": "ImagePullBackOff", "message": said},
        CONTAINER: {"reason": "PodInitializing"},
    }
    states = [
        {"name": name, "ready": False, "image": "", "imageID": "", "restartCount": 0, "state": {"waiting": why}}
        for name, why in waiting.items()
    ]
    with shown(plane, pod, {"phase": "Pending", "initContainerStatuses": states[:1], "containerStatuses": states[1:]}):
        yield


@contextlib.contextmanager
def plugin_of_another_version(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    """As in the seconds of an upgrade in which the webhook is ahead of the recommender."""
    ours = plugin_config_map(CHAT)
    former = {**ours, "metadata": {**ours["metadata"], "name": "vllm-rightsizer-plugin-0123456789"}}
    plane.client.create(_MAPS, former)
    plane.client.delete(f"{_MAPS}/{plugin_map_name()}")
    try:
        yield
    finally:
        plane.client.create(_MAPS, ours)
        plane.client.delete(f"{_MAPS}/{former['metadata']['name']}")


@contextlib.contextmanager
def vllm_beside_us(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    # One that the namespace's Pod Security lets through.
    path, pod = f"/api/v1/namespaces/{NAMESPACE}", probe_pod(name="llama")
    # Nobody makes the default one here.
    pod["spec"]["serviceAccountName"] = SERVICE
    plane.client.patch(path, {"metadata": {"labels": OPTED_IN}})
    plane.client.create(f"{path}/pods", pod)
    running = {"phase": "Running", "podIP": "10.244.0.9", "startTime": "2026-11-21T12:00:00Z"}
    plane.client.patch(f"{path}/pods/llama/status", {"status": running})
    try:
        yield
    finally:
        plane.client.delete(f"{path}/pods/llama", gracePeriodSeconds="0")
        plane.client.patch(path, {"metadata": {"labels": {LABEL_INJECT: None}}})


@contextlib.contextmanager
def claims_that_nobody_makes(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    """The driver is there, and the emitter is asked for where it was not when the chart was rendered."""
    plane.client.create(_CLASSES, {"metadata": {"name": "gpu.nvidia.com"}, "spec": {}})
    plane.client.patch(_AUTOMATION, {"spec": {"emitter": "dra"}})
    try:
        yield
    finally:
        plane.client.patch(_AUTOMATION, {"spec": {"emitter": None}})
        plane.client.delete(f"{_CLASSES}/gpu.nvidia.com")
