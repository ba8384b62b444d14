"""Is what people say in policies and automation there, followed, and left alone by others? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recommender.api.policies import DEFAULT_POLICY, VALID, AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.scopes import ENABLED, Scope
from recommender.conditions import CONTRADICTORY
from vllm_plugin.names import ANNOTATION_POLICY, API_VERSION, LABEL_INJECT
from vllm_rightsizer.doctor.facts import CONFIGURATION, Facts, Raw, annotations_of, condition, labels, titled
from vllm_rightsizer.doctor.findings import Finding, Severity

_SETTINGS = (VLLMPolicy.KIND, AutomatedNamespace.KIND, ClusterAutomation.KIND)
_GITOPS_LABELS = ("argocd.argoproj.io/instance", "kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_GITOPS_TRACKING = "argocd.argoproj.io/tracking-id"
_GITOPS_MANAGERS = ("argocd", "kustomize-controller", "helm-controller")
_OWN_MANAGER = "vllm-rightsizer"


def nobody_opted_in(facts: Facts) -> Iterator[Finding]:
    if facts.opted_in or "Namespace" in facts.unseen:
        return
    wanted = f"label {LABEL_INJECT}={ENABLED}" if facts.scope is Scope.OPT_IN else f"label {LABEL_INJECT}-"
    seen = f"no namespace has the label {LABEL_INJECT}: {ENABLED}"
    if facts.scope is Scope.OPT_OUT:
        seen = f"all namespaces have the label {LABEL_INJECT}: disabled"
    why = "the webhook is called for no pod: nothing is measured"
    fix = f"kubectl label namespace NAME {wanted.removeprefix('label ')}"
    yield Finding("NobodyOptedIn", Severity.WARNING, "Namespaces", seen, why, fix)


def setting_invalid(facts: Facts) -> Iterator[Finding]:
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
    for about, name in _named(facts):
        if name not in there and about not in shown:
            shown.add(about)
            yield Finding(
                "PolicyMissing",
                Severity.WARNING,
                about,
                f"it names the VLLMPolicy {name}, which is not there",
                "the workloads concerned get no size",
                "kubectl create -f - <<'EOF'\n"
                f"{{apiVersion: {API_VERSION}, kind: VLLMPolicy, metadata: {{name: {name}}}, spec: {{}}}}\n"
                "EOF",
            )


def _named(facts: Facts) -> Iterator[tuple[str, str]]:
    for kind in (ClusterAutomation.KIND, AutomatedNamespace.KIND):
        for raw in facts.of(kind):
            if name := (raw.get("spec") or {}).get("defaultVllmPolicy"):
                yield titled(raw, kind), str(name)
    for pod in (*facts.pods.injected, *facts.pods.bare):
        if name := pod.annotations.get(ANNOTATION_POLICY):
            yield f"{pod.key.workload.kind} {pod.key.namespace}/{pod.key.workload.name}", str(name)


def automation_without_namespace(facts: Facts) -> Iterator[Finding]:
    if "Namespace" in facts.unseen:
        return
    for raw in facts.of(AutomatedNamespace.KIND):
        name = raw["metadata"]["name"]
        if facts.one("Namespace", name) is None:
            seen, fix = "there is no Namespace of that name", f"kubectl delete automatednamespace {name}"
        elif name not in facts.opted_in:
            seen = "the Namespace of that name has not opted in"
            fix = f"kubectl label --overwrite namespace {name} {LABEL_INJECT}={ENABLED}"
        else:
            continue
        why = "it says something about pods that the webhook never sees"
        yield Finding("AutomationWithoutPods", Severity.WARNING, titled(raw, AutomatedNamespace.KIND), seen, why, fix)


def gitops_fights(facts: Facts) -> Iterator[Finding]:
    """A GitOps tool that writes the caBundle, or that will undo what somebody has edited."""
    for raw in facts.configurations:
        writer = next((one for one in _managers(raw, "f:caBundle") if one.startswith(_GITOPS_MANAGERS)), None)
        if writer is not None:
            yield Finding(
                "GitOpsFights",
                Severity.CRITICAL,
                titled(raw, CONFIGURATION),
                f"{writer} writes the caBundle, too",
                "it puts an old authority back each time the webhook renews its own: pods start unmodified then",
                f"kubectl get mutatingwebhookconfiguration {raw['metadata']['name']} -o yaml --show-managed-fields"
                "   # then take caBundle out of the manifest in git",
            )
    for raw in facts.of(ClusterAutomation.KIND):
        others = [one for one in _managers(raw, "f:spec") if not one.startswith((*_GITOPS_MANAGERS, _OWN_MANAGER))]
        tool = _gitops(raw)
        if tool is not None and others:
            yield Finding(
                "GitOpsFights",
                Severity.WARNING,
                titled(raw, ClusterAutomation.KIND),
                f"{', '.join(sorted(set(others)))} has changed it, and {tool} keeps it as it is in git",
                "the change is undone at the next sync",
                f"kubectl get clusterautomation {raw['metadata']['name']} -o yaml   # then say the same in git",
            )


def _gitops(raw: Raw) -> str | None:
    if _GITOPS_TRACKING in annotations_of(raw) or _GITOPS_LABELS[0] in labels(raw):
        return "Argo CD"
    return "Flux" if any(name in labels(raw) for name in _GITOPS_LABELS[1:]) else None


def _managers(raw: Raw, field: str) -> list[str]:
    """Who has written `field`, wherever it stands."""
    found = raw["metadata"].get("managedFields") or ()
    return [str(one["manager"]) for one in found if _holds(one.get("fieldsV1") or {}, field)]


def _holds(fields: Raw, field: str) -> bool:
    return field in fields or any(_holds(inner, field) for inner in fields.values() if isinstance(inner, dict))


def _settings(facts: Facts) -> Iterator[Raw]:
    for kind in _SETTINGS:
        yield from facts.of(kind)
