"""Do webhook and recommender run, and does a recommender lead? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.leading import LEASE
from vllm_rightsizer.doctor.facts import (
    RECOMMENDER,
    WEBHOOK,
    Facts,
    Raw,
    arguments,
    condition,
    labels,
    option,
    service_of,
    titled,
    webhooks_of,
)
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import logs, restarted, restored, rolled_back
from vllm_rightsizer.doctor.network import keeping_callers_out, letting_callers_in

_WITHOUT = {
    WEBHOOK: "pods start unmodified",
    RECOMMENDER: "nothing is measured or recommended, and no namespace gets the plugin",
}
_TEMPLATE = "pod-template-hash"
_DEFAULT_PORT = "8443"
_HTTPS = 443


def runs(facts: Facts, component: str) -> bool:
    """Whether a container of it runs, ready or not; True where its pods cannot be looked at."""
    if {"Deployment", "Pod"} & facts.unseen.keys():
        return True
    deployment = facts.deployment(component)
    return deployment is not None and any(_started(pod) for pod in facts.pods_of(deployment))


def _started(pod: Raw) -> bool:
    states = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in (one.get("state") or {}) for one in states)


def webhook_not_running(facts: Facts) -> Iterator[Finding]:
    yield from _not_running(facts, WEBHOOK)


def recommender_not_running(facts: Facts) -> Iterator[Finding]:
    yield from _not_running(facts, RECOMMENDER)


def _not_running(facts: Facts, component: str) -> Iterator[Finding]:
    """Missing, scaled to nothing, or not started; the finding's name is `WebhookNotRunning` or the like."""
    if "Deployment" in facts.unseen:
        return
    deployment, name = facts.deployment(component), f"{component.capitalize()}NotRunning"
    if deployment is None:
        about, seen = f"Namespace {facts.namespace}", f"there is no Deployment that runs the {component}"
        fix = restored(facts, component, "deployment")
        yield Finding(name, Severity.CRITICAL, about, seen, _WITHOUT[component], fix)
        return
    about = titled(deployment, "Deployment")
    if deployment["spec"].get("replicas") == 0:
        wanted = 2 if component == WEBHOOK else 1
        fix = f"kubectl -n {facts.namespace} scale deployment/{deployment['metadata']['name']} --replicas={wanted}"
        yield Finding(name, Severity.CRITICAL, about, "it is scaled to 0 replicas", _WITHOUT[component], fix)
        return
    if not runs(facts, component):
        pods = facts.pods_of(deployment)
        seen = next(filter(None, map(_obstacle, pods)), "no container of it has started")
        if any(map(_never_ran, pods)) and _has_former_pods(facts, deployment):
            fix = rolled_back(facts, deployment, component)
        else:
            # Of a ReplicaSet that cannot make pods only the Deployment tells.
            look = _look(pods[0]) if pods else f"describe deployment/{deployment['metadata']['name']}"
            fix = f"kubectl -n {facts.namespace} {look}"
        yield Finding(name, Severity.CRITICAL, about, seen, _WITHOUT[component], fix)


def _obstacle(pod: Raw) -> str | None:
    """Why a pod does not start, in Kubernetes' words."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for state in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        ended = _ended(state)
        waiting = (state.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            said = ended or waiting.get("message", "")
            return f"pod {name}: {waiting['reason']}: {said}".rstrip(": ")
        if ended and not state.get("ready"):
            return f"pod {name}: {ended}"
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] != "True":
        return f"pod {name}: {scheduled.get('reason')}: {scheduled.get('message')}"
    return None


def _ended(state: Raw) -> str | None:
    """How a container has ended that should not: now, or before it was started again."""
    for when in ("state", "lastState"):
        over = (state.get(when) or {}).get("terminated")
        if over and over.get("exitCode"):
            return f"container {state['name']} ended with exit code {over['exitCode']}"
    return None


def _never_ran(pod: Raw) -> bool:
    """Its image or its configuration is not there: what was changed last is why."""
    states = (pod.get("status") or {}).get("containerStatuses") or ()
    reasons = (str(((one.get("state") or {}).get("waiting") or {}).get("reason")) for one in states)
    return any("Image" in reason or reason == "CreateContainerConfigError" for reason in reasons)


def _has_former_pods(facts: Facts, deployment: Raw) -> bool:
    """Whether its template was another one before."""
    name = deployment["metadata"]["name"]
    owners = (raw["metadata"].get("ownerReferences") or () for raw in facts.of("ReplicaSet", facts.namespace))
    own = [found for found in owners if any(owner["name"] == name for owner in found)]
    return len(own) > 1


def _look(pod: Raw) -> str:
    """What tells more of a pod that does not start."""
    name = pod["metadata"]["name"]
    if any(map(_ended, (pod.get("status") or {}).get("containerStatuses") or ())):
        return f"logs pod/{name} --previous --tail=50"
    return f"describe pod/{name}"


def rollouts_stuck(facts: Facts) -> Iterator[Finding]:
    """Newer pods of a server do not start, and those of before are still at work."""
    for component in (WEBHOOK, RECOMMENDER):
        deployment = facts.deployment(component)
        if deployment is None:
            continue
        pods = [pod for pod in facts.pods_of(deployment) if "deletionTimestamp" not in pod["metadata"]]
        newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)
        template = labels(newest).get(_TEMPLATE) if newest is not None else None
        others_serve = any(_is_ready(pod) for pod in pods if labels(pod).get(_TEMPLATE) != template)
        of_newest = (pod for pod in pods if labels(pod).get(_TEMPLATE) == template)
        obstacle = next(filter(None, map(_obstacle, of_newest)), None)
        if obstacle is not None and others_serve:
            name, about = f"{component.capitalize()}RolloutStuck", titled(deployment, "Deployment")
            why = "its newest pods do not start; those of before serve on, and nobody replaces them"
            yield Finding(name, Severity.WARNING, about, obstacle, why, rolled_back(facts, deployment, component))


def _is_ready(pod: Raw) -> bool:
    said = condition(pod, "Ready")
    return said is not None and said["status"] == "True"


def webhook_not_ready(facts: Facts) -> Iterator[Finding]:
    yield from _not_ready(facts, WEBHOOK)


def recommender_not_ready(facts: Facts) -> Iterator[Finding]:
    yield from _not_ready(facts, RECOMMENDER)


def _not_ready(facts: Facts, component: str) -> Iterator[Finding]:
    deployment = facts.deployment(component)
    if deployment is None or not deployment["spec"].get("replicas") or not runs(facts, component):
        return
    wanted, ready = deployment["spec"]["replicas"], (deployment.get("status") or {}).get("readyReplicas") or 0
    if ready < wanted:
        severity, why = (
            (Severity.WARNING, "fewer are left for when a node is drained, or goes")
            if ready
            else (Severity.CRITICAL, _WITHOUT[component])
        )
        own = (facts.unready.get(pod["metadata"]["name"]) for pod in facts.pods_of(deployment))
        said = next(filter(None, own), None)
        seen = f"{ready} of {wanted} replicas are ready" + (f"; one says: {said}" if said else "")
        about = titled(deployment, "Deployment")
        yield Finding(f"{component.capitalize()}NotReady", severity, about, seen, why, logs(facts, component))


def webhook_without_endpoints(facts: Facts) -> Iterator[Finding]:
    """Ready pods that its Service does not lead to."""
    deployment = facts.deployment(WEBHOOK)
    if {"Service", "EndpointSlice"} & facts.unseen.keys() or deployment is None:
        return
    if not (deployment.get("status") or {}).get("readyReplicas"):
        return
    for configuration in facts.configurations:
        namespace, name = service_of(configuration) or ("", "")
        about, fix = f"Service {namespace}/{name}", restored(facts, WEBHOOK, "service")
        if namespace != facts.namespace:
            continue
        service, called = facts.one("Service", name, namespace), _called_port(configuration)
        if service is None:
            seen = "it is not there, and the webhook's configuration names it"
        elif not any(_leads_somewhere(raw, name) for raw in facts.of("EndpointSlice", namespace)):
            seen = "it has no ready endpoint, though pods of the webhook are ready"
        elif not _leads_to(service, deployment):
            seen = f"it selects other pods than those of {titled(deployment, 'Deployment')}"
        elif (target := _target_of(service, called)) is None:
            seen = f"it has no port {called}, by which the webhook's configuration calls it"
        elif _port_of(deployment, target) != _listens(deployment):
            seen = f"it leads to port {target}, and the webhook listens on {_listens(deployment)}"
        else:
            continue
        yield Finding("WebhookWithoutEndpoints", Severity.CRITICAL, about, seen, _WITHOUT[WEBHOOK], fix)


def webhook_isolated(facts: Facts) -> Iterator[Finding]:
    """Of interest where the pod that was tried was not brought to us: some networks let their nodes in all the same."""
    deployment = facts.deployment(WEBHOOK)
    if deployment is None or not facts.probe_came_back_bare:
        return
    port = _listens(deployment)
    found = (keeping_callers_out(facts, pod, port) for pod in facts.pods_of(deployment))
    policy = next(filter(None, found), None)
    if policy is not None:
        about, fix = titled(policy, "NetworkPolicy"), letting_callers_in(facts, deployment, port)
        seen = f"neither it nor another one lets the API server, which is no pod, reach port {port} of the webhook"
        yield Finding("WebhookIsolated", Severity.CRITICAL, about, seen, _WITHOUT[WEBHOOK], fix)


def _called_port(configuration: Raw) -> int:
    """Of the Service; the API server's default where none is said."""
    services = ((one.get("clientConfig") or {}).get("service") or {} for one in webhooks_of(configuration))
    return int(next(filter(None, (service.get("port") for service in services)), _HTTPS))


def _leads_to(service: Raw, deployment: Raw) -> bool:
    """Whether it selects the pods; endpoints without a selector somebody has written by hand."""
    wanted = service["spec"].get("selector") or {}
    return wanted.items() <= (deployment["spec"]["template"]["metadata"].get("labels") or {}).items()


def _target_of(service: Raw, port: int) -> int | str | None:
    """The port of the pods, by number or by name, to which its `port` leads; others are nobody's concern here."""
    targets = (one.get("targetPort", port) for one in service["spec"].get("ports") or () if one["port"] == port)
    return next(targets, None)


def _port_of(deployment: Raw, target: int | str) -> int | str:
    containers = deployment["spec"]["template"]["spec"].get("containers") or ()
    named = {one.get("name"): one["containerPort"] for container in containers for one in container.get("ports") or ()}
    found: int | str = named.get(target, target)
    return found


def _listens(deployment: Raw) -> int:
    return int(option(deployment, "port", _DEFAULT_PORT))


def _leads_somewhere(endpoints: Raw, service: str) -> bool:
    if (endpoints["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != service:
        return False
    found = endpoints.get("endpoints") or ()
    return any((one.get("conditions") or {}).get("ready", True) and one.get("addresses") for one in found)


def recommender_not_leading(facts: Facts) -> Iterator[Finding]:
    deployment = facts.deployment(RECOMMENDER)
    if deployment is None or "--no-leader-elect" in arguments(deployment) or "Lease" in facts.unseen:
        return
    if not (deployment.get("status") or {}).get("readyReplicas"):
        return
    about, lease = f"Lease {facts.namespace}/{LEASE}", facts.one("Lease", LEASE, facts.namespace)
    why = "the recommenders stand by: nothing is measured, and sizes stay as they are"
    if lease is None or not lease["spec"].get("holderIdentity"):
        seen, fix = "nobody holds it", logs(facts, RECOMMENDER)
    elif not facts.lease_moves:
        holder, renewed = lease["spec"]["holderIdentity"], lease["spec"].get("renewTime")
        seen, fix = f"{holder} holds it, and does not renew it since {renewed}", restarted(facts, RECOMMENDER)
    else:
        return
    yield Finding("RecommenderNotLeading", Severity.CRITICAL, about, seen, why, fix)
