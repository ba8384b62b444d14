"""Which pods does the webhook's configuration leave out, by what somebody has changed in it? Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from vllm_plugin.names import LABEL_INJECT
from vllm_rightsizer.doctor.facts import CONFIGURATION, WEBHOOK, Facts, Raw, labels, titled, webhooks_of
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import restored
from vllm_rightsizer.doctor.selectors import selects

_CONDITIONS = ("not-excluded", "no-mirror-pod")
"""Those that we ship."""
_SHOWN = 3


def is_called_for(facts: Facts, namespace: str) -> bool:
    """Whether a configuration selects `namespace`; True where none can be looked at."""
    found = facts.one("Namespace", namespace)
    there = {"kubernetes.io/metadata.name": namespace, **(labels(found) if found is not None else {})}
    selectors = [one.get("namespaceSelector") or {} for raw in facts.own_configurations for one in webhooks_of(raw)]
    return not selectors or any(selects(selector, there) for selector in selectors)


def namespaces_left_out(facts: Facts) -> Iterator[Finding]:
    """Namespaces in scope that the selector does not take. Without a word of theirs, and without vLLM, somebody may
    have left them out on purpose: clouds do so with their own."""
    meant = {pod.namespace for pod in facts.census.pods if pod.engines}
    meant |= {raw["metadata"]["name"] for raw in facts.of("Namespace") if LABEL_INJECT in labels(raw)}
    left_out = [name for name in facts.opted_in if name in meant and not is_called_for(facts, name)]
    own = facts.own_configurations
    if left_out and own:
        shown = ", ".join(left_out[:_SHOWN]) + (f" and {len(left_out) - _SHOWN} more" if left_out[_SHOWN:] else "")
        seen = f"its namespaceSelector does not take namespaces that are in scope: {shown}"
        why = "the API server does not call the webhook for their pods, which start unmodified"
        fix = restored(facts, WEBHOOK, "configuration")
        yield Finding("NamespacesLeftOut", Severity.CRITICAL, titled(own[0], CONFIGURATION), seen, why, fix)


def pods_left_out(facts: Facts) -> Iterator[Finding]:
    """What else keeps the API server from a call: of interest where the pod that was tried was not brought to us."""
    if not facts.probe_came_back_bare:
        return
    for raw in facts.own_configurations:
        for number, webhook in enumerate(raw["webhooks"]):
            narrowed = _narrowed(facts, raw, number) if webhook in webhooks_of(raw) else None
            if narrowed is not None:
                seen, fix = narrowed
                why = "the API server does not call the webhook for all pods; others start unmodified"
                yield Finding("PodsLeftOut", Severity.CRITICAL, titled(raw, CONFIGURATION), seen, why, fix)


def _narrowed(facts: Facts, configuration: Raw, number: int) -> tuple[str, str] | None:
    webhook = configuration["webhooks"][number]
    if not any(_is_for_new_pods(rule) for rule in webhook.get("rules") or ()):
        return "its rules do not name pods that are created", restored(facts, WEBHOOK, "configuration")
    # What no manifest of ours names, applying one does not take away.
    if any((webhook.get("objectSelector") or {}).values()):
        change = {"op": "replace", "path": f"/webhooks/{number}/objectSelector", "value": {}}
        return f"its objectSelector is {json.dumps(webhook['objectSelector'])}", _patched(configuration, change)
    for at, condition in enumerate(webhook.get("matchConditions") or ()):
        if condition["name"] not in _CONDITIONS:
            change = {"op": "remove", "path": f"/webhooks/{number}/matchConditions/{at}"}
            return f"it has a matchCondition that is not ours: {condition['name']}", _patched(configuration, change)
    return None


def _is_for_new_pods(rule: Raw) -> bool:
    wanted = {"apiGroups": "", "apiVersions": "v1", "operations": "CREATE", "resources": "pods"}
    # `*/*` are all resources and their subresources.
    said = all({value, "*", "*/*"} & set(rule.get(name) or ()) for name, value in wanted.items())
    return said and rule.get("scope") != "Cluster"


def _patched(configuration: Raw, change: Raw) -> str:
    name = configuration["metadata"]["name"]
    return f"kubectl patch mutatingwebhookconfiguration {name} --type=json -p '{json.dumps([change])}'"
