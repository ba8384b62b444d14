"""Workloads and what is recommended for them: what the tests of evaluation and verification share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from synthetic import KEY, facts, series

from recommender.api.automation import Automation
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import (
    Target,
    VLLMRecommendation,
)
from recommender.discovery import Pod
from recommender.evaluation import evaluate
from recommender.intervals import Series
from recommender.resolution import ResolvedPolicy
from recommender.samples import EngineFacts
from recommender.workload_states import PodReport, WorkloadState

HOUR = 3600.0
W = 48 * HOUR
NOW = 1_000_000 * W / 96
FINGERPRINT = "f" * 16
OWN = facts(blocks=4096)
ON = Automation(False, True, "AutomatedNamespace", "default", "default", False)


def pod(
    name: str = "llama-0",
    applied: bool = False,
    ready: bool = True,
    age: float = W,
    failure: str | None = None,
    fingerprint: str = FINGERPRINT,
) -> Pod:
    address = ("127.0.0.1", 1)
    return Pod(KEY, name, "", fingerprint, address, NOW - age, ready, applied, failure, {})


def state(
    *reports: PodReport,
    previous: VLLMRecommendation | None = None,
    policy: ResolvedPolicy | None = None,
    automation: Automation = ON,
    **spec: Any,
) -> WorkloadState:
    resolved = policy or ResolvedPolicy("default", PolicySpec.model_validate(spec))
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": KEY.workload.name, "uid": "d-1"}}
    return WorkloadState(KEY, reports or (PodReport(pod(), (OWN,)),), automation, resolved, previous, owner)


def traffic(intervals: int = 96, deepest: int = 1200, lookups: int = 60) -> list[list[int | None]]:
    draw = random.Random(1)
    return [
        [None if draw.random() < 0.25 else draw.randrange(deepest) for _ in range(lookups)] for _ in range(intervals)
    ]


OBSERVED = (series(traffic(), W, NOW),)


def recommend(
    of: WorkloadState, observed: Sequence[Series] = OBSERVED, candidates: tuple[int, ...] = (), now: float = NOW
) -> VLLMRecommendation:
    found = evaluate(of, observed, candidates, now).recommendation
    # As it comes back from the API server.
    return VLLMRecommendation.from_json(found.to_json())


def target_of(recommendation: VLLMRecommendation) -> Target:
    assert recommendation.status.target is not None
    return recommendation.status.target


def shown(recommendation: VLLMRecommendation, type_: str) -> tuple[str, str]:
    condition = recommendation.condition(type_)
    assert condition is not None
    assert condition.message
    return condition.status, condition.reason


def applied_engine(first: VLLMRecommendation) -> EngineFacts:
    return facts(blocks=target_of(first).kv_blocks)


def after_restart(first: VLLMRecommendation, rounds: int = 1) -> tuple[WorkloadState, tuple[Series, ...]]:
    """The pods run with what was recommended; the history has both."""
    small = facts(blocks=target_of(first).kv_blocks)
    reports = (PodReport(pod("llama-1", applied=True, age=W / 2), (small,)),)
    observed = (
        series(traffic(48), W, NOW - W / 2),
        series(traffic(48), W, NOW, engine=small, pod="llama-1"),
    )
    return state(*reports, previous=first), observed if rounds == 1 else observed[1:]
