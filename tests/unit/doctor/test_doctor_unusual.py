"""Installations that are unusual and well: nothing is said of them."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import doctor_faults_of_others as others
import pytest
from doctor_faults import UNANSWERED, Fault, Known, network
from installation import CHAT, NOW, OURS, POD, Installation, authority, bare, names, vllm_pod

from recommender.api.scopes import Scope
from recommender.api.workloads import recommendation_name
from vllm_plugin.names import ANNOTATION_EMITTER, ANNOTATION_EXCLUDE, ANNOTATION_POLICY, LABEL_INJECT
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.facts import CONFIGURATION, Facts, Page, Probe
from vllm_rightsizer.doctor.findings import Finding, diagnosed
from vllm_rightsizer.doctor.selection import is_called_for
from webhook.injection import INIT_CONTAINER
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


def pod_that_still_loads_behind_a_network_that_keeps_the_api_server_away(there: Installation) -> Known:
    for number in (1, 2):
        there.add(vllm_pod(f"llama-{number}"))
    there.add(vllm_pod("llama-3"))["status"]["containerStatuses"][0]["ready"] = False
    message = "3 of 4 pods report; pod llama-3: connection refused"
    there.condition("PluginReporting", "True", "Reporting", message=message)
    return {"pages": unanswered("llama-0", "llama-1", "llama-2")}


def workload_of_which_nothing_is_written_yet(there: Installation) -> Known:
    """Behind such a network; pages of another namespace come through."""
    there.objects["VLLMRecommendation"].clear()
    return {"pages": {**UNANSWERED, ("others", POD, "vllm"): Page()}}


def unanswered(*pods: str) -> dict[tuple[str, str, str], Page]:
    return {(CHAT, pod, "vllm"): Page("no route to host", answered=False) for pod in pods}


def monitor_of_the_pods_own_namespace(there: Installation) -> None:
    monitor = there.add(others.pod_monitor())
    monitor["metadata"]["namespace"] = CHAT
    everywhere = {"podMonitorSelector": {}, "podMonitorNamespaceSelector": {}}
    there.add(others.prometheus(ignoreNamespaceSelectors=True, **everywhere))


def monitor_that_names_its_own_namespace(there: Installation) -> None:
    monitor_of_the_pods_own_namespace(there)
    there.one("PodMonitor")["spec"]["namespaceSelector"] = {"matchNames": [CHAT]}


def excluded_pod_with_annotations_that_lead_nowhere(there: Installation) -> None:
    annotations = {ANNOTATION_EXCLUDE: "true", ANNOTATION_POLICY: "bold", ANNOTATION_EMITTER: "volcano"}
    there.one("Pod", POD)["metadata"]["annotations"] = annotations


def excluded_workload_with_annotations_that_lead_nowhere(there: Installation) -> None:
    annotations = {ANNOTATION_EXCLUDE: "true", ANNOTATION_POLICY: "bold", ANNOTATION_EMITTER: "volcano"}
    metadata = {"name": "llama", "namespace": CHAT, "annotations": annotations}
    there.add({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata})


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


def plugin_of_another_version_than_the_doctor(there: Installation) -> Known:
    """And that of the one before is still there."""
    former = there.one("ConfigMap")
    name = "vllm-rightsizer-plugin-0123456789"
    there.add({"kind": "ConfigMap", "metadata": {**former["metadata"], "name": name}})
    return {"probe": Probe(CHAT, marked=True, plugin_map=name)}


def plugin_that_came_after_a_pod_that_is_heard(there: Installation) -> None:
    """Its vLLM took longer than that to come so far as to load it."""
    there.one("ConfigMap")["metadata"]["creationTimestamp"] = "2026-11-21T11:00:07Z"
    [state] = there.one("Pod", POD)["status"]["containerStatuses"]
    state["state"] = {"running": {"startedAt": "2026-11-21T11:00:05Z"}}


def vllm_image_that_is_not_pulled(there: Installation) -> Known:
    """The author's business, in each way."""
    others.by_image(there, "image-volume")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "vllm/vllm-openai:v0.11.0"'}
    state = {"name": "vllm", "ready": False, "state": {"waiting": waiting}}
    there.one("Pod", POD)["status"] = {"phase": "Pending", "containerStatuses": [state]}
    return {"pages": {}}


def injector_that_is_being_pulled(there: Installation) -> Known:
    others.by_image(there, "init-container")
    waiting = {"waiting": {"reason": "PodInitializing"}}
    states = [{"name": name, "ready": False, "state": waiting} for name in (INIT_CONTAINER, "vllm")]
    there.one("Pod", POD)["status"] = {
        "phase": "Pending",
        "initContainerStatuses": states[:1],
        "containerStatuses": states[1:],
    }
    return {"pages": {}}


def image_of_another_init_container_that_is_not_pulled(there: Installation) -> Known:
    others.by_image(there, "init-container")
    spec = there.one("Pod", POD)["spec"]
    spec["initContainers"].append({"name": "download", "image": "corp.test/download"})
    waiting = {"reason": "ErrImagePull", "message": "corp.test/download: not found"}
    state = {"name": "download", "ready": False, "state": {"waiting": waiting}}
    there.one("Pod", POD)["status"] = {"phase": "Pending", "initContainerStatuses": [state]}
    return {"pages": {}}


def vllm_beside_us_of_which_nobody_has_said_anything(there: Installation) -> None:
    there.add(bare(vllm_pod(namespace=OURS)))


def vllm_beside_us_that_is_to_be_left_alone(there: Installation) -> None:
    """By the pod, and by its workload; our own image may be called anything."""
    there.one("Namespace", OURS)["metadata"]["labels"] = {LABEL_INJECT: "enabled"}
    there.add(bare(vllm_pod(namespace=OURS)))["metadata"]["annotations"] = {ANNOTATION_EXCLUDE: "true"}
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "other", "controller": True, "uid": "u"}
    there.add(bare(vllm_pod("other-0", OURS)))["metadata"]["ownerReferences"] = [owner]
    metadata = {"name": "other", "namespace": OURS, "annotations": {ANNOTATION_EXCLUDE: "true"}}
    there.add({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata})
    for raw in there.objects["Pod"]:
        if raw["metadata"]["name"].startswith("vllm-rightsizer-"):
            raw["spec"]["containers"][0]["image"] = "corp.test/tools-for-vllm:1"
            raw["status"]["podIP"] = "10.0.0.8"


def vllm_beside_us_where_all_but_us_are_in_scope(there: Installation) -> None:
    opt_out(there)
    there.one("Namespace", OURS)["metadata"]["labels"] = {LABEL_INJECT: "disabled"}
    there.add(bare(vllm_pod(namespace=OURS)))


def claims_that_are_kept(there: Installation) -> None:
    """The last word counts."""
    there.one("ClusterAutomation")["spec"]["emitter"] = "dra"
    there.add({"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}})
    options(there, RECOMMENDER).append("--gpu-claims")


def claims_that_an_excluded_pod_asks_for(there: Installation) -> None:
    there.add({"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}})
    annotations = {ANNOTATION_EXCLUDE: "true", ANNOTATION_EMITTER: "dra"}
    there.one("Pod", POD)["metadata"]["annotations"] = annotations


@pytest.mark.parametrize(
    "unusual",
    [
        plugin_of_another_version_than_the_doctor,
        plugin_that_came_after_a_pod_that_is_heard,
        vllm_image_that_is_not_pulled,
        injector_that_is_being_pulled,
        image_of_another_init_container_that_is_not_pulled,
        vllm_beside_us_of_which_nobody_has_said_anything,
        vllm_beside_us_that_is_to_be_left_alone,
        vllm_beside_us_where_all_but_us_are_in_scope,
        claims_that_are_kept,
        claims_that_an_excluded_pod_asks_for,
        webhook_that_brings_the_plugin_nowhere,
        release_that_argo_cd_has_taken_over,
        network_that_keeps_the_api_server_from_pods,
        pod_that_still_loads_behind_a_network_that_keeps_the_api_server_away,
        workload_of_which_nothing_is_written_yet,
        monitor_of_the_pods_own_namespace,
        monitor_that_names_its_own_namespace,
        excluded_pod_with_annotations_that_lead_nowhere,
        excluded_workload_with_annotations_that_lead_nowhere,
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


def test_a_silent_pod_behind_a_network_that_keeps_the_api_server_away() -> None:
    """The recommender's words name it; of the others nothing is said."""
    there = Installation()
    there.add(vllm_pod("llama-1"))
    there.condition("PluginReporting", "True", "Reporting", message="1 of 2 pods report; pod llama-1: timed out")
    found = examined(there, pages=unanswered("llama-0", "llama-1"))
    assert [(one.name, one.about) for one in found] == [("PluginSilent", "Pod chat/llama-1")]


def test_silent_pods_beside_one_whose_page_comes() -> None:
    """Named or not."""
    there = Installation()
    for number in (1, 2):
        there.add(vllm_pod(f"llama-{number}"))
    there.condition("PluginReporting", "True", "Reporting", message="1 of 3 pods report; pod llama-1: timed out")
    found = examined(there, pages={**unanswered("llama-1", "llama-2"), (CHAT, POD, "vllm"): Page()})
    assert [(one.name, one.about) for one in found] == [("PluginSilent", "Pod chat/llama-1 and 1 more of its workload")]


def test_a_network_policy_is_not_accused_where_nobody_knows_the_recommender() -> None:
    there = Installation()
    component = {"matchLabels": {"app.kubernetes.io/component": "recommender"}}
    there.add(network(**{"from": [{"namespaceSelector": {}, "podSelector": component}]}))
    there.condition("PluginReporting", "False", "ScrapeFailed", message="0 of 1 pods report; pod llama-0: timed out")
    there.objects["Deployment"].clear()
    found = examined(there, pages=UNANSWERED, unseen={"Deployment": NOT_ALLOWED})
    assert [one.name for one in found if one.name != "NotLookedAt"] == ["PluginSilent"]


@pytest.mark.parametrize("resource", ["*", "*/*", "pods"])
def test_rules_that_take_more_than_pods(resource: str) -> None:
    there = Installation()
    there.webhook["rules"][0]["resources"] = [resource]
    assert names(examined(there, probe=Probe(CHAT))) == ["WebhookUnreachable"]


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
