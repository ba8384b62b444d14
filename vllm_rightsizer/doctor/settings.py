"""Is what people say in labels, policies and automation there, and followed? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.api.policies import DEFAULT_POLICY, VALID, AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.scopes import ENABLED, Scope
from recommender.conditions import CONTRADICTORY
from recommender.discovery import Pod
from vllm_plugin.names import API_VERSION, LABEL_INJECT
from vllm_rightsizer.doctor.facts import CONFIGURATION, Facts, Raw, condition, labels, titled
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import given, shown
from webhook.detection import detect

_SETTINGS = (VLLMPolicy.KIND, AutomatedNamespace.KIND, ClusterAutomation.KIND)


def nobody_opted_in(facts: Facts) -> Iterator[Finding]:
    if facts.opted_in or "Namespace" in facts.unseen or {CONFIGURATION, "Deployment"} <= facts.unseen.keys():
        return
    own = " but our own" if _covers_own(facts) else ""
    if facts.scope is Scope.OPT_IN:
        seen, label = f"no namespace{own} has the label {LABEL_INJECT}: {ENABLED}", f"{LABEL_INJECT}={ENABLED}"
    else:
        seen, label = f"all namespaces{own} have the label {LABEL_INJECT}: disabled", f"{LABEL_INJECT}-"
    why = "the webhook is called for no pod: nothing is measured"
    # One in which vLLM runs, where there is any.
    with_vllm = sorted({pod.namespace for pod in facts.census.pods if pod.engines} - {facts.namespace})
    if with_vllm:
        fix = f"kubectl label --overwrite namespace {with_vllm[0]} {label}"
    else:
        why += f"; label the one with your vLLM pods: {label}"
        fix = "kubectl get namespaces --show-labels"
    yield Finding("NobodyOptedIn", Severity.WARNING, "Namespaces", seen, why, fix)


def _covers_own(facts: Facts) -> bool:
    """Whether our own namespace would be in scope, were it any other."""
    own = facts.one("Namespace", facts.namespace)
    return own is not None and facts.scope.covers(facts.namespace, labels(own))


def vllm_beside_us(facts: Facts) -> Iterator[Finding]:
    """One finding a workload, as long as nobody says that it is to be left alone."""
    if not _covers_own(facts):
        return
    first_of_each: dict[object, Pod] = {}
    for one in facts.census.pods:
        for pod in one.engines if one.namespace == facts.namespace else ():
            excluded = pod.excluded or facts.pods.ownership.excluded(one.namespace, {"metadata": one.metadata})
            # A guess is not enough: the image that we run ourselves may be called anything.
            if not excluded and detect(facts.pod(one.namespace, pod.name)).engines:
                first_of_each.setdefault(pod.key, pod)
    for pod in first_of_each.values():
        about = f"{pod.key.workload.kind} {pod.key.namespace}/{pod.key.workload.name}"
        seen = "it runs vLLM in the namespace of webhook and recommender"
        why = "of its own namespace the webhook is never asked, whatever the label: move the workload to another one, "
        why += "or install us into one of our own"
        yield Finding("VLLMBesideUs", Severity.WARNING, about, seen, why, shown(pod))


def setting_invalid(facts: Facts) -> Iterator[Finding]:
    """What a policy says that is not built yet (`PartlyFollowed`) is no finding: no command mends that."""
    for raw in _settings(facts):
        said = condition(raw, VALID)
        if said is None or (said["status"] == "True" and said.get("reason") != CONTRADICTORY):
            continue
        fix = f"kubectl edit {raw['kind'].lower()} {raw['metadata']['name']}"
        if said["status"] == "True":
            why = "its settings do not go together: it is followed as far as it can be"
            yield Finding("PolicyContradictory", Severity.WARNING, titled(raw), str(said.get("message")), why, fix)
        else:
            why = "what stands there now is not followed"
            yield Finding("SettingInvalid", Severity.WARNING, titled(raw), str(said.get("message")), why, fix)


def policy_missing(facts: Facts) -> Iterator[Finding]:
    """Automation, or a pod's annotation, names a policy that there is not."""
    if VLLMPolicy.KIND in facts.unseen or VLLMPolicy.KIND in facts.absent:
        return
    there = {raw["metadata"]["name"] for raw in facts.of(VLLMPolicy.KIND)} | {DEFAULT_POLICY}
    shown: set[str] = set()
    head = {"apiVersion": API_VERSION, "kind": VLLMPolicy.KIND}
    for about, name in _named(facts):
        if name not in there and about not in shown:
            shown.add(about)
            yield Finding(
                "PolicyMissing",
                Severity.WARNING,
                about,
                f"it names the VLLMPolicy {name}, which is not there",
                "the workloads concerned get no size",
                given("create", {**head, "metadata": {"name": name}, "spec": {}}),
            )


def _named(facts: Facts) -> Iterator[tuple[str, str]]:
    for kind in (ClusterAutomation.KIND, AutomatedNamespace.KIND):
        for raw in facts.of(kind):
            if name := (raw.get("spec") or {}).get("defaultVllmPolicy"):
                yield titled(raw, kind), str(name)
    for pod in (*facts.pods.injected, *facts.pods.bare):
        said = facts.automation_of(pod)
        if not (pod.excluded or said.excluded):
            # Without a word of theirs it is the default.
            yield f"{pod.key.workload.kind} {pod.key.namespace}/{pod.key.workload.name}", said.policy


def automation_without_namespace(facts: Facts) -> Iterator[Finding]:
    if "Namespace" in facts.unseen:
        return
    for raw in facts.of(AutomatedNamespace.KIND):
        name = raw["metadata"]["name"]
        namespace = facts.one("Namespace", name)
        if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
            continue
        if namespace is None:
            seen, fix = "there is no Namespace of that name", f"kubectl delete automatednamespace {name}"
        elif name == facts.namespace:
            seen, fix = "of our own namespace the webhook is never asked", f"kubectl delete automatednamespace {name}"
        elif name not in facts.opted_in:
            seen = "the Namespace of that name has not opted in"
            fix = f"kubectl label --overwrite namespace {name} {LABEL_INJECT}={ENABLED}"
        else:
            continue
        why = "it says something about pods that the webhook never sees"
        yield Finding("AutomationWithoutPods", Severity.WARNING, titled(raw, AutomatedNamespace.KIND), seen, why, fix)


def _settings(facts: Facts) -> Iterator[Raw]:
    for kind in _SETTINGS:
        yield from facts.of(kind)
