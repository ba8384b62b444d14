"""Faults that others make: GitOps tools, Prometheus operators, rollouts, releases of vLLM. As `doctor_faults`."""

from __future__ import annotations

import copy
from typing import Any

from doctor_faults import UNANSWERED, Known, fault
from installation import CHAT, NOW, OURS, POD, Installation, bundle

from vllm_plugin.names import LABEL_INJECTED
from vllm_rightsizer.doctor.facts import Page, Probe
from webhook.injection import INIT_CONTAINER, PLUGIN_VOLUME
from webhook.pairs import new_authority


@fault("GitOpsFights", "kubectl get mutatingwebhookconfiguration vllm-rightsizer -o yaml --show-managed-fields")
def argo_that_writes_the_bundle(there: Installation) -> Known:
    there.webhook["clientConfig"]["caBundle"] = bundle(new_authority(NOW))
    fields = {"f:webhooks": {'k:{"name":"pods"}': {"f:clientConfig": {"f:caBundle": {}}}}}
    manager = {"manager": "argocd-controller", "fieldsV1": fields}
    there.one("MutatingWebhookConfiguration")["metadata"]["managedFields"] = [manager]
    return {"probe": Probe(CHAT)}


@fault("GitOpsFights", "kubectl get clusterautomation default")
def edit_that_flux_undoes(there: Installation) -> None:
    metadata = there.one("ClusterAutomation")["metadata"]
    metadata["labels"]["kustomize.toolkit.fluxcd.io/name"] = "apps"
    fields = {"f:spec": {"f:vllmOptimize": {}}}
    metadata["managedFields"] = [
        {"manager": manager, "fieldsV1": fields} for manager in ("kustomize-controller", "kubectl-edit")
    ]


@fault("GitOpsFights", '"jqPathExpressions": [".webhooks[]?.clientConfig.caBundle"]')
def argo_that_heals(there: Installation) -> None:
    there.add(application(ignoreDifferences=[{"group": "apps", "kind": "Deployment"}]))


@fault("GitOpsFights", "--show-managed-fields")
def flux_that_writes_again_and_again(there: Installation) -> None:
    metadata = there.one("MutatingWebhookConfiguration")["metadata"]
    metadata |= {"generation": 300, "creationTimestamp": "2026-11-11T12:00:00Z"}
    metadata["labels"]["kustomize.toolkit.fluxcd.io/name"] = "platform"


def application(**spec: Any) -> dict[str, Any]:
    """Argo CD's, with our configuration out of sync."""
    seen = {"kind": "MutatingWebhookConfiguration", "name": "vllm-rightsizer", "status": "OutOfSync"}
    return {
        "kind": "Application",
        "metadata": {"name": "platform", "namespace": "argocd"},
        "spec": {"syncPolicy": {"automated": {"selfHeal": True}}, **spec},
        "status": {"resources": [seen]},
    }


@fault("WebhookRolloutStuck", "kubectl -n vllm-rightsizer rollout undo deployment/vllm-rightsizer-webhook")
def webhook_whose_newest_pod_ends_at_once(there: Installation) -> None:
    newest(there, "webhook")


@fault("WebhookRolloutStuck", "helm rollback mine --namespace=vllm-rightsizer")
def upgrade_whose_pods_end_at_once(there: Installation) -> None:
    newest(there, "webhook")
    by_helm(there)


@fault("WebhookRolloutStuck", "--field-manager=helm --selector=app.kubernetes.io/component=webhook -f -")
def edit_whose_pods_end_at_once(there: Installation) -> None:
    newest(there, "webhook")
    by_helm(there)
    written(there, "kubectl-set", "2026-11-21T11:00:00Z")


def newest(there: Installation, component: str) -> None:
    """Beside the pod that serves one of another template, which does not start."""
    pod = there.one("Pod", f"vllm-rightsizer-{component}-abc")
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], "pod-template-hash": "old"}
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    made = copy.deepcopy(pod)
    pod["metadata"]["creationTimestamp"] = "2026-11-20T11:00:00Z"
    labels = {**pod["metadata"]["labels"], "pod-template-hash": "new"}
    made["metadata"] |= {"name": "newest", "labels": labels, "creationTimestamp": "2026-11-21T11:00:00Z"}
    ended = {"terminated": {"exitCode": 2}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    state = {"name": component, "ready": False, "state": waiting, "lastState": ended}
    made["status"] = {"phase": "Running", "containerStatuses": [state]}
    there.add(made)


def by_helm(there: Installation) -> None:
    metadata = there.one("Deployment", "vllm-rightsizer-webhook")["metadata"]
    metadata["labels"]["app.kubernetes.io/managed-by"] = "Helm"
    metadata["annotations"] = {"meta.helm.sh/release-name": "mine"}
    written(there, "helm", "2026-11-20T11:00:00Z")
    # Conditions are no template.
    status = {"manager": "kube-controller-manager", "subresource": "status", "time": "2026-11-21T12:00:00Z"}
    metadata["managedFields"].append({**status, "fieldsV1": {"f:status": {}}})


def written(there: Installation, manager: str, at: str) -> None:
    """The template of the webhook's Deployment."""
    fields = {"f:spec": {"f:template": {"f:spec": {}}}}
    metadata = there.one("Deployment", "vllm-rightsizer-webhook")["metadata"]
    metadata.setdefault("managedFields", []).append({"manager": manager, "time": at, "fieldsV1": fields})


@fault("WebhookWithoutEndpoints", "deploy/kubernetes/webhook-service.yaml")
def service_that_leads_to_another_port(there: Installation) -> Known:
    there.one("Service", "vllm-rightsizer-webhook")["spec"]["ports"][0]["targetPort"] = 9443
    return {"probe": Probe(CHAT)}


@fault("AuthorityWrong", "kubectl -n vllm-rightsizer describe certificates.cert-manager.io served")
def cert_manager_that_writes_another_authority(there: Installation) -> Known:
    there.one("Deployment", "vllm-rightsizer-webhook")["spec"]["template"]["spec"]["containers"][0]["args"].append(
        "--tls-dir=/tls"
    )
    configuration = there.one("MutatingWebhookConfiguration")
    configuration["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": f"{OURS}/served"}
    there.webhook["clientConfig"]["caBundle"] = bundle(new_authority(NOW))
    return {"probe": Probe(CHAT)}


@fault("VersionUnknown", "kubectl -n chat annotate statefulset/llama vllm-rightsizer.io/exclude=true")
def release_that_the_plugin_does_not_know(there: Installation) -> Known:
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": {(CHAT, POD, "vllm"): Page(hooks_off={"admission": 0, "lookup": 1}, vllm_version="0.99.0")}}


@fault("HookOff", "kubectl -n chat rollout restart statefulset/llama")
def hook_that_has_failed(there: Installation) -> Known:
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": {(CHAT, POD, "vllm"): Page(hooks_off={"free": 5}, vllm_version="0.32.0")}}


@fault("PluginNotNamed", "kubectl -n chat edit statefulset/llama")
def plugins_of_a_script(there: Installation) -> Known:
    there.container["command"] = ["sh", "-c", "export VLLM_PLUGINS='lora'; exec vllm serve model"]
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED}


@fault(
    "PluginNotNamed", """patch configmap/plugins --type=merge -p '{"data": {"VLLM_PLUGINS": "lora,vllm_rightsizer"}}'"""
)
def plugins_of_a_map(there: Installation) -> Known:
    there.container["envFrom"] = [{"configMapRef": {"name": "plugins"}}, {"secretRef": {"name": "tokens"}}]
    there.condition("PluginReporting", "False", "ScrapeFailed")
    return {"pages": UNANSWERED, "environments": {(CHAT, "plugins"): {"VLLM_PLUGINS": "lora"}}}


@fault("MonitorNotSelected", "kubectl -n vllm-rightsizer label podmonitors plugin release=prom --overwrite")
def monitor_without_the_label(there: Installation) -> None:
    there.add(pod_monitor())
    there.add(prometheus(podMonitorSelector={"matchLabels": {"release": "prom"}}, podMonitorNamespaceSelector={}))


@fault("MonitorNotSelected", "kubectl label namespace vllm-rightsizer watched=yes --overwrite")
def monitor_in_another_namespace(there: Installation) -> None:
    there.add(pod_monitor())
    watched = {"matchLabels": {"watched": "yes"}}
    there.add(prometheus(podMonitorSelector={}, podMonitorNamespaceSelector=watched))


@fault(
    "MonitorNotSelected", """patch prometheuses.monitoring.coreos.com k8s --type=merge -p '{"spec":{"serviceMonitor"""
)
def prometheus_of_its_own_namespace(there: Installation) -> None:
    metadata = {"name": "webhook", "namespace": OURS, "labels": {}}
    wanted = {"matchLabels": {"app.kubernetes.io/component": "webhook"}}
    there.add({"kind": "ServiceMonitor", "metadata": metadata, "spec": {"selector": wanted}})
    there.add(prometheus(serviceMonitorSelector={}))


def pod_monitor() -> dict[str, Any]:
    metadata = {"name": "plugin", "namespace": OURS, "labels": {"app": "x"}}
    selector = {"matchLabels": {LABEL_INJECTED: "true"}}
    return {"kind": "PodMonitor", "metadata": metadata, "spec": {"selector": selector}}


def prometheus(**spec: Any) -> dict[str, Any]:
    return {"kind": "Prometheus", "metadata": {"name": "k8s", "namespace": "monitoring"}, "spec": spec}


INJECTOR = "corp.test/vllm-rightsizer-injector:0.1.0"
PULLING = 'failed to pull image "corp.test/vllm-rightsizer-injector@sha256:0a": 401 Unauthorized'
WAITING = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{INJECTOR}": ErrImagePull: {PULLING}'}
"""The kubelet, of an image for which a pod has no secret: when it tries, and between two tries."""


def by_image(there: Installation, way: str) -> None:
    """How the webhook brings the plugin in; the pod that is there came in the same way."""
    args = there.one("Deployment", "vllm-rightsizer-webhook")["spec"]["template"]["spec"]["containers"][0]["args"]
    args[:] = [one for one in args if not one.startswith("--injection=")]
    args += [f"--injection={way}", f"--injector-image={INJECTOR}"]
    spec = there.one("Pod", POD)["spec"]
    if way == "image-volume":
        spec["volumes"] = [{"name": PLUGIN_VOLUME, "image": {"reference": INJECTOR}}]
    else:
        spec["volumes"] = [{"name": PLUGIN_VOLUME, "emptyDir": {"medium": "Memory"}}]
        spec["initContainers"] = [{"name": INIT_CONTAINER, "image": INJECTOR}]


@fault("InjectorNotPulled", "kubectl apply --server-side --force-conflicts -f deploy/kubernetes")
def injector_of_a_private_registry(there: Installation) -> Known:
    by_image(there, "init-container")
    status = there.one("Pod", POD)["status"]
    status["initContainerStatuses"] = [{"name": INIT_CONTAINER, "ready": False, "state": {"waiting": WAITING}}]
    waiting = {"waiting": {"reason": "PodInitializing"}}
    status |= {"phase": "Pending", "containerStatuses": [{"name": "vllm", "ready": False, "state": waiting}]}
    return {"pages": {}}


@fault("PluginLost", "kubectl apply --server-side --force-conflicts -f deploy/kubernetes")
def api_server_without_image_volumes(there: Installation) -> Known:
    by_image(there, "image-volume")
    return {"probe": Probe(CHAT, marked=True, lost=True)}


@fault("PluginLost", "kubectl get mutatingwebhookconfigurations")
def webhook_after_ours_that_takes_volumes_out(_there: Installation) -> Known:
    return {"probe": Probe(CHAT, marked=True, lost=True)}
