"""Does a GitOps tool write what is ours, or undo what others have written? Pure.

From outside three things are known: who has written a field last, what Argo CD's Application says, and how often the
webhook's configuration has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase

from recommender.api.apiserver.resources import Resource
from recommender.api.policies import ClusterAutomation
from vllm_rightsizer.doctor.facts import CONFIGURATION, Facts, Raw, annotations_of, labels, moment, titled
from vllm_rightsizer.doctor.findings import Finding, Severity

APPLICATIONS = Resource("argoproj.io", "v1alpha1", "applications", "Application")
"""Argo CD's."""

_ARGO_LABEL = "argocd.argoproj.io/instance"
_ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
_FLUX_LABELS = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_MANAGERS = ("argocd", "kustomize-controller", "helm-controller")
_OWN_MANAGER = "vllm-rightsizer"
_GROUP = "admissionregistration.k8s.io"
_BUNDLES = ".webhooks[]?.clientConfig.caBundle"
_OFTEN = 20
_OFTEN_A_DAY = 10
"""The webhook changes its configuration every few months, an upgrade once."""
_PUT_BACK = "it puts an old authority back each time the webhook renews its own, and pods start unmodified then"
_TAKE_OUT = "take caBundle out of the manifest in git"


def gitops_writes_bundle(facts: Facts) -> Iterator[Finding]:
    for raw in facts.configurations:
        writer = next((one for one in _managers(raw, "f:caBundle") if one.startswith(_MANAGERS)), None)
        if writer is not None:
            seen, why = f"{writer} writes the caBundle, too", f"{_PUT_BACK}: {_TAKE_OUT}"
            yield Finding("GitOpsFights", Severity.CRITICAL, titled(raw, CONFIGURATION), seen, why, _shown(raw))


def gitops_fights(facts: Facts) -> Iterator[Finding]:
    for raw in facts.configurations:
        yield from _out_of_sync(facts, raw)
        yield from _often_changed(facts, raw)
    for raw in facts.of(ClusterAutomation.KIND):
        others = _changed_since(raw)
        tool = _tool(raw)
        if tool is not None and others:
            yield Finding(
                "GitOpsFights",
                Severity.WARNING,
                titled(raw, ClusterAutomation.KIND),
                f"{', '.join(sorted(set(others)))} has changed it, and {tool} keeps it as it is in git",
                "the change is undone at the next sync: say the same in git",
                f"kubectl get clusterautomation {raw['metadata']['name']} -o yaml",
            )


def _out_of_sync(facts: Facts, configuration: Raw) -> Iterator[Finding]:
    """An Application that is to undo every difference, sees one, and has no rule that leaves the caBundle out."""
    name = configuration["metadata"]["name"]
    for raw in facts.of(APPLICATIONS.kind):
        spec, status = raw.get("spec") or {}, raw.get("status") or {}
        heals = ((spec.get("syncPolicy") or {}).get("automated") or {}).get("selfHeal")
        differs = any(
            (one.get("kind"), one.get("name"), one.get("status")) == (CONFIGURATION, name, "OutOfSync")
            for one in status.get("resources") or ()
        )
        rules = spec.get("ignoreDifferences") or []
        if not heals or not differs or any(_leaves_out(rule, name) for rule in rules):
            continue
        metadata = raw["metadata"]
        rule = {"group": _GROUP, "kind": CONFIGURATION, "name": name, "jqPathExpressions": [_BUNDLES]}
        where, value = ("/spec/ignoreDifferences/-", rule) if rules else ("/spec/ignoreDifferences", [rule])
        patch = json.dumps([{"op": "add", "path": where, "value": value}])
        about = titled(configuration, CONFIGURATION)
        seen = f"Argo CD's Application {metadata['namespace']}/{metadata['name']} calls it OutOfSync, and heals it"
        why = f"where the difference is the caBundle, {_PUT_BACK}: {_TAKE_OUT}, or have Argo CD ignore it"
        fix = (
            f"kubectl -n {metadata['namespace']} patch applications.argoproj.io {metadata['name']} --type=json "
            f"-p '{patch}'"
        )
        yield Finding("GitOpsFights", Severity.WARNING, about, seen, why, fix)


def _leaves_out(rule: Raw, name: str) -> bool:
    wanted = {"group": _GROUP, "kind": CONFIGURATION}
    if not all(fnmatchcase(value, str(rule.get(key, ""))) for key, value in wanted.items()):
        return False
    if rule.get("name") not in (None, "", name):
        return False
    paths = (*(rule.get("jqPathExpressions") or ()), *(rule.get("jsonPointers") or ()))
    ours = any(str(one).startswith(_OWN_MANAGER) for one in rule.get("managedFieldsManagers") or ())
    return ours or any("caBundle" in str(path) for path in paths)


def _often_changed(facts: Facts, configuration: Raw) -> Iterator[Finding]:
    """A tool that writes and a webhook that writes it back leave no other trace than the number of changes."""
    metadata, tool = configuration["metadata"], _tool(configuration)
    changes = int(metadata.get("generation") or 0)
    if tool is None or changes < _OFTEN or not metadata.get("creationTimestamp"):
        return
    days = (facts.now - moment(metadata["creationTimestamp"])).total_seconds() / 86400
    if changes >= _OFTEN_A_DAY * days:
        about, since = titled(configuration, CONFIGURATION), metadata["creationTimestamp"]
        seen = f"it has been changed {changes} times since {since}, and {tool} keeps it"
        why = f"the webhook changes it every few months. Where {tool} does, {_PUT_BACK}: {_TAKE_OUT}"
        yield Finding("GitOpsFights", Severity.WARNING, about, seen, why, _shown(configuration))


def _shown(configuration: Raw) -> str:
    return f"kubectl get mutatingwebhookconfiguration {configuration['metadata']['name']} -o yaml --show-managed-fields"


def _tool(raw: Raw) -> str | None:
    if _ARGO_TRACKING in annotations_of(raw) or _ARGO_LABEL in labels(raw):
        return "Argo CD"
    return "Flux" if any(name in labels(raw) for name in _FLUX_LABELS) else None


def _managers(raw: Raw, field: str) -> list[str]:
    """Who has written `field`, wherever it stands."""
    found = raw["metadata"].get("managedFields") or ()
    return [str(one["manager"]) for one in found if _holds(one.get("fieldsV1") or {}, field)]


def _changed_since(raw: Raw) -> list[str]:
    """Who has written what a GitOps tool keeps, after its last change: who was there before has handed over."""
    found = [one for one in raw["metadata"].get("managedFields") or () if _holds(one.get("fieldsV1") or {}, "f:spec")]
    of_tools = (str(one.get("time", "")) for one in found if str(one["manager"]).startswith(_MANAGERS))
    last = max(of_tools, default="")
    others = (one for one in found if not str(one["manager"]).startswith((*_MANAGERS, _OWN_MANAGER)))
    return [str(one["manager"]) for one in others if str(one.get("time", "")) >= last]


def _holds(fields: Raw, field: str) -> bool:
    return field in fields or any(_holds(inner, field) for inner in fields.values() if isinstance(inner, dict))
