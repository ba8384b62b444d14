"""What recommendations say is wrong, and who reads the sizes that are written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recommender.api.policies import ClusterAutomation
from recommender.api.recommendations import AUTOSCALER_CONFLICT, DEGRADED, VLLMRecommendation
from recommender.api.sharing import GPUSHARE_MEMORY
from recommender.conditions import BY_GPU_MEMORY, BY_POOL_USAGE
from vllm_rightsizer.doctor.facts import (
    ALL_DEPLOYMENTS,
    CONFIGURATION,
    RECOMMENDER,
    Facts,
    arguments,
    condition,
    titled,
)
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import edited, upgraded

_MOVES = {BY_POOL_USAGE: "raises", BY_GPU_MEMORY: "lowers"}
"""What a smaller cache does to an autoscaler's metric, by the condition's reason."""
_NONE = '{"spec":{"emitter":"none"}}'
_NO_CLAIMS = "--no-gpu-claims"
_SCHEDULER_CRDS = {
    "kai": "queues.scheduling.run.ai",
    "kai-nvfractions": "queues.scheduling.run.ai",
    "volcano": "queues.scheduling.volcano.sh",
}


def recommendation_degraded(facts: Facts) -> Iterator[Finding]:
    for raw in facts.of(VLLMRecommendation.KIND):
        said = condition(raw, DEGRADED)
        if said is not None and said["status"] == "True":
            why = "a pod did not do as promised: the size is withdrawn, and tried again after a sixth of the window"
            fix = _described(raw["metadata"]["namespace"], raw["metadata"]["name"])
            yield Finding("RecommendationDegraded", Severity.WARNING, titled(raw), str(said.get("message")), why, fix)


def autoscaler_conflicts(facts: Facts) -> Iterator[Finding]:
    for raw in facts.of(VLLMRecommendation.KIND):
        said = condition(raw, AUTOSCALER_CONFLICT)
        if said is not None and said["status"] == "True":
            moves = _MOVES.get(str(said.get("reason")), "changes")
            why = f"a smaller cache {moves} its metric, and so the replicas: docs/autoscaling.md has another metric"
            # kubectl shows nothing at all where it does not know one of the kinds.
            keda = facts.one("CustomResourceDefinition", "scaledobjects.keda.sh") is not None
            kinds = "horizontalpodautoscalers" + (",scaledobjects" if keda else "")
            fix = f"kubectl -n {raw['metadata']['namespace']} get {kinds} -o yaml"
            yield Finding("AutoscalerConflict", Severity.WARNING, titled(raw), str(said.get("message")), why, fix)


def _described(namespace: str, name: str) -> str:
    return f"kubectl -n {namespace} describe vllmrec {name}"


def scheduler_missing(facts: Facts) -> Iterator[Finding]:
    """Somebody asks for sizes in the words of a GPU scheduler of which there is no trace."""
    for about, emitter, fix in _emitters(facts):
        lacking = _lacking(facts, emitter)
        if lacking is not None:
            seen = f"the emitter is {emitter}, and {lacking}"
            why = "nobody reads the size that is asked for, or pods wait for ever"
            yield Finding("SchedulerMissing", Severity.WARNING, about, seen, why, fix)


def claims_not_kept(facts: Facts) -> Iterator[Finding]:
    """Somebody asks for claims of GPUs, and the recommender does not make them."""
    recommender = facts.deployment(RECOMMENDER)
    if recommender is None or _keeps_claims(arguments(recommender)):
        return
    asking = [(about, fix) for about, emitter, fix in _emitters(facts) if emitter == "dra"]
    if asking:
        about, fix = asking[0]
        yield Finding(
            "ClaimsNotKept",
            Severity.WARNING,
            about + (f" and {len(asking) - 1} more" if asking[1:] else ""),
            f"the emitter is dra, and the recommender runs with {_NO_CLAIMS}",
            "no ResourceClaimTemplate is ever made: the pods hold whole GPUs, without a saving that others can use",
            upgraded(facts, "recommender.gpuClaims=true") or fix,
        )


def _keeps_claims(said: Sequence[str]) -> bool:
    """The last word counts."""
    return [one for one in ("--gpu-claims", *said) if one in ("--gpu-claims", _NO_CLAIMS)][-1] != _NO_CLAIMS


def _emitters(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Who says it, which one, and how it is changed."""
    for raw in facts.of(ClusterAutomation.KIND):
        fix = f"kubectl patch clusterautomation {raw['metadata']['name']} --type=merge -p '{_NONE}'"
        yield titled(raw, ClusterAutomation.KIND), str((raw.get("spec") or {}).get("emitter") or "none"), fix
    followed = [pod for pod in facts.pods.injected if not (pod.excluded or facts.automation_of(pod).excluded)]
    first_of_each = {pod.key: pod for pod in reversed(followed)}
    for pod in first_of_each.values():
        yield f"Pod {pod.key.namespace}/{pod.name}", facts.automation_of(pod).emitter, edited(pod)


def _lacking(facts: Facts, emitter: str) -> str | None:
    """What of the scheduler is not there; None where it is, or where that cannot be seen."""
    if emitter in _SCHEDULER_CRDS:
        name = _SCHEDULER_CRDS[emitter]
        there = "CustomResourceDefinition" in facts.unseen or facts.one("CustomResourceDefinition", name) is not None
        return None if there else f"the API server has no {name}"
    if emitter == "hami":
        there = CONFIGURATION in facts.unseen or any(
            "hami" in raw["metadata"]["name"] for raw in facts.of(CONFIGURATION)
        )
        return None if there or _is_installed(facts, "hami") else "no MutatingWebhookConfiguration is HAMi's"
    if emitter == "gpushare":
        nodes = facts.of("Node")
        there = "Node" in facts.unseen or any(
            GPUSHARE_MEMORY in ((raw.get("status") or {}).get("allocatable") or {}) for raw in nodes
        )
        return None if there or _is_installed(facts, "gpushare") else f"no Node has {GPUSHARE_MEMORY}"
    if emitter == "dra":
        there = "DeviceClass" in facts.unseen or bool(facts.of("DeviceClass"))
        return None if there else "the API server has no DeviceClass"
    return None


def _is_installed(facts: Facts, word: str) -> bool:
    """Whether something is called so that runs on Nodes, or beside the scheduler: its webhook may be switched off, and
    Nodes with GPUs may come only when somebody needs them."""
    if not facts.unseen.keys().isdisjoint(("DaemonSet", ALL_DEPLOYMENTS)):
        return True
    return any(word in raw["metadata"]["name"] for kind in ("DaemonSet", "Deployment") for raw in facts.of(kind))
