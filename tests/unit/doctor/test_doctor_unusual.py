"""Installations that are unusual and well: nothing is said of them."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import doctor_faults_of_others as others
import pytest
from doctor_faults import UNANSWERED, Fault, Known
from installation import CHAT, NOW, POD, Installation, authority, names, vllm_pod

from recommender.api.scopes import Scope
from recommender.api.workloads import recommendation_name
from vllm_plugin.names import ANNOTATION_EMITTER, LABEL_INJECT
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.facts import CONFIGURATION, Facts, Probe
from vllm_rightsizer.doctor.findings import Finding, diagnosed
from vllm_rightsizer.doctor.selection import is_called_for
from webhook.pairs import Lifetimes, new_leaf

WEBHOOK, RECOMMENDER = "vllm-rightsizer-webhook", "vllm-rightsizer-recommender"
NOT_ALLOWED = "you are not allowed to list it"


def examined(there: Installation, **known: Any) -> list[Finding]:
    return diagnosed(there.facts(**known), CHECKS)


def options(there: Installation, deployment: str) -> list[str]:
    found: list[str] = there.one("Deployment", deployment)["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def opt_out(there: Installation) -> None:
    """As the chart says it, to webhook and recommender. A namespace without a label has vLLM pods."""
    selector = there.webhook["namespaceSelector"]
    del selector["matchLabels"]
    selector["matchExpressions"].append({"key": LABEL_INJECT, "operator": "NotIn", "values": ["disabled"]})
    options(there, RECOMMENDER).append("--scope=OptOut")
    there.one("Namespace", CHAT)["metadata"]["labels"] = {}
    there.add({"kind": "ConfigMap", "metadata": {"name": "plugin", "namespace": "others"}})


def opt_out_that_may_not_be_seen(there: Installation) -> Known:
    opt_out(there)
    there.objects[CONFIGURATION].clear()
    return {"unseen": {CONFIGURATION: NOT_ALLOWED}}


def neither_configuration_nor_deployments_may_be_seen(there: Installation) -> Known:
    opt_out_that_may_not_be_seen(there)
    for kind in ("Deployment", "Service", "EndpointSlice"):
        there.objects[kind].clear()
    there.remove("ConfigMap")
    kinds = (CONFIGURATION, "Deployment", "Service", "EndpointSlice")
    return {"unseen": dict.fromkeys(kinds, NOT_ALLOWED), "probe": None, "pages": {}}


def namespaces_that_a_cloud_leaves_out(there: Installation) -> None:
    """Azure adds a term to every selector; nobody runs vLLM there."""
    opt_out(there)
    there.webhook["namespaceSelector"]["matchExpressions"].append({"key": "control-plane", "operator": "DoesNotExist"})
    there.one("Namespace", "others")["metadata"]["labels"] = {"control-plane": "true"}


def certificate_of_a_day(_there: Installation) -> Known:
    leaf = new_leaf(authority(), ["x"], NOW, Lifetimes(leaf=timedelta(days=1)))
    return {"leaf": leaf.certificate, "now": NOW + timedelta(hours=16)}


def namespace_that_is_being_deleted(there: Installation) -> None:
    there.one("Namespace", "others")["metadata"]["deletionTimestamp"] = "2026-11-21T11:59:00Z"
    there.add({"kind": "AutomatedNamespace", "metadata": {"name": "others"}, "spec": {"vllmOptimize": True}})


def gpu_nodes_that_are_not_needed_now(there: Installation) -> None:
    there.one("ClusterAutomation")["spec"]["emitter"] = "gpushare"
    there.add({"kind": "DaemonSet", "metadata": {"name": "gpushare-device-plugin-ds", "namespace": "kube-system"}})


def hami_without_its_webhook(there: Installation) -> None:
    there.one("ClusterAutomation")["spec"]["emitter"] = "hami"
    there.add({"kind": "Deployment", "metadata": {"name": "hami-scheduler", "namespace": "kube-system"}})


def prometheus_whose_configuration_is_somebodys_own(there: Installation) -> None:
    there.add(others.pod_monitor())
    there.add(others.prometheus(replicas=2))


def service_with_one_more_port(there: Installation) -> None:
    ports = there.one("Service", WEBHOOK)["spec"]["ports"]
    ports.append({"name": "debug", "port": 9000, "targetPort": 9000})


def pods_of_a_group_that_the_user_has_named(there: Installation) -> Known:
    """The recommender hears of them, and the API server does not reach them."""
    spec = there.one("ClusterAutomation")["spec"]
    spec["customOwnerGroups"] = [{"name": "fleet", "matchLabels": {"app": "llama"}}]
    [pod] = there.facts().pods.injected
    assert pod.key.workload.name == "fleet"
    name = recommendation_name(pod.key.workload, pod.key.container)
    there.one("VLLMRecommendation")["metadata"]["name"] = name
    return {"pages": UNANSWERED}


def network_that_keeps_the_api_server_from_pods(there: Installation) -> Known:
    """And who asks may not see what the recommender hears."""
    there.objects["VLLMRecommendation"].clear()
    return {"pages": UNANSWERED, "unseen": {"VLLMRecommendation": NOT_ALLOWED}}


def release_that_argo_cd_has_taken_over(there: Installation) -> None:
    """Helm's name stays among the managers, with fields that both have written."""
    metadata = there.one("ClusterAutomation")["metadata"]
    metadata["labels"]["argocd.argoproj.io/instance"] = "platform"
    fields = {"f:spec": {"f:vllmOptimize": {}}}
    metadata["managedFields"] = [
        {"manager": "helm", "fieldsV1": fields, "time": "2026-11-01T12:00:00Z"},
        {"manager": "argocd-controller", "fieldsV1": fields, "time": "2026-11-20T12:00:00Z"},
    ]


def webhook_that_brings_the_plugin_nowhere(there: Installation) -> Known:
    options(there, WEBHOOK).append("--injection=none")
    there.webhook["objectSelector"] = {"matchLabels": {"gpu": "yes"}}
    return {"probe": Probe(CHAT)}


@pytest.mark.parametrize(
    "unusual",
    [
        webhook_that_brings_the_plugin_nowhere,
        release_that_argo_cd_has_taken_over,
        network_that_keeps_the_api_server_from_pods,
        opt_out,
        opt_out_that_may_not_be_seen,
        neither_configuration_nor_deployments_may_be_seen,
        namespaces_that_a_cloud_leaves_out,
        certificate_of_a_day,
        namespace_that_is_being_deleted,
        gpu_nodes_that_are_not_needed_now,
        hami_without_its_webhook,
        prometheus_whose_configuration_is_somebodys_own,
        service_with_one_more_port,
        pods_of_a_group_that_the_user_has_named,
    ],
    ids=lambda make: make.__name__,
)
def test_unusual_and_well(unusual: Fault) -> None:
    there = Installation()
    known = unusual(there) or {}
    found = [one for one in examined(there, **known) if one.name != "NotLookedAt"]
    assert found == []


def test_a_pod_is_tried_where_the_webhook_is_called() -> None:
    there = Installation()
    namespaces_that_a_cloud_leaves_out(there)
    facts = there.facts()
    assert [name for name in facts.opted_in if is_called_for(facts, name)] == [CHAT]


def test_a_former_installation_does_not_say_for_whom_this_one_is_called() -> None:
    there = Installation()
    opt_in = copy.deepcopy(there.webhook["namespaceSelector"])
    opt_out(there)
    former = copy.deepcopy(there.one(CONFIGURATION))
    former["metadata"]["name"] = "former"
    former["webhooks"][0]["clientConfig"]["service"]["namespace"] = "elsewhere"
    there.add(former)
    there.webhook["namespaceSelector"] = opt_in
    options(there, RECOMMENDER).remove("--scope=OptOut")
    assert there.facts().scope is Scope.OPT_IN


def test_what_holds_for_many_is_said_once() -> None:
    there = Installation()
    there.remove("ConfigMap")
    there.add({"kind": "Namespace", "metadata": {"name": "next", "labels": {LABEL_INJECT: "enabled"}}})
    for name in (POD, "llama-1"):
        pod = there.one("Pod", POD) if name == POD else there.add(vllm_pod(name))
        pod["metadata"]["annotations"] = {ANNOTATION_EMITTER: "volcano"}
    found = examined(there)
    assert names(found) == ["PluginMapMissing", "SchedulerMissing"]
    assert [one.about for one in found] == ["Namespace chat and 1 more", "Pod chat/llama-0"]


def test_a_rule_of_argo_cd_for_all_kinds() -> None:
    there = Installation()
    rule = {"group": "*", "kind": "*", "managedFieldsManagers": ["vllm-rightsizer-webhook"]}
    there.add(others.application(ignoreDifferences=[rule]))
    assert examined(there) == []


def test_a_check_that_fails_takes_no_other_along() -> None:
    def broken(_facts: Facts) -> list[Finding]:
        raise KeyError("odd")

    there = Installation()
    there.condition("Degraded", "True")
    found = diagnosed(there.facts(), (broken, *CHECKS))
    assert names(found) == ["RecommendationDegraded", "CheckFailed"]
    assert (found[1].about, found[1].seen) == ("Check broken", "the check has failed: KeyError: 'odd'")
