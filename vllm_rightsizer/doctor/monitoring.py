"""Does a Prometheus take the monitors that lead to our metrics? Pure.

Others than the Prometheus operator read monitors, too. So a finding needs a Prometheus that could take them and does
not; where there is none, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from recommender.api.apiserver.resources import Resource
from vllm_plugin.names import LABEL_INJECTED
from vllm_rightsizer.doctor.facts import Facts, Raw, labels, titled
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.selectors import selects

_GROUP = "monitoring.coreos.com"
POD_MONITORS = Resource(_GROUP, "v1", "podmonitors", "PodMonitor")
SERVICE_MONITORS = Resource(_GROUP, "v1", "servicemonitors", "ServiceMonitor")
PROMETHEUSES = Resource(_GROUP, "v1", "prometheuses", "Prometheus")
AGENTS = Resource(_GROUP, "v1alpha1", "prometheusagents", "PrometheusAgent")
MONITORING = (POD_MONITORS, SERVICE_MONITORS, PROMETHEUSES, AGENTS)

_SELECTORS = ("podMonitorSelector", "serviceMonitorSelector", "probeSelector", "scrapeConfigSelector")

_WHY = {
    POD_MONITORS.kind: "no Prometheus has the plugins' series: dashboards, rules, and a recommender that reads from "
    "it miss all pods",
    SERVICE_MONITORS.kind: "no Prometheus has the series of this server: its alerts never fire",
}


def monitors_not_selected(facts: Facts) -> Iterator[Finding]:
    readers = [(kind, raw) for kind in (PROMETHEUSES, AGENTS) for raw in facts.of(kind.kind) if _is_managed(raw)]
    if {PROMETHEUSES.kind, AGENTS.kind, "Namespace"} & facts.unseen.keys():
        return
    for resource, monitor in _ours(facts):
        if not readers or any(_refusal(facts, resource, monitor, *reader) is None for reader in readers):
            continue
        seen, fix = _refusal(facts, resource, monitor, *readers[0]) or ("", "")
        others = f", nor is it by {len(readers) - 1} more" if readers[1:] else ""
        about, why = titled(monitor, resource.kind), _WHY[resource.kind]
        yield Finding("MonitorNotSelected", Severity.WARNING, about, f"{seen}{others}", why, fix)


def _is_managed(reader: Raw) -> bool:
    """Of one without any selector the operator leaves the configuration to whoever has written it: nobody knows what it
    scrapes, and a selector would overwrite that."""
    return any(_spec(reader).get(name) is not None for name in _SELECTORS)


def _ours(facts: Facts) -> Iterator[tuple[Resource, Raw]]:
    """By what they lead to: a release, or somebody else, may call them as they like."""
    for raw in facts.of(POD_MONITORS.kind):
        if LABEL_INJECTED in ((_spec(raw).get("selector") or {}).get("matchLabels") or {}):
            yield POD_MONITORS, raw
    services = [labels(raw) for raw in facts.of("Service", facts.namespace)]
    for raw in facts.of(SERVICE_MONITORS.kind, facts.namespace):
        wanted = _spec(raw).get("selector") or {}
        if wanted and any(selects(wanted, found) for found in services):
            yield SERVICE_MONITORS, raw


def _refusal(facts: Facts, resource: Resource, monitor: Raw, kind: Resource, reader: Raw) -> tuple[str, str] | None:
    """Why this Prometheus does not take the monitor, and what makes it; None where it does."""
    field = f"{resource.kind[0].lower()}{resource.kind[1:]}"
    by_labels, by_namespace = _spec(reader).get(f"{field}Selector"), _spec(reader).get(f"{field}NamespaceSelector")
    namespace, name = monitor["metadata"]["namespace"], monitor["metadata"]["name"]
    there = facts.one("Namespace", namespace)
    own = namespace == reader["metadata"]["namespace"]
    if by_labels is None:
        return _says_nothing(kind, reader, f"{field}Selector")
    if by_namespace is None and not own:
        return _says_nothing(kind, reader, f"{field}NamespaceSelector")
    if not selects(by_labels, labels(monitor)):
        seen = f"{titled(reader, kind.kind)} does not select it by its labels"
        return seen, _labelled(f"-n {namespace} label {resource.plural} {name}", by_labels, kind, reader)
    if by_namespace is not None and not selects(by_namespace, labels(there) if there is not None else {}):
        seen = f"{titled(reader, kind.kind)} does not select its namespace"
        return seen, _labelled(f"label namespace {namespace}", by_namespace, kind, reader)
    if resource is POD_MONITORS and _looks_elsewhere(monitor) and _spec(reader).get("ignoreNamespaceSelectors"):
        seen = f"{titled(reader, kind.kind)} has ignoreNamespaceSelectors, and looks for pods in {namespace} alone"
        patch = '{"spec":{"ignoreNamespaceSelectors":false}}'
        return seen, f"{_kubectl(reader)} patch {kind} {reader['metadata']['name']} --type=merge -p '{patch}'"
    return None


def _looks_elsewhere(monitor: Raw) -> bool:
    """Whether it is for pods of other namespaces than its own, too."""
    wanted = _spec(monitor).get("namespaceSelector") or {}
    own = monitor["metadata"]["namespace"]
    return bool(wanted.get("any")) or any(name != own for name in wanted.get("matchNames") or ())


def _says_nothing(kind: Resource, reader: Raw, field: str) -> tuple[str, str]:
    patch = f'{{"spec":{{"{field}":{{}}}}}}'
    fix = f"{_kubectl(reader)} patch {kind} {reader['metadata']['name']} --type=merge -p '{patch}'"
    return f"{titled(reader, kind.kind)} has no {field}, and without it takes none from here", fix


def _labelled(label: str, selector: Raw, kind: Resource, reader: Raw) -> str:
    """What the selector wants, where it says so by plain labels; else a look at it."""
    if selector.get("matchExpressions"):
        return f"{_kubectl(reader)} get {kind} {reader['metadata']['name']} -o jsonpath='{{.spec}}'"
    wanted = " ".join(f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items()))
    return f"kubectl {label} {wanted} --overwrite"


def _kubectl(reader: Raw) -> str:
    return f"kubectl -n {reader['metadata']['namespace']}"


def _spec(raw: Raw) -> Raw:
    found: Raw = raw.get("spec") or {}
    return found
