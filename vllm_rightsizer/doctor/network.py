"""Would a NetworkPolicy keep the recommender from a port of a pod? Pure.

What says nothing of pods (addresses) counts as letting through: by where it comes from the recommender cannot be told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from vllm_plugin.names import LABEL_INJECTED
from vllm_rightsizer.doctor.facts import RECOMMENDER, Facts, Raw, labels
from vllm_rightsizer.doctor.selectors import selects


def blocking_policy(facts: Facts, pod: Raw, port: int) -> Raw | None:
    """One of the policies around `pod` where none of them lets the recommender through; None where one does, or where
    there are none."""
    around = [
        policy
        for policy in facts.of("NetworkPolicy", pod["metadata"]["namespace"])
        if "Ingress" in (policy["spec"].get("policyTypes") or ("Ingress",))
        and selects(policy["spec"].get("podSelector") or {}, labels(pod))
    ]
    if not around or any(_admits(facts, policy, pod, port) for policy in around):
        return None
    return around[0]


def letting_through(facts: Facts, pod: Raw, port: int) -> str:
    """The command that lets the recommender reach plugins in the pod's namespace, whatever else stands there: what one
    NetworkPolicy allows, another does not take away."""
    recommender = facts.deployment(RECOMMENDER)
    wanted = {} if recommender is None else recommender["spec"]["selector"].get("matchLabels") or {}
    there = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": facts.namespace}}}
    rule = {"from": [{**there, "podSelector": {"matchLabels": wanted}}], "ports": [{"port": port}]}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"vllm-rightsizer-plugin-{port}", "namespace": pod["metadata"]["namespace"]},
        "spec": {
            "podSelector": {"matchLabels": {LABEL_INJECTED: "true"}},
            "policyTypes": ["Ingress"],
            "ingress": [rule],
        },
    }
    return f"kubectl apply -f - <<'EOF'\n{json.dumps(policy)}\nEOF"


def _admits(facts: Facts, policy: Raw, pod: Raw, port: int) -> bool:
    return any(
        _opens(rule.get("ports"), pod, port) and _comes_from(facts, rule.get("from"), policy["metadata"]["namespace"])
        for rule in policy["spec"].get("ingress") or ()
    )


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


def _comes_from(facts: Facts, peers: Sequence[Raw] | None, own: str) -> bool:
    if not peers:
        return True
    return any(_is_recommender(facts, peer, own) for peer in peers)


def _is_recommender(facts: Facts, peer: Raw, own: str) -> bool:
    if "ipBlock" in peer:
        return True
    namespace = facts.one("Namespace", facts.namespace)
    there = {"kubernetes.io/metadata.name": facts.namespace, **(labels(namespace) if namespace is not None else {})}
    in_namespace = (
        selects(peer["namespaceSelector"] or {}, there) if "namespaceSelector" in peer else own == facts.namespace
    )
    if "podSelector" not in peer:
        return in_namespace
    deployment = facts.deployment(RECOMMENDER)
    of_pods = {} if deployment is None else deployment["spec"]["template"]["metadata"].get("labels") or {}
    return in_namespace and selects(peer["podSelector"] or {}, of_pods)
