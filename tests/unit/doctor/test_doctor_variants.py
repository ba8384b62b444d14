"""Faults in the forms that others give them: each is named first."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import doctor_faults_of_others as others
import pytest
from doctor_faults import (
    UNANSWERED,
    Fault,
    Known,
    network,
    plugin_that_came_after_the_pod,
    port_of_a_sidecar,
    port_on_which_another_answers,
)
from installation import CHAT, OURS, POD, PORT, Installation, bare, names, vllm_pod

from vllm_plugin.names import ANNOTATION_EMITTER, ENV_PORT, LABEL_INJECT
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.facts import CONFIGURATION, Page, Probe
from vllm_rightsizer.doctor.findings import Finding, diagnosed

RECOMMENDER_POD = "vllm-rightsizer-recommender-abc"
WEBHOOK = "vllm-rightsizer-webhook"
NOT_ALLOWED = "you are not allowed to list it"


def examined(there: Installation, **known: Any) -> list[Finding]:
    return diagnosed(there.facts(**known), CHECKS)


VARIANTS: dict[str, tuple[str, str, str, Fault]] = {}
"""By a name: the finding that comes first, a part of what was seen and of its command, and what makes the fault."""


def variant(finding: str, seen: str, fix: str) -> Any:
    def keep(made: Fault) -> Fault:
        VARIANTS[made.__name__] = (finding, seen, fix, made)
        return made

    return keep


@variant("NamespacesLeftOut", "in scope: chat", "webhook-configuration.yaml")
def selector_of_somebodys_own(there: Installation) -> Known:
    there.webhook["namespaceSelector"] = {"matchLabels": {"team": "ml"}}
    return {"probe": None}


@variant("PodsLeftOut", 'its objectSelector is {"matchLabels": {"gpu": "yes"}}', '"/webhooks/0/objectSelector"')
def selector_of_pods(there: Installation) -> Known:
    there.webhook["objectSelector"] = {"matchLabels": {"gpu": "yes"}}
    return {"probe": Probe(CHAT)}


@variant("PodsLeftOut", "not ours: only-big", '"remove", "path": "/webhooks/0/matchConditions/2"')
def condition_of_somebodys_own(there: Installation) -> Known:
    there.webhook["matchConditions"].append({"name": "only-big", "expression": "false"})
    return {"probe": Probe(CHAT)}


@variant("PodsLeftOut", "its rules", "webhook-configuration.yaml")
def rules_of_other_objects(there: Installation) -> Known:
    there.webhook["rules"][0]["operations"] = ["UPDATE"]
    return {"probe": Probe(CHAT)}


@variant("WebhookUnreachable", "without the plugin", "logs --selector=app.kubernetes.io/component=webhook")
def webhook_whose_configuration_may_not_be_seen(there: Installation) -> Known:
    there.objects[CONFIGURATION].clear()
    return {"unseen": {CONFIGURATION: NOT_ALLOWED}, "probe": Probe(CHAT)}


@variant("ProbeLeftOut", "takes PYTHONPATH from elsewhere", "kubectl get mutatingwebhookconfigurations")
def policy_that_changes_pods_first(_there: Installation) -> Known:
    return {"probe": Probe(CHAT, left_out="no plugin: container vllm takes PYTHONPATH from elsewhere (valueFrom)")}


@variant("WebhookWithoutEndpoints", "selects other pods", "webhook-service.yaml")
def service_of_pods_that_are_ready(there: Installation) -> Known:
    there.one("Service", WEBHOOK)["spec"]["selector"]["app.kubernetes.io/component"] = "recommender"
    return {"probe": Probe(CHAT)}


@variant("WebhookWithoutEndpoints", "no port 443", "webhook-service.yaml")
def service_without_the_port_that_is_called(there: Installation) -> Known:
    there.one("Service", WEBHOOK)["spec"]["ports"][0]["port"] = 8443
    return {"probe": Probe(CHAT)}


def silent(there: Installation, page: Page | None = None) -> Known:
    there.condition("PluginReporting", "False", "ScrapeFailed", message="0 of 1 pods report; pod llama-0: timed out")
    return {"pages": UNANSWERED if page is None else {(CHAT, POD, "vllm"): page}}


@variant("PluginNotNamed", "set without", "edit statefulset/llama")
def empty_list_of_plugins(there: Installation) -> Known:
    there.container["env"].append({"name": "VLLM_PLUGINS", "value": ""})
    return silent(there)


@variant("PluginNotNamed", "its script sets VLLM_PLUGINS", "edit statefulset/llama")
def script_that_overrides_what_the_webhook_has_listed(there: Installation) -> Known:
    there.container["env"].append({"name": "VLLM_PLUGINS", "value": "lora,vllm_rightsizer"})
    there.container["command"] = ["sh", "-c", "VLLM_PLUGINS=lora exec vllm serve model"]
    return silent(there)


SETTING_THE_PATH = (
    ["bash", "-c", 'export PYTHONPATH="/app"; vllm serve model'],
    ["bash", "-c", "python prep.py && PYTHONPATH=/x exec python3 -m vllm.entrypoints.cli"],
    ["env", "PYTHONPATH=/x", "vllm", "serve", "m"],
    # It is in the environment already, and so what it is set to is handed on.
    ["bash", "-c", "PYTHONPATH=/x; vllm serve m"],
    # It may start vLLM.
    ["bash", "-c", "PYTHONPATH=/x ./serve.sh"],
)
LEAVING_THE_PATH = (
    ["bash", "-c", "PYTHONPATH=/x python prep.py && VLLM_PLUGINS=lora; vllm serve m"],
    ["bash", "-c", 'export PYTHONPATH="$(paths)"; vllm serve m'],
    # That is as it should be.
    ["bash", "-c", "export PYTHONPATH=/app:$PYTHONPATH VLLM_PLUGINS=lora,$VLLM_PLUGINS; vllm serve model"],
)


@pytest.mark.parametrize("command", [*SETTING_THE_PATH, *LEAVING_THE_PATH], ids=" ".join)
def test_what_a_command_line_does_to_the_path(command: list[str]) -> None:
    """Where it does nothing to it, the reason is another one."""
    there = Installation()
    there.container["command"] = command
    first = examined(there, **silent(there))[0]
    if command in SETTING_THE_PATH:
        assert first.name == "PluginPathFromElsewhere"
        assert "its script sets PYTHONPATH anew" in first.seen
        assert "edit statefulset/llama" in first.fix
    else:
        assert first.name == "PluginSilent"
        assert "vLLM has not loaded the plugin" in first.seen
        assert "entry_points" in first.fix


@variant("PluginSilent", "hears nothing from port 9415: 0 of 1 pods report", "entry_points")
def page_that_nobody_may_look_at(there: Installation) -> Known:
    return {**silent(there), "pages": {}}


@variant("PluginSilent", "vLLM has not loaded the plugin", "entry_points")
def port_that_others_only_seem_to_have(there: Installation) -> Known:
    """An init container that is over, and one that speaks UDP."""
    spec = there.one("Pod", POD)["spec"]
    spec["initContainers"] = [{"name": "loader", "image": "loader", "ports": [{"containerPort": PORT}]}]
    spec["containers"].append({"name": "dns", "image": "dns", "ports": [{"containerPort": PORT, "protocol": "UDP"}]})
    return silent(there)


@variant("MeshBlocks", "traffic.sidecar.istio.io/excludeInboundPorts", "edit statefulset/llama")
def mesh_that_wants_to_know_who_calls(there: Installation) -> Known:
    proxy = {"name": "istio-proxy", "image": "proxy", "restartPolicy": "Always"}
    there.one("Pod", POD)["spec"]["initContainers"] = [proxy]
    return silent(there, Page("read tcp: connection reset by peer", answered=False))


@variant("MeshBlocks", "traffic.sidecar.istio.io/excludeInboundPorts", "edit statefulset/llama")
def mesh_that_lets_the_api_server_in(there: Installation) -> Known:
    there.one("Pod", POD)["spec"]["containers"].append({"name": "istio-proxy", "image": "proxy"})
    known = silent(there, Page())
    there.condition("PluginReporting", "False", "ScrapeFailed", message="0 of 1 pods report; Server disconnected")
    return known


@variant("NetworkPolicyBlocks", "NetworkPolicy chat/only-the-gateway", '"policyTypes": ["Ingress"]')
def network_policy_by_addresses(there: Installation) -> Known:
    there.one("Pod", RECOMMENDER_POD)["status"]["podIP"] = "10.1.2.3"
    there.add(network(**{"from": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}]}))
    return silent(there)


@variant("NetworkPolicyBlocks", "NetworkPolicy vllm-rightsizer/default-deny", '"policyTypes": ["Egress"]')
def network_policy_around_us(there: Installation) -> Known:
    dns = {"ports": [{"port": 53, "protocol": "UDP"}]}
    there.add(deny(policyTypes=["Egress"], egress=[dns]))
    return silent(there)


def deny(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "default-deny", "namespace": OURS}
    return {"kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, **spec}}


@variant("WebhookIsolated", "which is no pod, reach port 8443", '"ingress": [{"ports": [{"port": 8443}]}]')
def network_policy_around_the_webhook(there: Installation) -> Known:
    team = {"namespaceSelector": {"matchLabels": {"team": "ml"}}}
    there.add(deny(policyTypes=["Ingress"], ingress=[{"from": [team]}]))
    return {"probe": Probe(CHAT)}


@variant("WebhookIsolated", "which is no pod, reach port 8443", '"ingress": [{"ports": [{"port": 8443}]}]')
def network_policy_that_lets_every_pod_in(there: Installation) -> Known:
    beside = {"podSelector": {}}
    anywhere = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}}
    peers = [beside, {"namespaceSelector": {}}, {"namespaceSelector": {}, **anywhere}]
    there.add(deny(policyTypes=["Ingress"], ingress=[{"from": peers}]))
    return {"probe": Probe(CHAT)}


@variant("WebhookUnreachable", "came back without the plugin", "logs")
def firewall_behind_a_network_policy_that_lets_callers_in(there: Installation) -> Known:
    network_policy_around_the_webhook(there)
    block = {"ipBlock": {"cidr": "10.9.0.0/28"}}
    there.add(deny(ingress=[{"from": [block], "ports": [{"port": "https"}]}]))
    return {"probe": Probe(CHAT)}


@variant("MonitorNotSelected", "ignoreNamespaceSelectors", "ignoreNamespaceSelectors")
def prometheus_that_stays_in_one_namespace(there: Installation) -> None:
    there.add(others.pod_monitor())["spec"]["namespaceSelector"] = {"matchNames": [OURS, CHAT]}
    everywhere = {"podMonitorSelector": {}, "podMonitorNamespaceSelector": {}}
    there.add(others.prometheus(ignoreNamespaceSelectors=True, **everywhere))


@variant("PolicyMissing", "VLLMPolicy careful", '"metadata": {"name": "careful"}')
def workload_with_a_policy_in_another_spelling(there: Installation) -> None:
    metadata = {"name": "llama", "namespace": CHAT, "annotations": {"scaleops.sh/default-vllm-policy": "careful"}}
    there.add({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata})


@variant(
    "ProbeRefused", "minimum cpu", "helm upgrade mine deploy/chart --namespace=vllm-rightsizer --reset-then-reuse-"
)
def limits_that_forbid_our_container(there: Installation) -> Known:
    others.by_image(there, "init-container")
    others.by_helm(there)
    return {"probe": Probe(CHAT, refused="minimum cpu usage per Container is 1", taken_without_us=True)}


@variant("InjectorNotPulled", f"it waits for the image {others.INJECTOR}, which its node does not get", "helm up")
def image_volume_of_a_private_registry(there: Installation) -> Known:
    """The kubelet says it of the container that mounts the volume."""
    others.by_image(there, "image-volume")
    others.by_helm(there)
    there.add(vllm_pod("llama-1"))["spec"]["volumes"] = there.one("Pod", POD)["spec"]["volumes"]
    tried = {"reason": "ErrImagePull", "message": others.PULLING}
    for name, waiting in ((POD, others.WAITING), ("llama-1", tried)):
        state = {"name": "vllm", "ready": False, "state": {"waiting": waiting}}
        there.one("Pod", name)["status"] = {"phase": "Pending", "containerStatuses": [state]}
    return {"pages": {}}


@variant("InjectorNotPulled", others.PULLING, "rollout restart statefulset/llama")
def pod_of_a_way_that_was_given_up(there: Installation) -> Known:
    known = others.injector_of_a_private_registry(there)
    args = there.one("Deployment", WEBHOOK)["spec"]["template"]["spec"]["containers"][0]["args"]
    args.append("--injection=config-map")
    return known


@variant("InjectorNotPulled", others.PULLING, "get statefulset/llama -o yaml")
def injector_of_a_webhook_that_may_not_be_seen(there: Installation) -> Known:
    known = others.injector_of_a_private_registry(there)
    there.objects["Deployment"].clear()
    return {**known, "unseen": {"Deployment": NOT_ALLOWED}}


@variant("ClaimsNotKept", "--no-gpu-claims", "--set recommender.gpuClaims=true")
def claims_of_two_workloads(there: Installation) -> None:
    others.by_helm(there)
    there.add({"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}})
    there.one("Pod", POD)["metadata"]["annotations"] = {ANNOTATION_EMITTER: "dra"}


@variant("NobodyOptedIn", "no namespace but our own has the label", "kubectl get namespaces --show-labels")
def our_own_namespace_opted_in(there: Installation) -> Known:
    there.one("Namespace", CHAT)["metadata"]["labels"] = {}
    there.one("Namespace", OURS)["metadata"]["labels"] = {LABEL_INJECT: "enabled"}
    there.remove("Pod", POD)
    return {"probe": None, "pages": {}}


@variant("VLLMBesideUs", "in the namespace of webhook and recommender", "get statefulset/llama -o yaml")
def vllm_beside_us_where_all_are_in_scope(there: Installation) -> None:
    there.webhook["namespaceSelector"]["matchExpressions"].append(
        {"key": LABEL_INJECT, "operator": "NotIn", "values": ["disabled"]}
    )
    there.add({"kind": "ConfigMap", "metadata": {"name": "plugin", "namespace": "others"}})
    there.add(bare(vllm_pod(namespace=OURS)))


@variant("NobodyOptedIn", "no namespace has the label", "kubectl get namespaces --show-labels")
def nobody_opted_in_and_no_vllm(there: Installation) -> Known:
    there.one("Namespace", CHAT)["metadata"]["labels"] = {}
    there.remove("Pod", POD)
    return {"probe": None, "pages": {}}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_named_first(name: str) -> None:
    finding, seen, fix, make = VARIANTS[name]
    there = Installation()
    known = make(there) or {}
    found = [one for one in examined(there, **known) if one.name != "NotLookedAt"]
    assert names(found)[:1] == [finding]
    assert seen in found[0].seen
    assert fix in found[0].fix
    for one in found:
        subprocess.run(["sh", "-n", "-c", one.fix], check=True)
        assert "\n" not in one.fix
        # A word in capitals alone would have to be filled in first.
        assert not re.search(r"\b(NAME|NAMESPACE|POD)\b", one.fix)


def test_pods_that_wait_for_one_image_are_one_finding() -> None:
    there = Installation()
    known = image_volume_of_a_private_registry(there)
    [found] = examined(there, **known)
    assert found.about == "Pod chat/llama-0 and 1 more"


@pytest.mark.parametrize(
    ("finding", "make"),
    [
        ("NetworkPolicyBlocks", network_policy_by_addresses),
        ("MeshBlocks", mesh_that_wants_to_know_who_calls),
        ("PortTaken", port_of_a_sidecar),
        ("PortTaken", port_on_which_another_answers),
        ("PluginNotHeard", lambda there: silent(there, Page())),
        ("PluginMapLate", silent),
        ("PluginMapLate", lambda there: {**silent(there), "pages": {}}),
    ],
)
def test_a_map_that_is_younger_than_the_pod_is_only_a_guess(finding: str, make: Fault) -> None:
    """Who deletes it has it made anew: then each pod is older, and has the plugin."""
    there = Installation()
    late = plugin_that_came_after_the_pod(there)
    [found] = examined(there, **{**(late or {}), **(make(there) or {})})
    assert found.name == finding


@pytest.mark.parametrize(
    "make", [network_policy_by_addresses, network_policy_around_us], ids=lambda made: made.__name__
)
def test_command_lets_the_recommender_through_at_either_end(make: Fault) -> None:
    there = Installation()
    known = make(there) or {}
    [found] = examined(there, **known)
    there.add(json.loads(shlex.split(found.fix)[1]))
    assert names(examined(there, **known)) == ["PluginSilent"]


@pytest.mark.parametrize(
    "egress",
    [
        {"egress": [{}]},
        {"egress": [{"to": [{"namespaceSelector": {}}]}]},
        {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]}]},
        {"ingress": []},
    ],
)
def test_policies_around_us_that_let_us_out(egress: dict[str, Any]) -> None:
    there = Installation()
    there.add(deny(**egress))
    assert names(examined(there, **silent(there))) == ["PluginSilent"]


def test_policies_say_nothing_of_pods_on_their_nodes_network() -> None:
    there = Installation()
    there.one("Pod", POD)["spec"]["hostNetwork"] = True
    there.add(network(ports=[{"port": 8000}]))
    assert names(examined(there, **silent(there))) == ["PluginSilent"]


def test_an_engine_that_is_an_init_container_is_looked_at() -> None:
    there = Installation()
    spec = there.one("Pod", POD)["spec"]
    [engine] = spec["containers"]
    spec["containers"] = [{"name": "main", "image": "main"}]
    spec["initContainers"] = [{**engine, "restartPolicy": "Always"}]
    assert any(one["name"] == ENV_PORT for one in engine["env"])
    assert names(examined(there, **silent(there))) == ["PluginSilent"]
