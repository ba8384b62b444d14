"""Faults of an installation, each by itself: what makes it, and what the doctor is to say first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from installation import CHAT, NOW, OURS, POD, PORT, Installation, bare, bundle, vllm_pod

from vllm_plugin.names import (
    ANNOTATION_EMITTER,
    ANNOTATION_EXCLUDE,
    ANNOTATION_POLICY,
    ANNOTATION_SKIPPED,
    LABEL_INJECT,
)
from vllm_rightsizer.doctor.facts import Page, Probe, Right
from webhook.pairs import LIFETIMES, new_authority

Known = dict[str, Any]
Fault = Callable[[Installation], Known | None]

FAULTS: dict[str, tuple[str, str, Fault]] = {}
"""By a name: the finding that comes first, a part of its command, and what makes the fault."""
UNANSWERED = {(CHAT, POD, "vllm"): Page("connection refused", answered=False)}


def fault(finding: str, fix: str) -> Callable[[Fault], Fault]:
    def keep(made: Fault) -> Fault:
        FAULTS[made.__name__] = (finding, fix, made)
        return made

    return keep


@fault("DefinitionMissing", "vllm-rightsizer crds --apply")
def no_definitions(there: Installation) -> None:
    there.objects["CustomResourceDefinition"].clear()


@fault("DefinitionOld", "vllm-rightsizer crds --apply")
def old_definitions(there: Installation) -> None:
    name = "vllmpolicies.vllm-rightsizer.io"
    old = copy.deepcopy(there.one("CustomResourceDefinition", name))
    there.remove("CustomResourceDefinition", name)
    [version] = there.add(old)["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["caution"]


@fault("ConfigurationMissing", "deploy/kubernetes/webhook-configuration.yaml")
def no_configuration(there: Installation) -> Known:
    there.objects["MutatingWebhookConfiguration"].clear()
    return {"probe": Probe(CHAT)}


@fault("SeveralWebhooks", "kubectl delete mutatingwebhookconfiguration other")
def two_configurations(there: Installation) -> None:
    webhook = {**there.webhook, "clientConfig": {**there.webhook["clientConfig"], "service": {"namespace": "other"}}}
    webhook["clientConfig"]["service"]["name"] = "webhook"
    there.add({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "other"}, "webhooks": [webhook]})


@fault("FailurePolicyChanged", '"path":"/webhooks/0/failurePolicy","value":"Ignore"')
def failure_policy(there: Installation) -> None:
    there.webhook["failurePolicy"] = "Fail"


@fault("AuthorityMissing", "rollout restart deployment/vllm-rightsizer-webhook")
def empty_bundle(there: Installation) -> Known:
    del there.webhook["clientConfig"]["caBundle"]
    there.one("Deployment", "vllm-rightsizer-webhook")["status"] = {}
    return {"probe": Probe(CHAT)}


@fault("AuthorityWrong", "rollout restart deployment/vllm-rightsizer-webhook")
def other_authority(there: Installation) -> Known:
    there.webhook["clientConfig"]["caBundle"] = bundle(new_authority(NOW))
    return {"probe": Probe(CHAT)}


@fault("CertificateExpired", "rollout restart deployment/vllm-rightsizer-webhook")
def ended_certificate(_there: Installation) -> Known:
    return {"now": NOW + LIFETIMES.leaf, "probe": Probe(CHAT)}


@fault("CertificateEnds", "logs --selector=app.kubernetes.io/component=webhook")
def certificate_that_ends_soon(_there: Installation) -> Known:
    return {"now": NOW + LIFETIMES.leaf - timedelta(days=2)}


@fault("WebhookNotRunning", "scale deployment/vllm-rightsizer-webhook --replicas=2")
def webhook_scaled_to_nothing(there: Installation) -> Known:
    there.one("Deployment", "vllm-rightsizer-webhook")["spec"]["replicas"] = 0
    there.remove("Pod", "vllm-rightsizer-webhook-abc")
    del there.webhook["clientConfig"]["caBundle"]
    return {"probe": Probe(CHAT)}


@fault("WebhookNotRunning", "describe pod/vllm-rightsizer-webhook-abc")
def webhook_image_that_is_not_there(there: Installation) -> Known:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    there.one("Pod", "vllm-rightsizer-webhook-abc")["status"]["containerStatuses"] = [{"name": "one", "state": waiting}]
    del there.webhook["clientConfig"]["caBundle"]
    return {"probe": Probe(CHAT)}


@fault("WebhookNotReady", "logs --selector=app.kubernetes.io/component=webhook")
def webhook_not_ready(there: Installation) -> Known:
    there.one("Deployment", "vllm-rightsizer-webhook")["status"] = {}
    return {"probe": Probe(CHAT)}


@fault("WebhookWithoutEndpoints", "deploy/kubernetes/webhook-service.yaml")
def service_that_leads_nowhere(there: Installation) -> Known:
    there.one("EndpointSlice")["endpoints"] = []
    return {"probe": Probe(CHAT)}


@fault("WebhookUnreachable", "logs --selector=app.kubernetes.io/component=webhook")
def webhook_behind_a_firewall(_there: Installation) -> Known:
    return {"probe": Probe(CHAT)}


@fault("RightsMissing", "deploy/kubernetes/webhook-rbac.yaml")
def webhook_without_a_right(there: Installation) -> Known:
    there.one("Deployment", "vllm-rightsizer-webhook")["status"] = {}
    right = Right("webhook", "vllm-rightsizer.io", "vllmpolicies", "list")
    return {"lacking": (right,), "probe": Probe(CHAT)}


@fault("RightsMissing", "deploy/kubernetes/recommender-rbac.yaml")
def recommender_without_a_right(there: Installation) -> Known:
    there.one("Deployment", "vllm-rightsizer-recommender")["status"] = {}
    return {"lacking": (Right("recommender", "", "pods", "watch"),)}


@fault("RecommenderNotRunning", "deploy/kubernetes/recommender-deployment.yaml")
def no_recommender(there: Installation) -> Known:
    there.remove("Deployment", "vllm-rightsizer-recommender")
    return {"lease_moves": False}


@fault("RecommenderNotReady", "logs --selector=app.kubernetes.io/component=recommender")
def recommender_not_ready(there: Installation) -> None:
    there.one("Deployment", "vllm-rightsizer-recommender")["status"] = {}


@fault("RecommenderNotLeading", "rollout restart deployment/vllm-rightsizer-recommender")
def stale_lease(_there: Installation) -> Known:
    return {"lease_moves": False}


@fault("RecommenderNotLeading", "logs --selector=app.kubernetes.io/component=recommender")
def released_lease(there: Installation) -> None:
    there.one("Lease")["spec"]["holderIdentity"] = ""


@fault("NobodyOptedIn", f"kubectl label --overwrite namespace chat {LABEL_INJECT}=enabled")
def nobody_opted_in(there: Installation) -> Known:
    there.one("Namespace", CHAT)["metadata"]["labels"] = {}
    return {"probe": None}


@fault("PodNotAdmitted", "kubectl -n chat rollout restart statefulset/llama")
def pod_older_than_the_opt_in(there: Installation) -> None:
    bare(there.one("Pod", POD))


@fault("PluginRefused", f"kubectl -n chat annotate statefulset/llama {ANNOTATION_EXCLUDE}=true --overwrite")
def pod_that_the_webhook_refused(there: Installation) -> None:
    reason = "container vllm takes PYTHONPATH from elsewhere (valueFrom): write its value in the pod"
    bare(there.one("Pod", POD))["metadata"]["annotations"] = {ANNOTATION_SKIPPED: reason}


@fault("PluginMapMissing", "logs --selector=app.kubernetes.io/component=recommender")
def namespace_without_the_plugin(there: Installation) -> Known:
    there.remove("ConfigMap")
    return {"pages": {}}


@fault("PluginMapMissing", "logs --selector=app.kubernetes.io/component=recommender")
def namespace_with_the_plugin_of_a_former_version(_there: Installation) -> Known:
    return {"probe": Probe(CHAT, marked=True, plugin_map="vllm-rightsizer-plugin-0123456789")}


@fault("PluginPathFromElsewhere", "kubectl -n chat edit statefulset/llama")
def path_from_elsewhere(there: Installation) -> Known:
    there.container["env"].append({"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}})
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("PluginNotNamed", "kubectl -n chat edit statefulset/llama")
def plugins_without_ours(there: Installation) -> Known:
    there.container["env"].append({"name": "VLLM_PLUGINS", "value": "lora_filesystem_resolver"})
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("PythonIsolated", "kubectl -n chat edit statefulset/llama")
def isolated_python(there: Installation) -> Known:
    there.container.update({"command": ["python3", "-I", "-m", "vllm.entrypoints.openai.api_server"]})
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("PluginMapGone", "kubectl -n chat rollout restart statefulset/llama")
def plugin_of_a_former_version(there: Installation) -> Known:
    there.one("Pod", POD)["spec"]["volumes"][0]["configMap"]["name"] = "vllm-rightsizer-plugin-0123456789"
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("PluginMapLate", "kubectl -n chat rollout restart statefulset/llama")
def plugin_that_came_after_the_pod(there: Installation) -> Known:
    """In an upgrade's first seconds, or with a namespace that is made together with its pods."""
    there.one("ConfigMap")["metadata"]["creationTimestamp"] = "2026-11-21T11:00:07Z"
    [state] = there.one("Pod", POD)["status"]["containerStatuses"]
    state["state"] = {"running": {"startedAt": "2026-11-21T11:00:05Z"}}
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("PortTaken", "kubectl -n chat edit statefulset/llama")
def port_of_a_sidecar(there: Installation) -> Known:
    sidecar = {"name": "exporter", "image": "exporter", "ports": [{"containerPort": PORT}]}
    there.one("Pod", POD)["spec"]["containers"].append(sidecar)
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": {(CHAT, POD, "vllm"): Page("no page of the plugin's")}}


@fault("PortTaken", "kubectl -n chat logs llama-0 -c vllm")
def port_on_which_another_answers(there: Installation) -> Known:
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": {(CHAT, POD, "vllm"): Page("no page of the plugin's")}}


@fault("PluginSilent", "entry_points(group='vllm.general_plugins', name='vllm_rightsizer')")
def python_without_the_entry_point(there: Installation) -> Known:
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault("NetworkPolicyBlocks", '"ports": [{"port": 9415}]')
def network_policy(there: Installation) -> None:
    there.add(network(ports=[{"port": 8000}]))
    there.condition("PluginReporting", "False", "ScrapeFailed")


@fault("SettingInvalid", "kubectl edit vllmpolicy default")
def invalid_policy(there: Installation) -> None:
    there.condition("Valid", "False", "Invalid", kind="VLLMPolicy")


@fault("PolicyContradictory", "kubectl edit vllmpolicy default")
def contradictory_policy(there: Installation) -> None:
    there.condition("Valid", "True", "Contradictory", kind="VLLMPolicy")


@fault("PolicyMissing", '"kind": "VLLMPolicy", "metadata": {"name": "careful"}')
def automation_with_a_policy_that_is_not_there(there: Installation) -> None:
    there.one("ClusterAutomation")["spec"]["defaultVllmPolicy"] = "careful"


@fault("PolicyMissing", '"metadata": {"name": "bold"}')
def pod_with_a_policy_that_is_not_there(there: Installation) -> None:
    there.one("Pod", POD)["metadata"]["annotations"] = {ANNOTATION_POLICY: "bold"}


@fault("AutomationWithoutPods", "kubectl delete automatednamespace gone")
def automation_of_no_namespace(there: Installation) -> None:
    there.add({"kind": "AutomatedNamespace", "metadata": {"name": "gone"}, "spec": {"vllmOptimize": True}})


@fault("AutomationWithoutPods", "kubectl delete automatednamespace vllm-rightsizer")
def automation_of_our_own_namespace(there: Installation) -> None:
    there.add({"kind": "AutomatedNamespace", "metadata": {"name": OURS}, "spec": {"vllmOptimize": True}})


@fault("VLLMBesideUs", "kubectl -n vllm-rightsizer get statefulset/llama -o yaml")
def vllm_in_our_own_namespace(there: Installation) -> None:
    there.one("Namespace", OURS)["metadata"]["labels"] = {LABEL_INJECT: "enabled"}
    there.add(bare(vllm_pod(namespace=OURS)))
    there.add(bare(vllm_pod("llama-1", OURS)))


@fault("AutomationWithoutPods", f"kubectl label --overwrite namespace others {LABEL_INJECT}=enabled")
def automation_of_a_namespace_that_has_not_opted_in(there: Installation) -> None:
    there.add({"kind": "AutomatedNamespace", "metadata": {"name": "others"}, "spec": {"vllmOptimize": True}})


@fault("RecommendationDegraded", "kubectl -n chat describe vllmrec")
def degraded(there: Installation) -> None:
    there.condition("Degraded", "True")


@fault("AutoscalerConflict", "kubectl -n chat get horizontalpodautoscalers -o yaml")
def autoscaler(there: Installation) -> None:
    there.condition("AutoscalerConflict", "True")


@fault("SchedulerMissing", "kubectl patch clusterautomation default")
def emitter_without_its_scheduler(there: Installation) -> None:
    there.one("ClusterAutomation")["spec"]["emitter"] = "kai"


@fault("SchedulerMissing", "kubectl -n chat edit statefulset/llama")
def pod_with_an_emitter_of_its_own(there: Installation) -> None:
    there.one("Pod", POD)["metadata"]["annotations"] = {ANNOTATION_EMITTER: "volcano"}


@fault("ClaimsNotKept", "kubectl patch clusterautomation default")
def claims_that_nobody_makes(there: Installation) -> None:
    there.one("ClusterAutomation")["spec"]["emitter"] = "dra"
    there.add({"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}})


@fault("ProbeRefused", "kubectl auth can-i create pods --namespace=chat")
def probe_that_nobody_takes(_there: Installation) -> Known:
    return {"probe": Probe(CHAT, refused="pods is forbidden")}


@fault("ProbeRefused", f"kubectl label --overwrite namespace chat {LABEL_INJECT}=disabled")
def policy_against_what_the_webhook_adds(_there: Installation) -> Known:
    return {"probe": Probe(CHAT, refused="volume vllm-rightsizer-run is forbidden", taken_without_us=True)}


@fault("NotLookedAt", "kubectl auth can-i --list")
def secret_that_must_not_be_read(_there: Installation) -> Known:
    return {"leaf": None, "unseen": {"Secret": "you are not allowed to get it"}}


def network(**rule: Any) -> dict[str, Any]:
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-the-gateway", "namespace": CHAT},
        "spec": {"podSelector": {"matchLabels": {"app": "llama"}}, "policyTypes": ["Ingress"], "ingress": [rule]},
    }
