"""All checks, causes before what follows from them: of equally severe findings the first is the one to begin with."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_rightsizer.doctor import (
    calls,
    definitions,
    gitops,
    monitoring,
    plugins,
    pulls,
    rights,
    selection,
    servers,
    settings,
    workloads,
)
from vllm_rightsizer.doctor.facts import Facts
from vllm_rightsizer.doctor.findings import Check, Finding, Severity


def not_looked_at(facts: Facts) -> Iterator[Finding]:
    for what, why in sorted(facts.unseen.items()):
        fix = f"kubectl auth can-i --list --namespace={facts.namespace}"
        follows = "what is wrong with it could not be found"
        yield Finding("NotLookedAt", Severity.NOTE, what, why, follows, fix)


CHECKS: tuple[Check, ...] = (
    definitions.definitions_missing,
    calls.configuration_missing,
    calls.failure_policy,
    calls.probe_refused,
    rights.rights_missing,
    servers.webhook_not_running,
    gitops.gitops_writes_bundle,
    calls.certificate_ends,
    calls.authority_missing,
    calls.authority_wrong,
    servers.webhook_not_ready,
    servers.webhook_without_endpoints,
    servers.webhook_isolated,
    selection.namespaces_left_out,
    selection.pods_left_out,
    calls.webhook_unreachable,
    calls.plugin_lost,
    pulls.injector_not_pulled,
    servers.recommender_not_running,
    servers.recommender_not_ready,
    servers.recommender_not_leading,
    servers.rollouts_stuck,
    definitions.definitions_old,
    calls.configurations_several,
    calls.probe_left_out,
    gitops.gitops_fights,
    settings.vllm_beside_us,
    settings.nobody_opted_in,
    settings.setting_invalid,
    settings.policy_missing,
    settings.automation_without_namespace,
    plugins.plugin_map_missing,
    plugins.plugin_silent,
    plugins.pods_without_plugin,
    workloads.scheduler_missing,
    workloads.claims_not_kept,
    workloads.recommendation_degraded,
    workloads.autoscaler_conflicts,
    monitoring.monitors_not_selected,
    not_looked_at,
)
