"""Do nodes get the image that carries the plugin, where it comes by one? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.discovery import Pod
from vllm_rightsizer.doctor.facts import Facts, Raw
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import WAYS_BY_IMAGE, brought_by_map, shown, started_anew
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME

_REASONS = ("RegistryUnavailable", "SignatureValidationFailed")
"""The kubelet's, beside those that speak of an image by name."""
_AGAIN = "ErrImagePull: "
"""What the kubelet says while it waits for the next try has the words of the last one behind this."""


def injector_not_pulled(facts: Facts) -> Iterator[Finding]:
    """Pods in which vLLM does not start for want of that image; one finding for all of which the same is said."""
    waiting: dict[tuple[str, str], list[Pod]] = {}
    for pod in {(one.key.namespace, one.name): one for one in facts.pods.injected}.values():
        obstacle = _obstacle(facts.pod(pod.key.namespace, pod.name))
        if obstacle is not None:
            waiting.setdefault(obstacle, []).append(pod)
    for (image, said), (first, *others) in waiting.items():
        about = f"Pod {first.key.namespace}/{first.name}" + (f" and {len(others)} more" if others else "")
        seen = f"it waits for the image {image}, which its node does not get: {said}"
        why = "vLLM does not start: "
        if facts.way in WAYS_BY_IMAGE:
            why += "give its ServiceAccount the registry's pull secret, which our own pods have for themselves alone, "
            why += "or have the plugin come by ConfigMap, as the command does; then start the pods anew"
            fix = brought_by_map(facts)
        elif facts.way is not None:
            why += "the webhook brings the plugin in another way now, into pods that start anew"
            fix = started_anew(first)
        else:
            why += "give its ServiceAccount the registry's pull secret, or have the plugin come by ConfigMap"
            fix = shown(first)
        yield Finding("InjectorNotPulled", Severity.CRITICAL, about, seen, why, fix)


def _obstacle(pod: Raw) -> tuple[str, str] | None:
    """The image with the plugin, and the kubelet's words; None where the pod does not wait for it."""
    spec, status = pod["spec"], pod.get("status") or {}
    copied = next((one["image"] for one in spec.get("initContainers") or () if one["name"] == INIT_CONTAINER), None)
    volumes = (one.get("image") or {} for one in spec.get("volumes") or () if one["name"] == PLUGIN_VOLUME)
    mounted = next((one.get("reference") for one in volumes), None)
    for state in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (state.get("state") or {}).get("waiting") or {}
        reason, said = str(waiting.get("reason")), str(waiting.get("message") or "")
        if "Image" not in reason and reason not in _REASONS:
            continue
        if copied and state["name"] == INIT_CONTAINER:
            return str(copied), _words(reason, said)
        # Of a volume's image the container speaks that mounts it, as it does of its own.
        if mounted and _repository(mounted) in said:
            return str(mounted), _words(reason, said)
    return None


def _words(reason: str, said: str) -> str:
    """The same for each try, and while the kubelet waits for the next one."""
    return said.rpartition(_AGAIN)[2] or reason


def _repository(reference: str) -> str:
    """Without tag and digest, which a container runtime writes in its own way."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]
