"""Namespaces and pods in which an injection could itself keep a pod from starting, for every way of injecting.

Each pod is admitted with the plugin, or left alone with a reason; none is refused that would have been admitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.lab.client import StatusError
from bench.lab.webhook import Webhook
from recommender.api.plugin_wheel import plugin_map_name
from vllm_plugin.names import ANNOTATION_SKIPPED
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME

from .pods import CONTAINER, OPTED_IN, Raw, injected, tried, vllm_pod

WAYS = {
    "config-map": (),
    "init-container": ("--injection=init-container", "--injector-image=example.test/vllm-rightsizer:1"),
    "image-volume": ("--injection=image-volume", "--injector-image=example.test/vllm-rightsizer:1"),
}
LEVEL = "pod-security.kubernetes.io/enforce"
LIMITS = {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "1"}


@pytest.fixture(scope="module")
def told(webhook: Webhook) -> Iterator[Callable[[tuple[str, ...]], None]]:
    """Starts the webhook with other options, where it does not have them; at the end it has those of before."""

    def start(options: tuple[str, ...]) -> None:
        if options != webhook.options:
            webhook.stop()
            webhook.options = options
            webhook.start()

    before = webhook.options
    yield start
    start(before)


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, told: Callable[[tuple[str, ...]], None]) -> str:
    """The webhook injects in one of its ways."""
    name = str(request.param)
    told(WAYS[name])
    return name


@pytest.fixture
def namespace(request: pytest.FixtureRequest, webhook: Webhook, way: str) -> str:
    """Opted in, with the labels that the test asks for: those of a namespace that is there already would be known a
    moment later."""
    test = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].strip("-")
    return webhook.plane.namespace(f"{test}-{way}", {**OPTED_IN, **getattr(request, "param", {})})


def _pod(**container: Any) -> Raw:
    pod = vllm_pod()
    pod["spec"]["containers"][0] |= container
    return pod


def _restricted(pod: Raw, **context: Any) -> Raw:
    pod["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    } | context
    for container in pod["spec"]["containers"]:
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return pod


def _arrived(stored: Raw, way: str) -> None:
    """The plugin came into the pod, and in that way."""
    assert injected(stored)
    volumes = {volume["name"]: volume for volume in stored["spec"]["volumes"]}
    kind = {"config-map": "configMap", "init-container": "emptyDir", "image-volume": "image"}[way]
    assert kind in volumes[PLUGIN_VOLUME]
    names = [container["name"] for container in stored["spec"].get("initContainers") or ()]
    assert (INIT_CONTAINER in names) is (way == "init-container")


def _left_alone(stored: Raw) -> str:
    assert not injected(stored)
    return str(stored["metadata"]["annotations"][ANNOTATION_SKIPPED])


@pytest.mark.parametrize("namespace", [{LEVEL: "restricted"}], indirect=True, ids=["restricted"])
def test_restricted(webhook: Webhook, namespace: str, way: str) -> None:
    """Pod Security refuses a container without a seccomp profile or with a way to more privileges."""
    with pytest.raises(StatusError, match="violates PodSecurity"):
        tried(webhook.plane, namespace, _pod())
    _arrived(tried(webhook.plane, namespace, _restricted(_pod())), way)


@pytest.mark.parametrize("namespace", [{LEVEL: "baseline"}], indirect=True, ids=["baseline"])
def test_baseline(webhook: Webhook, namespace: str, way: str) -> None:
    with pytest.raises(StatusError, match="violates PodSecurity"):
        tried(webhook.plane, namespace, _pod(securityContext={"privileged": True}))
    _arrived(tried(webhook.plane, namespace, _pod()), way)


@pytest.mark.parametrize("resource", ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"])
def test_a_quota(webhook: Webhook, way: str, resource: str) -> None:
    """A quota on a resource refuses containers that do not say how much of it they take."""
    namespace = webhook.plane.namespace(f"quota-{resource.replace('.', '-')}-{way}", OPTED_IN)
    _quota(webhook, namespace, {resource: "100Gi"})
    _arrived(tried(webhook.plane, namespace, _pod(resources={"requests": LIMITS, "limits": LIMITS})), way)


def test_a_quota_that_the_pod_fills(webhook: Webhook, namespace: str, way: str) -> None:
    """Nothing is left for a container of ours: an init container counts only beyond what the pod asks for itself."""
    _quota(webhook, namespace, {f"limits.{name}": LIMITS[name] for name in ("cpu", "memory")})
    _arrived(tried(webhook.plane, namespace, _pod(resources={"requests": LIMITS, "limits": LIMITS})), way)


def test_a_limit_range(webhook: Webhook, namespace: str, way: str) -> None:
    """A minimum of 64Mi for each container, and a maximum for limits above requests."""
    limits = [{"type": "Container", "min": {"memory": "64Mi", "cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "4"}}]
    path = f"/api/v1/namespaces/{namespace}/limitranges"
    webhook.plane.client.create(path, {"metadata": {"name": "least"}, "spec": {"limits": limits}})
    little = {"requests": LIMITS | {"memory": "1Mi"}, "limits": LIMITS | {"memory": "1Mi"}}
    with pytest.raises(StatusError, match="minimum memory usage per Container is 64Mi"):
        tried(webhook.plane, namespace, _pod(resources=little))
    _arrived(tried(webhook.plane, namespace, _pod(resources={"requests": LIMITS, "limits": LIMITS})), way)


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({"requests": LIMITS, "limits": LIMITS}, "Guaranteed"),
        ({"requests": {"cpu": "1"}, "limits": LIMITS}, "Burstable"),
        ({"limits": {"nvidia.com/gpu": "1"}}, "BestEffort"),
    ],
)
def test_the_quality_of_service_stays(webhook: Webhook, way: str, resources: Raw, wanted: str) -> None:
    """A Guaranteed pod that became Burstable would lose its CPUs."""
    namespace = webhook.plane.namespace(f"qos-{wanted.lower()}-{way}", OPTED_IN)
    stored = tried(webhook.plane, namespace, _pod(resources=resources))
    _arrived(stored, way)
    if way == "init-container" and wanted == "BestEffort":
        # A container that asks for something is there now; a namespace with a quota would refuse one that does not.
        wanted = "Burstable"
    assert stored["status"]["qosClass"] == wanted


@pytest.mark.parametrize(
    ("context", "container"),
    [
        ({"runAsUser": 0}, {}),
        ({}, {"runAsUser": 0}),
        ({"runAsNonRoot": True, "runAsUser": 1000}, {}),
        ({"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 1234}, {}),
    ],
    ids=["root by the pod", "root by the container", "not root", "an own user"],
)
def test_users(webhook: Webhook, way: str, request: pytest.FixtureRequest, context: Raw, container: Raw) -> None:
    """The kubelet starts no container that must not be root as user 0."""
    name = request.node.callspec.id.rpartition("-")[2].replace(" ", "-")
    namespace = webhook.plane.namespace(f"user-{name}-{way}", OPTED_IN)
    pod = _pod(**({"securityContext": container} if container else {}))
    pod["spec"]["securityContext"] = context
    stored = tried(webhook.plane, namespace, pod)
    _arrived(stored, way)
    assert stored["spec"]["securityContext"] == context
    for added in stored["spec"].get("initContainers") or ():
        own = added["securityContext"]
        user = own.get("runAsUser", context.get("runAsUser"))
        if own.get("runAsNonRoot", context.get("runAsNonRoot")):
            assert user, "the kubelet would refuse to start it as root"
        # A cluster that allows no other users than the pod's own refuses one that is chosen here.
        if context.get("runAsUser"):
            assert user == context["runAsUser"]


def test_a_read_only_root_filesystem(webhook: Webhook, namespace: str, way: str) -> None:
    stored = tried(webhook.plane, namespace, _pod(securityContext={"readOnlyRootFilesystem": True}))
    _arrived(stored, way)
    # What the plugin writes goes into a volume.
    [container] = stored["spec"]["containers"]
    written = {entry["value"] for entry in container["env"] if entry["name"] == "VLLM_RIGHTSIZER_DIR"}
    assert written <= {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}


def test_the_map_is_missing(webhook: Webhook, namespace: str, way: str) -> None:
    """Until the recommender has made it, a pod starts without the plugin; the other ways need no map."""
    stored = tried(webhook.plane, namespace, _pod())
    maps = [volume["configMap"] for volume in stored["spec"]["volumes"] if "configMap" in volume]
    wanted = {"name": plugin_map_name(), "optional": True, "defaultMode": 0o644}
    assert maps == ([wanted] if way == "config-map" else [])


def test_names_that_are_taken(webhook: Webhook, namespace: str) -> None:
    """A pod that has a volume of our name, of a kind that we never make."""
    pod = _pod()
    pod["spec"]["volumes"] = [{"name": PLUGIN_VOLUME, "hostPath": {"path": "/opt"}}]
    assert PLUGIN_VOLUME in _left_alone(tried(webhook.plane, namespace, pod))


def test_a_port_that_is_taken(webhook: Webhook, namespace: str, way: str) -> None:
    pod = _pod(ports=[{"name": "metrics", "containerPort": 9415}])
    pod["spec"]["hostNetwork"] = True
    stored = tried(webhook.plane, namespace, pod)
    _arrived(stored, way)
    [container] = stored["spec"]["containers"]
    [port] = [entry["value"] for entry in container["env"] if entry["name"] == "VLLM_RIGHTSIZER_PORT"]
    assert port != "9415"


def test_vllm_as_a_native_sidecar(webhook: Webhook, namespace: str, way: str) -> None:
    """Its init container starts before the others; ours has to be done by then."""
    pod = _pod()
    engine = pod["spec"]["containers"].pop() | {"restartPolicy": "Always"}
    pod["spec"]["initContainers"] = [engine, {"name": "warm", "image": "example.test/warm"}]
    pod["spec"]["containers"] = [{"name": "client", "image": "example.test/client"}]
    stored = tried(webhook.plane, namespace, pod)
    _arrived(stored, way)
    first = [INIT_CONTAINER] if way == "init-container" else []
    assert [found["name"] for found in stored["spec"]["initContainers"]] == [*first, CONTAINER, "warm"]


def _quota(webhook: Webhook, namespace: str, hard: dict[str, str]) -> None:
    """A quota in force. A controller would copy its limits to the status; here that is done by hand."""
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    webhook.plane.client.create(path, {"metadata": {"name": "most"}, "spec": {"hard": hard}})
    status = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    webhook.plane.client.patch(f"{path}/most/status", {"status": status})
    outside = {"spec": {"containers": [{"name": "x", "image": "x"}]}, "metadata": {"name": "x"}}

    def holds() -> bool:
        try:
            tried(webhook.plane, namespace, outside)
        except Exception as error:
            return "failed quota" in str(error)
        return False

    webhook.plane.wait_for(holds, "quota")
