"""The commands that put a part of the installation back, or show why it is not as it should be. Pure.

Each can be copied into any shell as it is: without comments, which not every shell takes, and with all names in it.
"""

from __future__ import annotations

import json
import shlex

from recommender.discovery import Pod
from vllm_plugin.names import ANNOTATION_EXCLUDE
from vllm_rightsizer.doctor.facts import RECOMMENDER, WEBHOOK, Facts, Raw, annotations_of, labels

_RESTARTED = ("Deployment", "StatefulSet", "DaemonSet")
_COMPONENT = "app.kubernetes.io/component"
WAYS_BY_IMAGE = ("init-container", "image-volume")
"""In which nodes have to pull the plugin, before pods start with it."""
_HELM = "helm"
"""Helm's own name as the manager of fields: what is written back in it stays Helm's, so that its next upgrade meets no
conflict."""


def restored(facts: Facts, component: str, part: str) -> str:
    """All of a component as it was installed: by Helm where Helm has done that, else that part of deploy/kubernetes."""
    release = _release(facts)
    if release is None:
        return f"kubectl apply --server-side --force-conflicts -f deploy/kubernetes/{component}-{part}.yaml"
    return (
        f"helm get manifest {release} --namespace={facts.namespace} | kubectl apply --server-side --force-conflicts "
        f"--field-manager={_HELM} --selector={_COMPONENT}={component} -f -"
    )


def upgraded(facts: Facts, value: str) -> str | None:
    """Helm's release with this value beside its own; None where something else has installed us."""
    release = _release(facts)
    if release is None:
        return None
    where = f"{release} deploy/chart --namespace={facts.namespace}"
    return f"helm upgrade {where} --reset-then-reuse-values --set {value}"


def brought_by_map(facts: Facts) -> str:
    """The plugin comes by ConfigMap again, as it does by default."""
    by_default = "kubectl apply --server-side --force-conflicts -f deploy/kubernetes"
    return upgraded(facts, "vllm.injection.way=config-map") or by_default


def rolled_back(facts: Facts, deployment: Raw, component: str) -> str:
    """The pods of before, where newer ones do not start: by whoever has changed their template last."""
    release = _release(facts)
    if release is None:
        return f"kubectl -n {facts.namespace} rollout undo deployment/{deployment['metadata']['name']}"
    if _last_writer(deployment).startswith(_HELM):
        return f"helm rollback {release} --namespace={facts.namespace}"
    return restored(facts, component, "deployment")


def _release(facts: Facts) -> str | None:
    """Of Helm; None where something else has installed us."""
    for component in (WEBHOOK, RECOMMENDER):
        deployment = facts.deployment(component)
        if deployment is not None and labels(deployment).get("app.kubernetes.io/managed-by") == "Helm":
            own = annotations_of(deployment).get("meta.helm.sh/release-name")
            return own or labels(deployment).get("app.kubernetes.io/instance", "vllm-rightsizer")
    return None


def _last_writer(deployment: Raw) -> str:
    """Who has changed its pod template last, as far as Kubernetes tells."""
    writers = [
        one
        for one in deployment["metadata"].get("managedFields") or ()
        if not one.get("subresource") and "f:template" in ((one.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return str(max(writers, key=lambda one: str(one.get("time", "")))["manager"]) if writers else ""


def restarted(facts: Facts, component: str) -> str:
    """A rollout of one of our servers."""
    return f"kubectl -n {facts.namespace} rollout restart deployment/{_name(facts, component)}"


def logs(facts: Facts, component: str) -> str:
    """Of all its pods, by their labels: older releases of kubectl do not know `--all-pods`."""
    deployment = facts.deployment(component)
    wanted = {} if deployment is None else deployment["spec"]["selector"].get("matchLabels")
    selector = ",".join(f"{name}={value}" for name, value in sorted((wanted or {_COMPONENT: component}).items()))
    return f"kubectl -n {facts.namespace} logs --selector={selector} --prefix --tail=50"


def given(verb: str, made: Raw) -> str:
    """`kubectl apply` or `create` of an object, on one line: a here-document would not outlive the report's
    indentation."""
    return f"echo {shlex.quote(json.dumps(made))} | kubectl {verb} -f -"


def _name(facts: Facts, component: str) -> str:
    deployment = facts.deployment(component)
    return deployment["metadata"]["name"] if deployment is not None else f"vllm-rightsizer-{component}"


def started_anew(pod: Pod) -> str:
    """The pods of a workload of the user's."""
    namespace, (kind, name) = pod.key.namespace, _object_of(pod)
    if kind in _RESTARTED:
        return f"kubectl -n {namespace} rollout restart {kind.lower()}/{name}"
    if kind == "Pod":
        return f"kubectl -n {namespace} get pod/{name} -o yaml | kubectl replace --force -f -"
    # Whoever made it makes another one.
    return f"kubectl -n {namespace} delete pod/{pod.name}"


def shown(pod: Pod) -> str:
    kind, name = _object_of(pod)
    return f"kubectl -n {pod.key.namespace} get {kind.lower()}/{name} -o yaml"


def edited(pod: Pod) -> str:
    kind, name = _object_of(pod)
    return f"kubectl -n {pod.key.namespace} edit {kind.lower()}/{name}"


def excluded(pod: Pod) -> str:
    """The workload is left alone from now on."""
    kind, name = _object_of(pod)
    return f"kubectl -n {pod.key.namespace} annotate {kind.lower()}/{name} {ANNOTATION_EXCLUDE}=true --overwrite"


def _object_of(pod: Pod) -> tuple[str, str]:
    """Kind and name of what can be edited: a group that the user has named is no object."""
    owner = pod.owner or pod.key.workload
    return owner.kind, owner.name
