"""Each fault by itself is found, and named first; an installation without any has no finding."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import doctor_faults_of_others as others
import pytest
from doctor_faults import (
    FAULTS,
    UNANSWERED,
    autoscaler,
    failure_policy,
    network,
    webhook_image_that_is_not_there,
)
from installation import CHAT, NOW, OURS, POD, Installation, authority, bare, bundle, names, vllm_pod

from bench.lab.client import documents
from bench.lab.programs import ROOT
from vllm_plugin.names import ANNOTATION_EXCLUDE
from vllm_rightsizer.doctor import report
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.facts import Probe, Right
from vllm_rightsizer.doctor.findings import Finding, Severity, diagnosed
from vllm_rightsizer.doctor.rights import rights_of_recommender, rights_of_webhook
from vllm_rightsizer.doctor.scrubbing import scrubbed
from webhook.pairs import new_authority


def examined(there: Installation, **known: Any) -> list[Finding]:
    return diagnosed(there.facts(**known), CHECKS)


def test_nothing_is_found_where_all_is_well() -> None:
    assert examined(Installation()) == []


@pytest.mark.parametrize("fault_name", FAULTS)
def test_fault_is_named_first_with_a_command_that_any_shell_takes(fault_name: str) -> None:
    finding, fix, make = FAULTS[fault_name]
    there = Installation()
    known = make(there) or {}
    found = examined(there, **known)
    assert names(found)[:1] == [finding]
    assert fix in found[0].fix
    assert all((found[0].seen, found[0].why, found[0].about))
    for one in found:
        subprocess.run(["sh", "-n", "-c", one.fix], check=True)
        # Of several lines the report, which indents them, would make others.
        assert "\n" not in one.fix
        # Not every shell takes comments where people type.
        assert not re.search(r"(^|\s)#", one.fix)
    # Nothing in them looks like a secret to the bundle.
    assert scrubbed(said := report.documents(found)) == said


def test_a_page_that_the_recommender_alone_does_not_reach() -> None:
    there = Installation()
    there.condition("PluginReporting", "False", "ScrapeFailed")
    assert names(examined(there)) == ["PluginNotHeard"]


def test_what_is_said_of_a_pod_that_is_gone_is_not_said_of_the_next() -> None:
    there = Installation()
    there.condition("PluginReporting", "False", "ScrapeFailed", message="0 of 1 pods report; pod llama-before: refused")
    assert examined(there) == []
    there.condition("PluginReporting", "False", "ScrapeFailed", message="0 of 1 pods report; pod llama-0: refused")
    assert names(examined(there)) == ["PluginNotHeard"]


def test_settings_that_are_not_built_yet_are_nothing_to_mend() -> None:
    there = Installation()
    there.condition("Valid", "True", "PartlyFollowed", kind="VLLMPolicy")
    assert examined(there) == []


def test_a_page_that_only_the_recommender_reaches_is_well() -> None:
    assert examined(Installation(), pages=UNANSWERED) == []


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"ports": [{"port": "rightsizer"}]},
        {"ports": [{"port": 9000, "endPort": 9500}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OURS}}}]},
        {
            "from": [
                {
                    "namespaceSelector": {},
                    "podSelector": {
                        "matchExpressions": [
                            {"key": "app.kubernetes.io/component", "operator": "In", "values": ["recommender"]}
                        ]
                    },
                }
            ]
        },
    ],
)
def test_network_policies_that_let_the_recommender_through(rule: dict[str, Any]) -> None:
    there = Installation()
    there.add(network(**rule))
    there.condition("PluginReporting", "False", "ScrapeFailed")
    assert names(examined(there)) == ["PluginNotHeard"]


def test_command_against_a_network_policy_lets_the_recommender_through() -> None:
    there = Installation()
    there.add(network(ports=[{"port": 8000}]))
    there.condition("PluginReporting", "False", "ScrapeFailed")
    [found] = examined(there)
    there.add(json.loads(shlex.split(found.fix)[1]))
    assert names(examined(there)) == ["PluginNotHeard"]


def test_pods_that_are_excluded_or_elsewhere_lack_nothing() -> None:
    there = Installation()
    there.add(bare(vllm_pod("elsewhere", "others")))
    there.add(bare(vllm_pod("excluded")))["metadata"]["annotations"] = {ANNOTATION_EXCLUDE: "true"}
    assert examined(there) == []


def test_one_silent_pod_among_others_that_are_heard() -> None:
    there = Installation()
    there.condition("PluginReporting", "True", message="1 of 2 pods report; pod llama-0: connection refused")
    assert names(examined(there, pages=UNANSWERED)) == ["PluginSilent"]


def test_pods_of_one_workload_are_one_finding() -> None:
    there = Installation()
    for number in range(3):
        there.add(bare(vllm_pod(f"llama-{number + 1}")))
    [found] = examined(there)
    assert found.about == "Pod chat/llama-1 and 2 more of its workload"


def test_a_pod_that_only_sounds_like_vllm_lacks_nothing() -> None:
    there = Installation()
    router = bare(vllm_pod("router"))
    router["spec"]["containers"][0] |= {"image": "vllm-router:1", "args": [], "command": ["router"]}
    there.add(router)
    assert examined(there) == []


def test_monitors_that_somebody_takes_or_that_nobody_could_take() -> None:
    there = Installation()
    there.add(others.pod_monitor())
    assert examined(there) == []
    selected = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    there.add(others.prometheus(podMonitorSelector={"matchLabels": {"a": "b"}}, podMonitorNamespaceSelector={}))
    there.add(others.prometheus(podMonitorSelector=selected, podMonitorNamespaceSelector={}))
    assert examined(there) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"syncPolicy": {"automated": {}}},
        {
            "ignoreDifferences": [
                {
                    "group": "admissionregistration.k8s.io",
                    "kind": "MutatingWebhookConfiguration",
                    "jsonPointers": ["/webhooks/0/clientConfig/caBundle"],
                }
            ]
        },
    ],
)
def test_applications_that_leave_the_bundle_alone(spec: dict[str, Any]) -> None:
    there = Installation()
    there.add(others.application(**spec))
    assert examined(there) == []


def test_a_release_that_changes_at_times_is_no_fight() -> None:
    there = Installation()
    metadata = there.one("MutatingWebhookConfiguration")["metadata"]
    metadata |= {"generation": 300, "creationTimestamp": "2026-01-11T12:00:00Z"}
    metadata["labels"]["kustomize.toolkit.fluxcd.io/name"] = "platform"
    assert examined(there) == []


def test_an_excluded_pod_with_a_silent_plugin_is_left_alone() -> None:
    there = Installation()
    there.one("Pod", POD)["metadata"]["annotations"] = {ANNOTATION_EXCLUDE: "true"}
    there.condition("PluginReporting", "False", "ScrapeFailed")
    assert examined(there, pages=UNANSWERED) == []


@pytest.mark.parametrize("state", [{"deletionTimestamp": "2026-11-21T11:30:00Z"}, {"creationTimestamp": "2026-01-01"}])
def test_a_pod_of_before_that_ends_is_no_rollout(state: dict[str, str]) -> None:
    there = Installation()
    others.newest(there, "webhook")
    there.one("Pod", "newest")["metadata"] |= state
    assert examined(there) == []


def test_pods_that_do_not_start_where_no_others_serve_are_no_rollout() -> None:
    there = Installation()
    webhook_image_that_is_not_there(there)
    assert names(examined(there)) == ["WebhookNotRunning"]


def test_a_server_that_is_not_ready_is_quoted() -> None:
    there = Installation()
    there.one("Deployment", "vllm-rightsizer-recommender")["status"] = {}
    [found] = examined(there, unready={"vllm-rightsizer-recommender-abc": "pods cannot be listed"})
    assert found.seen == "0 of 1 replicas are ready; one says: pods cannot be listed"


def test_a_coming_authority_beside_the_present_one_is_well() -> None:
    there = Installation()
    there.webhook["clientConfig"]["caBundle"] = bundle(authority(), new_authority(NOW))
    assert examined(there) == []


def test_the_most_severe_comes_first() -> None:
    there = Installation()
    autoscaler(there)
    failure_policy(there)
    found = examined(there, unseen={"Node": "you are not allowed to list nodes"})
    assert names(found) == ["FailurePolicyChanged", "AutoscalerConflict", "NotLookedAt"]
    assert [one.severity for one in found] == list(Severity)


@pytest.mark.parametrize(("ours", "severity"), [(False, Severity.NOTE), (True, Severity.CRITICAL)])
def test_a_refused_pod_is_critical_where_we_are_why(ours: bool, severity: Severity) -> None:
    there = Installation()
    [found] = examined(there, probe=Probe(CHAT, refused="it is forbidden", taken_without_us=ours))
    assert (found.name, found.severity) == ("ProbeRefused", severity)


@pytest.mark.parametrize(
    ("reason", "moves"),
    [
        ("ScaledByPoolUsage", "raises"),
        ("ScaledByGPUMemory", "lowers"),
        ("ScaledByPoolUsageAndGPUMemory", "changes"),
    ],
)
def test_what_a_size_does_to_an_autoscaler(reason: str, moves: str) -> None:
    there = Installation()
    there.condition("AutoscalerConflict", "True", reason)
    [found] = examined(there)
    assert found.why.startswith(f"a smaller cache {moves} its metric, and so the replicas")


def test_rights_are_those_that_are_shipped() -> None:
    configuration, secret = "vllm-rightsizer", "vllm-rightsizer-webhook-tls"
    assert rights_of_webhook(OURS, configuration, secret) == _shipped("webhook")
    assert rights_of_recommender(OURS) == _shipped("recommender")


def _shipped(component: str) -> set[Right]:
    found: set[Right] = set()
    for raw in documents(ROOT / "deploy" / "kubernetes" / f"{component}-rbac.yaml"):
        namespace = raw["metadata"].get("namespace", "") if raw["kind"] == "Role" else ""
        for rule in raw.get("rules", ()) if raw["kind"] in ("Role", "ClusterRole") else ():
            for name in rule.get("resourceNames", [""]):
                found |= {
                    Right(component, group, resource, verb, namespace, name)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                }
    return found
