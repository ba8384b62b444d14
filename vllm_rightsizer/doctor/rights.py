"""What the service accounts of webhook and recommender must be allowed, and what follows where they are not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from recommender.leading import LEASE
from vllm_plugin.names import GROUP
from vllm_rightsizer.doctor.facts import (
    RECOMMENDER,
    WEBHOOK,
    Facts,
    Right,
    arguments,
    option,
    titled,
)
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import restored

_FOLLOW = ("list", "watch")
_OWN_KINDS = ("vllmrecommendations", "vllmpolicies", "automatednamespaces", "clusterautomations")
_OWNERS = (
    ("apps", ("deployments", "replicasets", "statefulsets", "daemonsets")),
    ("batch", ("jobs", "cronjobs")),
    ("argoproj.io", ("rollouts",)),
    ("leaderworkerset.x-k8s.io", ("leaderworkersets",)),
    ("serving.kserve.io", ("inferenceservices",)),
)
_MOST_SHOWN = 6
_Rule = tuple[str, tuple[str, ...], tuple[str, ...]]
"""API group, resources, verbs, in all namespaces."""

_OF_WEBHOOK: tuple[_Rule, ...] = (
    (GROUP, _OWN_KINDS, _FOLLOW),
    *((group, plurals, _FOLLOW) for group, plurals in _OWNERS),
)
_OF_RECOMMENDER: tuple[_Rule, ...] = (
    (GROUP, _OWN_KINDS, _FOLLOW),
    (GROUP, ("vllmrecommendations",), ("create", "patch", "delete")),
    (GROUP, tuple(f"{plural}/status" for plural in _OWN_KINDS), ("patch",)),
    ("", ("pods", "namespaces", "nodes"), _FOLLOW),
    *((group, plurals, _FOLLOW) for group, plurals in _OWNERS),
    ("autoscaling", ("horizontalpodautoscalers",), _FOLLOW),
    ("keda.sh", ("scaledobjects",), _FOLLOW),
    ("events.k8s.io", ("events",), ("create", "patch")),
)
_OF_PLUGIN_MAPS: _Rule = ("", ("configmaps",), (*_FOLLOW, "create"))
_OF_CLAIMS: _Rule = ("resource.k8s.io", ("resourceclaimtemplates",), (*_FOLLOW, "create", "delete"))
_LESSER = {"horizontalpodautoscalers", "scaledobjects", "resourceclaimtemplates", "events"}
"""Without them only what is about them is missing."""


def rights_of_webhook(
    namespace: str, configuration: str, secret: str, *, own_certificates: bool = True
) -> frozenset[Right]:
    """`own_certificates`: it keeps them itself, in the Secret of that name; otherwise cert-manager does."""
    found = set(_spread(WEBHOOK, _OF_WEBHOOK))
    kind = ("admissionregistration.k8s.io", "mutatingwebhookconfigurations")
    verbs = (*_FOLLOW, "patch") if own_certificates else _FOLLOW
    found |= {Right(WEBHOOK, *kind, verb, name=configuration) for verb in verbs}
    if own_certificates:
        found.add(Right(WEBHOOK, "", "secrets", "create", namespace))
        found |= {Right(WEBHOOK, "", "secrets", verb, namespace, secret) for verb in (*_FOLLOW, "patch")}
    return frozenset(found)


def rights_of_recommender(
    namespace: str, *, elects: bool = True, plugin_maps: bool = True, claims: bool = False
) -> frozenset[Right]:
    """`elects`: several of them agree by a Lease; `plugin_maps`: it keeps the plugin in ConfigMaps; `claims`: and
    claims of GPUs in ResourceClaimTemplates."""
    rules = (*_OF_RECOMMENDER, *((_OF_PLUGIN_MAPS,) if plugin_maps else ()), *((_OF_CLAIMS,) if claims else ()))
    found = set(_spread(RECOMMENDER, rules))
    if elects:
        leases = ("coordination.k8s.io", "leases")
        found.add(Right(RECOMMENDER, *leases, "create", namespace))
        found |= {Right(RECOMMENDER, *leases, verb, namespace, LEASE) for verb in ("get", "update")}
    return frozenset(found)


def _spread(component: str, rules: tuple[_Rule, ...]) -> Iterator[Right]:
    for group, plurals, verbs in rules:
        yield from (Right(component, group, plural, verb) for plural in plurals for verb in verbs)


def account_of(facts: Facts, component: str) -> str:
    """The name of its service account."""
    deployment = facts.deployment(component)
    spec = deployment["spec"]["template"]["spec"] if deployment is not None else {}
    return str(spec.get("serviceAccountName") or f"vllm-rightsizer-{component}")


def needed(facts: Facts) -> frozenset[Right]:
    """Of the servers that are there, with the options that they have."""
    webhook, recommender = facts.deployment(WEBHOOK), facts.deployment(RECOMMENDER)
    found: frozenset[Right] = frozenset()
    if webhook is not None:
        found |= rights_of_webhook(
            facts.namespace,
            option(webhook, "configuration", "vllm-rightsizer"),
            option(webhook, "tls-secret", "vllm-rightsizer-webhook-tls"),
            own_certificates=not option(webhook, "tls-dir", ""),
        )
    if recommender is not None:
        said = arguments(recommender)
        found |= rights_of_recommender(
            facts.namespace,
            elects="--no-leader-elect" not in said,
            plugin_maps="--no-plugin-maps" not in said,
            claims="--no-gpu-claims" not in said,
        )
    return found


def rights_missing(facts: Facts) -> Iterator[Finding]:
    for component, lacking in groupby(sorted(facts.lacking), lambda right: right.component):
        rights = list(lacking)
        account = account_of(facts, component)
        lesser = all(right.resource.partition("/")[0] in _LESSER for right in rights)
        by_resource = [_shown(list(same)) for _, same in groupby(rights, lambda right: (right.group, right.resource))]
        more = len(by_resource) - _MOST_SHOWN
        shown = "; ".join(by_resource[:_MOST_SHOWN]) + (f"; and more of {more} resources" if more > 0 else "")
        deployment = facts.deployment(component)
        yield Finding(
            "RightsMissing",
            Severity.WARNING if lesser else Severity.CRITICAL,
            f"ServiceAccount {facts.namespace}/{account}",
            f"it is not allowed to {shown}",
            f"the {component} cannot follow or write these"
            + ("" if deployment is None or lesser else f", and {titled(deployment, 'Deployment')} is not ready"),
            restored(facts, component, "rbac"),
        )


def _shown(rights: list[Right]) -> str:
    """Of one resource, as `list, watch pods`."""
    first = rights[0]
    plural = f"{first.resource}.{first.group}" if first.group else first.resource
    return f"{', '.join(sorted({right.verb for right in rights}))} {plural}"
