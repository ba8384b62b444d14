"""The commands that put a part of the installation back as it is shipped. Pure."""

from __future__ import annotations

from recommender.keys import WorkloadKey
from vllm_rightsizer.doctor.facts import RECOMMENDER, WEBHOOK, Facts, labels


def restored(facts: Facts, file: str) -> str:
    """By Helm where Helm has installed it; else by `file` of deploy/kubernetes."""
    for component in (WEBHOOK, RECOMMENDER):
        deployment = facts.deployment(component)
        if deployment is not None and labels(deployment).get("app.kubernetes.io/managed-by") == "Helm":
            release = labels(deployment).get("app.kubernetes.io/instance", "vllm-rightsizer")
            shown = f"helm get manifest {release} --namespace={facts.namespace}"
            return f"{shown} | kubectl apply --server-side --force-conflicts -f -"
    return f"kubectl apply --server-side --force-conflicts -f deploy/kubernetes/{file}"


def restarted(facts: Facts, component: str) -> str:
    """A rollout of one of our servers."""
    deployment = facts.deployment(component)
    name = deployment["metadata"]["name"] if deployment is not None else f"vllm-rightsizer-{component}"
    return f"kubectl -n {facts.namespace} rollout restart deployment/{name}"


def logs(facts: Facts, component: str) -> str:
    deployment = facts.deployment(component)
    name = deployment["metadata"]["name"] if deployment is not None else f"vllm-rightsizer-{component}"
    return f"kubectl -n {facts.namespace} logs deployment/{name} --all-pods --tail=50"


def started_anew(key: WorkloadKey) -> str:
    """The pods of a workload of the user's."""
    namespace, kind, name = key.namespace, key.workload.kind, key.workload.name
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return f"kubectl -n {namespace} rollout restart {kind.lower()}/{name}"
    if kind == "Pod":
        return f"kubectl -n {namespace} get pod/{name} -o yaml | kubectl replace --force -f -"
    return f"kubectl -n {namespace} get {kind.lower()}/{name} -o yaml   # then start its pods anew"
