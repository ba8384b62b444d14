"""The webhook's knowledge of a cluster: one watch a kind, and what they say together."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from recommender.api.apiserver.connection import ApiServer, Raw
from recommender.api.apiserver.mirror import Mirror, kept_in
from recommender.api.apiserver.reflector import Pace, Reflector
from recommender.api.apiserver.resources import resource_of
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS, Owner, OwnerKey
from recommender.api.policies import (
    CLUSTER_AUTOMATION_NAME,
    AutomatedNamespace,
    AutomatedNamespaceSpec,
    ClusterAutomation,
    ClusterAutomationSpec,
    VLLMPolicy,
)
from recommender.api.recommendations import VLLMRecommendation
from webhook.knowledge import Knowledge, RecommendationKey, Recommended, recommended_of
from webhook.owners import owner_of

Pair = tuple[Any, Any]
"""What a reflector keeps of an object: its key and its value in one of the mappings below."""


class ClusterWatch:
    """Follows all that admission depends on, over one connection pool and on one event loop.

    There is no knowledge until each kind was read whole: an exclusion that has not been read yet must hold, too.
    """

    def __init__(self, server: ApiServer, pace: Pace | None = None) -> None:
        self._recommendations: dict[RecommendationKey, Recommended] = {}
        self._namespaces: dict[str, AutomatedNamespaceSpec] = {}
        self._clusters: dict[str, ClusterAutomationSpec] = {}
        self._dry_run_policies: dict[str, bool] = {}
        self._owners: dict[OwnerKey, Owner] = {}
        self._recommending = Reflector(
            server, resource_of(VLLMRecommendation), recommended_of, changed=self._recommendation_changed, pace=pace
        )
        self._mirror = Mirror(
            self._recommending,
            *(
                Reflector(server, resource_of(model), keep, changed=kept_in(mapping, self._assemble), pace=pace)
                for model, keep, mapping in (
                    (AutomatedNamespace, _automated_namespace, self._namespaces),
                    (ClusterAutomation, _cluster_automation, self._clusters),
                    (VLLMPolicy, _policy, self._dry_run_policies),
                )
            ),
            *(
                Reflector(
                    server,
                    resource,
                    partial(owner_of, kind=resource),
                    changed=kept_in(self._owners),
                    metadata_only=True,
                    may_be_absent=resource in CUSTOM_OWNERS,
                    pace=pace,
                )
                for resource in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS)
            ),
        )
        self._assemble()

    @property
    def knowledge(self) -> Knowledge | None:
        return self._knowledge if self._mirror.synced else None

    @property
    def trouble(self) -> str | None:
        return self._mirror.trouble

    def ages(self) -> Mapping[str, float]:
        return self._mirror.ages()

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._mirror.running()

    def _assemble(self) -> None:
        """The large mappings are live ones, and cost nothing here."""
        self._knowledge = Knowledge(
            recommendations=self._recommendations,
            namespaces=self._namespaces,
            cluster=self._clusters.get(CLUSTER_AUTOMATION_NAME),
            dry_run_policies=frozenset(name for name, dry_run in self._dry_run_policies.items() if dry_run),
            owners=self._owners,
        )

    def _recommendation_changed(self, before: Pair | None, after: Pair | None) -> None:
        """Of several for one target, as a person may make them, the last one holds; when it goes, another one does."""
        kept = self._recommendations
        if before is not None and kept.get(before[0]) == before[1]:
            del kept[before[0]]
            if after is None and len(self._recommending.objects) > len(kept):
                kept.update(pair for pair in self._recommending.objects.values() if pair[0] == before[0])
        if after is not None:
            kept[after[0]] = after[1]


def _automated_namespace(raw: Raw) -> Pair:
    read = AutomatedNamespace.from_json(raw)
    return read.metadata.name, read.spec


def _cluster_automation(raw: Raw) -> Pair:
    read = ClusterAutomation.from_json(raw)
    return read.metadata.name, read.spec


def _policy(raw: Raw) -> Pair:
    read = VLLMPolicy.from_json(raw)
    return read.metadata.name, read.spec.mode == "DryRun"
