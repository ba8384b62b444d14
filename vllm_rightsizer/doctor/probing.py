"""A vLLM pod that is only tried: what the API server would make of it, and who is why where it is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer
from recommender.cluster_objects import PODS
from vllm_plugin.names import ANNOTATION_EXCLUDE, ANNOTATION_SKIPPED, LABEL_INJECTED
from vllm_rightsizer.doctor.facts import Facts, Probe, Raw, annotations_of, fails_open, labels, moment, webhooks_of
from vllm_rightsizer.doctor.looking import said_by
from vllm_rightsizer.doctor.selection import is_called_for
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME

_NAMESPACES = 3


async def probed(server: ApiServer, facts: Facts) -> Probe | None:
    """The first opted-in namespace that takes the pod decides, or one that would take it without us; None where nobody
    has opted in."""
    found: Probe | None = None
    in_reach = (namespace for namespace in facts.opted_in if is_called_for(facts, namespace))
    for namespace in islice(in_reach, _NAMESPACES):
        try:
            return probe_of(namespace, await _tried(server, namespace, probe_pod()))
        except ApiError as error:
            refused = Probe(namespace, refused=f"a vLLM pod could not be tried there: {error.message}")
            # The webhook is not asked about it.
            if await _answered(server, namespace, probe_pod(annotations={ANNOTATION_EXCLUDE: "true"})) is not None:
                # Once may have been a bad moment of somebody else's webhook.
                again = await _answered(server, namespace, probe_pod())
                # One that fails closed refuses without an answer, too: what it adds need not be why.
                ours = replace(refused, taken_without_us=_fail_open(facts))
                return ours if again is None else probe_of(namespace, again)
            found = found or refused
        except CONNECTION_ERRORS as error:
            # All webhooks of the cluster are asked: each may take its time.
            said = f"a vLLM pod that was tried there had no answer: {said_by(error)}"
            found = found or Probe(namespace, refused=said)
    return found


def _fail_open(facts: Facts) -> bool:
    """All webhooks of ours; of a former installation nobody may serve them any more."""
    return all(fails_open(webhook) for raw in facts.configurations for webhook in webhooks_of(raw))


async def _tried(server: ApiServer, namespace: str, pod: Raw) -> Raw:
    return await server.request("POST", PODS.path(namespace), query={"dryRun": "All"}, body=pod)


async def _answered(server: ApiServer, namespace: str, pod: Raw) -> Raw | None:
    """None where it is not taken."""
    try:
        return await _tried(server, namespace, pod)
    except (ApiError, *CONNECTION_ERRORS):
        return None


def probe_of(namespace: str, pod: Raw) -> Probe:
    """What the API server has made of the pod."""
    made, marked = pod["metadata"].get("creationTimestamp"), labels(pod).get(LABEL_INJECTED) == "true"
    volume = _plugin_volume(pod)
    return Probe(
        namespace,
        marked=marked,
        left_out=annotations_of(pod).get(ANNOTATION_SKIPPED),
        at=moment(made) if made else None,
        plugin_map=(volume.get("configMap") or {}).get("name"),
        lost=marked and not volume,
    )


def _plugin_volume(pod: Raw) -> Raw:
    """The volume with the plugin; empty where there is none, or nothing that would fill it. An API server that does not
    know images as volumes makes an empty folder of one, or leaves it out."""
    spec = pod.get("spec") or {}
    filled = any(one["name"] == INIT_CONTAINER for one in spec.get("initContainers") or ())
    for volume in spec.get("volumes") or ():
        if volume["name"] == PLUGIN_VOLUME and ("emptyDir" not in volume or filled):
            found: Raw = volume
            return found
    return {}


def probe_pod(**metadata: Any) -> Raw:
    """A vLLM pod that the strictest Pod Security Standard and a quota on limits let through; it is never made."""
    amounts = {"cpu": "1m", "memory": "1Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "vllm-rightsizer-doctor-", **metadata},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "vllm",
                    "image": "vllm/vllm-openai:latest",
                    "args": ["--model=probe"],
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
