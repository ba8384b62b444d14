"""Do webhook and recommender run, and does a recommender lead? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.leading import LEASE
from vllm_rightsizer.doctor.facts import RECOMMENDER, WEBHOOK, Facts, Raw, arguments, condition, service_of, titled
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import logs, restarted, restored

_WITHOUT = {
    WEBHOOK: "pods start unmodified",
    RECOMMENDER: "nothing is measured or recommended, and no namespace gets the plugin",
}


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
        fix = restored(facts, f"{component}-deployment.yaml")
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
        pod = f"/{pods[0]['metadata']['name']}" if pods else "s"
        fix = f"kubectl -n {facts.namespace} describe pod{pod}"
        yield Finding(name, Severity.CRITICAL, about, seen, _WITHOUT[component], fix)


def _obstacle(pod: Raw) -> str | None:
    """Why a pod has not started, in Kubernetes' words."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for state in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (state.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"pod {name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] != "True":
        return f"pod {name}: {scheduled.get('reason')}: {scheduled.get('message')}"
    return None


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
            (Severity.WARNING, "when one more goes, none is left")
            if ready
            else (Severity.CRITICAL, _WITHOUT[component])
        )
        seen, about = f"{ready} of {wanted} replicas are ready", titled(deployment, "Deployment")
        yield Finding(f"{component.capitalize()}NotReady", severity, about, seen, why, logs(facts, component))


def webhook_without_endpoints(facts: Facts) -> Iterator[Finding]:
    """Ready pods that its Service does not lead to."""
    deployment = facts.deployment(WEBHOOK)
    if {"Service", "EndpointSlice"} & facts.unseen.keys() or deployment is None:
        return
    if not (deployment.get("status") or {}).get("readyReplicas"):
        return
    for namespace, name in filter(None, map(service_of, facts.configurations)):
        about, fix = f"Service {namespace}/{name}", restored(facts, "webhook-service.yaml")
        if namespace != facts.namespace:
            continue
        if facts.one("Service", name, namespace) is None:
            seen = "it is not there, and the webhook's configuration names it"
        elif not any(_leads_somewhere(raw, name) for raw in facts.of("EndpointSlice", namespace)):
            seen = "it has no ready endpoint, though pods of the webhook are ready"
        else:
            continue
        yield Finding("WebhookWithoutEndpoints", Severity.CRITICAL, about, seen, _WITHOUT[WEBHOOK], fix)


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
