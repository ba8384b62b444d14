"""Pods that form one engine together are rewritten together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from webhook_cases import (
    MAIN,
    Raw,
    knowing,
    outcome_of,
    pod,
    review,
)

from recommender.api.workloads import workload_of
from webhook.admission import admit
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()


def _lws_pod(name: str, index: str) -> Raw:
    """As the controller of LeaderWorkerSets labels it, whose webhook adds three variables before or after ours."""
    before = pod({**MAIN, "name": name})
    labels = {
        "leaderworkerset.sigs.k8s.io/name": "g",
        "leaderworkerset.sigs.k8s.io/group-index": "0",
        "leaderworkerset.sigs.k8s.io/group-key": "689ad3d2ba21d5ba1d7e2dcd2ba22c85a2d0a1d2",
        "leaderworkerset.sigs.k8s.io/template-revision-hash": "6b7f9c8d5",
        "leaderworkerset.sigs.k8s.io/worker-index": index,
    }
    annotations = {"leaderworkerset.sigs.k8s.io/size": "2"}
    owner = "g" if index == "0" else "g-0"
    if index != "0":
        annotations["leaderworkerset.sigs.k8s.io/leader-name"] = "g-0"
    before["metadata"] = {
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [_owner("StatefulSet", owner)],
    }
    before["spec"]["containers"][0]["env"] = [
        {"name": "LWS_LEADER_ADDRESS", "value": "g-0.g.prod"},
        {"name": "LWS_GROUP_SIZE", "value": "2"},
        {"name": "LWS_WORKER_INDEX", "value": index},
    ]
    return before


def _kserve_pod(name: str, index: str) -> Raw:
    """Head and worker of an InferenceService over several nodes: a Deployment each."""
    deployment = "g-predictor" if index == "0" else "g-predictor-worker"
    labels = {
        "app": f"isvc.{deployment}",
        "component": "predictor",
        "isvc.generation": "1",
        "pod-template-hash": "6d4f9b7c5",
        "serving.kserve.io/inferenceservice": "g",
    }
    before = pod({**MAIN, "name": name})
    owner = _owner("ReplicaSet", f"{deployment}-6d4f9b7c5")
    before["metadata"] = {"labels": labels, "annotations": {}, "ownerReferences": [owner]}
    return before


def _owner(kind: str, name: str) -> Raw:
    uid = "0b9a5f5e-3f6c-4a63-9b43-1f5b3f0b8d11"
    return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}


GROUPS = [pytest.param(_lws_pod, id="LeaderWorkerSet"), pytest.param(_kserve_pod, id="KServe")]


@pytest.mark.parametrize("group_pod", GROUPS)
@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "applied"),
        ({"paused": True}, "injected"),
        ({"degraded": "HitRateLost"}, "injected"),
        ({"has_target": False}, "injected"),
    ],
)
def test_a_group_is_rewritten_as_a_whole_or_not_at_all(
    group_pod: Callable[[str, str], Raw], changes: dict[str, Any], outcome: str
) -> None:
    """A worker stays as it is where its leader's recommendation does not hold, and the other way round."""
    leader, worker = group_pod("leader", "0"), group_pod("worker", "1")
    assert workload_of(leader) == workload_of(worker)
    one, other = knowing(leader, "leader"), knowing(worker, "worker", **changes)
    knowledge = dataclasses.replace(one, recommendations={**one.recommendations, **other.recommendations})
    for member in (leader, worker):
        assert outcome_of(admit(review(member), knowledge, SETTINGS)) == outcome


@pytest.mark.parametrize("group_pod", GROUPS)
def test_a_change_of_one_template_is_one_of_both(group_pod: Callable[[str, str], Raw]) -> None:
    """The worker's image may be another one: then its leader, which looks the same, starts as it is written, too."""
    leader = group_pod("leader", "0")
    known = knowing(leader, "leader")
    labels = leader["metadata"]["labels"]
    assert outcome_of(admit(review(leader), known, SETTINGS)) == "applied"
    [revision] = {"leaderworkerset.sigs.k8s.io/template-revision-hash", "isvc.generation"} & labels.keys()
    labels[revision] = "2"
    assert outcome_of(admit(review(leader), known, SETTINGS)) == "injected"


@pytest.mark.parametrize("group_pod", GROUPS)
def test_another_namespaces_group_of_the_same_name_does_not_matter(group_pod: Callable[[str, str], Raw]) -> None:
    leader = group_pod("leader", "0")
    known = knowing(leader, "leader")
    [(_, workload, container)] = known.recommendations
    elsewhere = knowing(leader, "leader", paused=True).recommendations["prod", workload, container]
    both = {**known.recommendations, ("dev", workload, container): elsewhere}
    knowledge = dataclasses.replace(known, recommendations=both)
    assert outcome_of(admit(review(leader), knowledge, SETTINGS)) == "applied"


@pytest.mark.parametrize("index", ["0", "1"])
def test_the_controllers_own_webhook_may_come_before_or_after(index: str) -> None:
    """It puts its variables first in every container, and its labels on the pod."""
    after = _lws_pod("main", index)
    before = copy.deepcopy(after)
    del before["spec"]["containers"][0]["env"]
    del before["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-key"]
    knowledge = knowing(before, "main")
    for first in (before, after):
        assert outcome_of(admit(review(first), knowledge, SETTINGS)) == "applied"


def test_one_pod_of_kserve_is_no_group() -> None:
    """Nor is a set of one: such pods may have a share of a GPU."""
    alone = _kserve_pod("main", "0")
    del alone["metadata"]["labels"]["isvc.generation"]
    single = _lws_pod("main", "0")
    single["metadata"]["annotations"]["leaderworkerset.sigs.k8s.io/size"] = "1"
    for before in (alone, single):
        known = knowing(before, "main")
        other = knowing({**before, "spec": pod({**MAIN, "name": "other"})["spec"]}, "other", paused=True)
        knowledge = dataclasses.replace(known, recommendations={**known.recommendations, **other.recommendations})
        assert outcome_of(admit(review(before), knowledge, SETTINGS)) == "applied"
