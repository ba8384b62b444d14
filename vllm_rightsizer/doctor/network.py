"""Would a NetworkPolicy keep the recommender from a port of a pod, where it goes out or where it comes in; or the API
server from the webhook? Pure.

Addresses are held against those of the pods: a network that hides them does so from pods elsewhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_plugin.names import LABEL_INJECTED
from vllm_rightsizer.doctor.facts import RECOMMENDER, Facts, Raw, labels
from vllm_rightsizer.doctor.fixes import given
from vllm_rightsizer.doctor.selectors import Labels, selects


@dataclass(frozen=True)
class _Side:
    """One end of a connection: what policies know of a pod. Without `addresses` nobody knows them."""

    namespace: str
    labels: Labels
    addresses: tuple[str, ...]


def blocking_policy(facts: Facts, pod: Raw, port: int) -> Raw | None:
    """One of the policies around `pod` where none of them lets the recommender in; else one around the recommender
    where none lets it out to `pod`; None where it gets through, or where nobody knows the recommender's labels."""
    deployment = facts.deployment(RECOMMENDER)
    if deployment is None:
        return None
    said = deployment["spec"]["template"]["metadata"].get("labels") or {}
    recommender = _Side(facts.namespace, said, _addresses(facts.pods_of(deployment)))
    vllm = _Side(pod["metadata"]["namespace"], labels(pod), _addresses((pod,)))
    into = _refusing(facts, pod, port, vllm, recommender)
    return into or _refusing(facts, pod, port, recommender, vllm, outwards=True)


def keeping_callers_out(facts: Facts, webhook: Raw, port: int) -> Raw | None:
    """A policy around a pod of the webhook, where none lets in who is no pod: the API server."""
    own = _Side(facts.namespace, labels(webhook), ())
    return _refusing(facts, webhook, port, own, None)


def _refusing(
    facts: Facts, pod: Raw, port: int, own: _Side, other: _Side | None, *, outwards: bool = False
) -> Raw | None:
    """One of the policies around `own`, where none of them lets through what goes between it and `other` to `port` of
    `pod`. No `other`: one that is no pod, and whose address nobody knows."""
    type_, rules, peers = ("Egress", "egress", "to") if outwards else ("Ingress", "ingress", "from")
    if pod["spec"].get("hostNetwork") and not outwards:
        # Of pods on their node's network a policy around them says nothing.
        return None
    around = [policy for policy in facts.of("NetworkPolicy", own.namespace) if _is_around(policy, type_, own)]
    admitted = (
        _opens(rule.get("ports"), pod, port) and _meets(facts, rule.get(peers), own, other)
        for policy in around
        for rule in policy["spec"].get(rules) or ()
    )
    return around[0] if around and not any(admitted) else None


def _addresses(pods: Iterable[Raw]) -> tuple[str, ...]:
    found = ((pod.get("status") or {}).get("podIP") for pod in pods)
    return tuple(str(one) for one in found if one)


def _is_around(policy: Raw, type_: str, own: _Side) -> bool:
    spec = policy["spec"]
    # As the API server fills it in.
    types = spec.get("policyTypes") or (("Ingress", "Egress") if spec.get("egress") else ("Ingress",))
    return type_ in types and selects(spec.get("podSelector") or {}, own.labels)


def letting_through(facts: Facts, pod: Raw, port: int, blocking: Raw) -> str:
    """The command that lets the recommender reach plugins in the pod's namespace, at that end where `blocking` stands:
    what one NetworkPolicy allows, another does not take away."""
    deployment, namespace = facts.deployment(RECOMMENDER), pod["metadata"]["namespace"]
    assert deployment is not None, "without it no policy is known to block"
    wanted = deployment["spec"]["selector"].get("matchLabels") or {}
    recommender = {"podSelector": {"matchLabels": wanted}}
    plugins = {"podSelector": {"matchLabels": {LABEL_INJECTED: "true"}}}
    if blocking["metadata"]["namespace"] == facts.namespace:
        name, where, type_ = f"vllm-rightsizer-to-{namespace}-{port}", facts.namespace, "Egress"
        rule = {"to": [{**_in_namespace(namespace), **plugins}], "ports": [{"port": port}]}
        spec = {**recommender, "policyTypes": [type_], "egress": [rule]}
    else:
        name, where, type_ = f"vllm-rightsizer-plugin-{port}", namespace, "Ingress"
        rule = {"from": [{**_in_namespace(facts.namespace), **recommender}], "ports": [{"port": port}]}
        spec = {**plugins, "policyTypes": [type_], "ingress": [rule]}
    return _applied(name, where, spec)


def letting_callers_in(facts: Facts, deployment: Raw, port: int) -> str:
    """The same for the API server and the webhook."""
    wanted = deployment["spec"]["selector"].get("matchLabels") or {}
    spec = {
        "podSelector": {"matchLabels": wanted},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": port}]}],
    }
    return _applied(f"vllm-rightsizer-webhook-{port}", facts.namespace, spec)


def _applied(name: str, namespace: str, spec: Raw) -> str:
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return given("apply", {**head, "metadata": {"name": name, "namespace": namespace}, "spec": spec})


def _in_namespace(name: str) -> Raw:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _opens(ports: Sequence[Raw] | None, pod: Raw, port: int) -> bool:
    if not ports:
        return True
    return any(_means(one, pod, port) for one in ports if one.get("protocol", "TCP") == "TCP")


def _means(one: Raw, pod: Raw, port: int) -> bool:
    said = one.get("port")
    if said is None:
        return True
    if isinstance(said, str):
        declared = (item for container in pod["spec"]["containers"] for item in container.get("ports") or ())
        return any(item.get("name") == said and item["containerPort"] == port for item in declared)
    return int(said) <= port <= int(one.get("endPort") or said)


def _meets(facts: Facts, peers: Sequence[Raw] | None, own: _Side, other: _Side | None) -> bool:
    return not peers or any(_is_one(facts, peer, own, other) for peer in peers)


def _is_one(facts: Facts, peer: Raw, own: _Side, other: _Side | None) -> bool:
    if "ipBlock" in peer:
        addresses = other.addresses if other is not None else ()
        return not addresses or any(_lies_in(peer["ipBlock"], address) for address in addresses)
    if other is None:
        # All other peers are pods, even where a selector takes every one of them.
        return False
    namespace = facts.one("Namespace", other.namespace)
    there = {"kubernetes.io/metadata.name": other.namespace, **(labels(namespace) if namespace is not None else {})}
    in_namespace = (
        selects(peer["namespaceSelector"] or {}, there)
        if "namespaceSelector" in peer
        else own.namespace == other.namespace
    )
    return in_namespace and ("podSelector" not in peer or selects(peer["podSelector"] or {}, other.labels))


def _lies_in(block: Raw, address: str) -> bool:
    """Of one family: others never lie in each other."""
    found = ipaddress.ip_address(address)
    excepted = block.get("except") or ()
    return found in ipaddress.ip_network(block["cidr"], strict=False) and not any(
        found in ipaddress.ip_network(one, strict=False) for one in excepted
    )
