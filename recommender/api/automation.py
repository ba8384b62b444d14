"""Is a workload automated, by which policy, and who said so? One answer for webhook and recommender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recommender.api.policies import DEFAULT_POLICY, AutomatedNamespaceSpec, ClusterAutomationSpec
from vllm_plugin.names import (
    ANNOTATION_AUTO,
    ANNOTATION_EMITTER,
    ANNOTATION_EXCLUDE,
    ANNOTATION_POLICY,
    FOREIGN_ANNOTATION_AUTO,
    FOREIGN_ANNOTATION_POLICY,
)

Source = Literal["pod", "workload", "AutomatedNamespace", "ClusterAutomation", "default"]
_TRUE, _FALSE = frozenset(("true", "1", "yes", "on")), frozenset(("false", "0", "no", "off"))


@dataclass(frozen=True)
class Automation:
    """The resolved answer. `excluded` means neither plugin nor rewrite; each source says which level decided."""

    excluded: bool
    enabled: bool
    enabled_source: Source
    policy: str
    policy_source: Source
    dry_run: bool
    emitter: str = "none"
    """As it is written; it may be none of `EMITTERS`."""


def flag(text: str | None) -> bool | None:
    """True or False as annotations spell them; None for absent and for anything else."""
    word = (text or "").strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def resolve_automation(
    pod_annotations: Mapping[str, str],
    workload_annotations: Mapping[str, str],
    namespace: AutomatedNamespaceSpec | None,
    cluster: ClusterAutomationSpec | None,
) -> Automation:
    """Most specific first: pod template, workload, AutomatedNamespace, ClusterAutomation, off; an emitter is named by
    pod template, workload or ClusterAutomation.

    Our spellings win over `scaleops.sh/` ones on the same object; `exclude` at any level wins over everything.
    """
    levels: tuple[tuple[Source, Mapping[str, str]], ...] = (
        ("pod", pod_annotations),
        ("workload", workload_annotations),
    )
    enabled: tuple[bool, Source] | None = None
    policy: tuple[str, Source] | None = None
    emitter: str | None = None
    for source, written in levels:
        said = flag(written.get(ANNOTATION_AUTO))
        if said is None:
            said = flag(written.get(FOREIGN_ANNOTATION_AUTO))
        if enabled is None and said is not None:
            enabled = (said, source)
        named = written.get(ANNOTATION_POLICY) or written.get(FOREIGN_ANNOTATION_POLICY)
        if policy is None and named:
            policy = (named, source)
        emitter = emitter or written.get(ANNOTATION_EMITTER)
    objects: tuple[tuple[Source, AutomatedNamespaceSpec | ClusterAutomationSpec | None], ...] = (
        ("AutomatedNamespace", namespace),
        ("ClusterAutomation", cluster),
    )
    for source, spec in objects:
        if enabled is None and spec is not None and spec.vllm_optimize is not None:
            enabled = (spec.vllm_optimize, source)
        if policy is None and spec is not None and spec.default_vllm_policy:
            policy = (spec.default_vllm_policy, source)
    enabled = enabled or (False, "default")
    policy = policy or (DEFAULT_POLICY, "default")
    return Automation(
        excluded=any(flag(written.get(ANNOTATION_EXCLUDE)) for _, written in levels),
        enabled=enabled[0],
        enabled_source=enabled[1],
        policy=policy[0],
        policy_source=policy[1],
        dry_run=cluster is not None and cluster.mode == "DryRun",
        emitter=emitter or (cluster.emitter if cluster is not None else None) or "none",
    )
