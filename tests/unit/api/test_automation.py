"""Who decides whether a workload is automated, and by which policy: the most specific that says something."""

from __future__ import annotations

import pytest

from recommender.api.automation import resolve_automation
from recommender.api.policies import AutomatedNamespaceSpec, ClusterAutomationSpec
from vllm_plugin import names

OWN, FOREIGN = names.ANNOTATION_AUTO, names.FOREIGN_ANNOTATION_AUTO
POLICY, FOREIGN_POLICY = names.ANNOTATION_POLICY, names.FOREIGN_ANNOTATION_POLICY
NAMESPACE_ON, NAMESPACE_OFF = AutomatedNamespaceSpec(vllm_optimize=True), AutomatedNamespaceSpec(vllm_optimize=False)
CLUSTER_ON = ClusterAutomationSpec(vllm_optimize=True, default_vllm_policy="cluster")


@pytest.mark.parametrize(
    ("pod", "workload", "namespace", "cluster", "enabled", "source"),
    [
        ({}, {}, None, None, False, "default"),
        ({}, {}, None, CLUSTER_ON, True, "ClusterAutomation"),
        ({}, {}, NAMESPACE_OFF, CLUSTER_ON, False, "AutomatedNamespace"),
        ({}, {}, AutomatedNamespaceSpec(), CLUSTER_ON, True, "ClusterAutomation"),
        ({}, {OWN: "true"}, NAMESPACE_OFF, None, True, "workload"),
        ({OWN: "false"}, {OWN: "true"}, NAMESPACE_ON, CLUSTER_ON, False, "pod"),
        ({FOREIGN: "true"}, {}, NAMESPACE_OFF, None, True, "pod"),
        ({FOREIGN: "true", OWN: "false"}, {}, None, None, False, "pod"),
        ({FOREIGN: "true"}, {OWN: "false"}, None, None, True, "pod"),
        # Neither true nor false says nothing.
        ({OWN: "maybe"}, {}, NAMESPACE_ON, None, True, "AutomatedNamespace"),
        ({OWN: " True "}, {}, None, None, True, "pod"),
    ],
)
def test_automation(
    pod: dict[str, str],
    workload: dict[str, str],
    namespace: AutomatedNamespaceSpec | None,
    cluster: ClusterAutomationSpec | None,
    enabled: bool,
    source: str,
) -> None:
    found = resolve_automation(pod, workload, namespace, cluster)
    assert (found.enabled, found.enabled_source) == (enabled, source)
    assert not found.excluded


@pytest.mark.parametrize(
    ("pod", "workload", "namespace", "cluster", "expected"),
    [
        ({}, {}, None, None, ("default", "default")),
        ({}, {}, None, CLUSTER_ON, ("cluster", "ClusterAutomation")),
        ({}, {}, AutomatedNamespaceSpec(default_vllm_policy="ns"), CLUSTER_ON, ("ns", "AutomatedNamespace")),
        ({}, {FOREIGN_POLICY: "w"}, AutomatedNamespaceSpec(default_vllm_policy="ns"), None, ("w", "workload")),
        ({POLICY: "p", FOREIGN_POLICY: "q"}, {POLICY: "w"}, None, None, ("p", "pod")),
        ({POLICY: ""}, {POLICY: "w"}, None, None, ("w", "workload")),
    ],
)
def test_policy(
    pod: dict[str, str],
    workload: dict[str, str],
    namespace: AutomatedNamespaceSpec | None,
    cluster: ClusterAutomationSpec | None,
    expected: tuple[str, str],
) -> None:
    found = resolve_automation(pod, workload, namespace, cluster)
    assert (found.policy, found.policy_source) == expected


@pytest.mark.parametrize("level", ["pod", "workload"])
def test_exclusion_at_any_level_wins(level: str) -> None:
    excluded, on = {names.ANNOTATION_EXCLUDE: "true"}, {OWN: "true", names.ANNOTATION_EXCLUDE: "false"}
    pod, workload = (excluded, on) if level == "pod" else (on, excluded)
    assert resolve_automation(pod, workload, NAMESPACE_ON, None).excluded


def test_dry_run_is_the_clusters() -> None:
    assert resolve_automation({}, {}, None, ClusterAutomationSpec(mode="DryRun")).dry_run
    assert not resolve_automation({}, {}, None, CLUSTER_ON).dry_run
