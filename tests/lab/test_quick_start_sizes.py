"""docs/quick-start.md, steps 4 and 5: a preliminary size, the real one, and the pods that start with it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.page_commands import commands_in_sentences
from vllm_plugin.names import ANNOTATION_APPLIED, KV_CACHE_CAPACITY_BYTES
from vllm_plugin.names import REQUESTS as REQUESTS_METRIC

from .lab_cluster import (
    CHAT,
    FIGURES,
    LATER,
    NAME,
    NAMESPACE,
    QUICK_START,
    RECOMMENDER,
    Measured,
    annotations,
    condition,
    load,
    plugin_says,
    ready_pod,
    ready_pods,
    restarted,
    status_of,
    tried_of_deployment,
    wait_for,
)
from .pages import reader, run_one

AFTER_THE_RESTART = 20
AFTER_THE_KILL = 30


def test_a_preliminary_size_is_shown_and_explained(measured: Measured, sized: str) -> None:
    table, _, rest = sized.partition("preliminary: ")
    assert NAME in table
    found = re.match(r"(\d+) of (\d+) bytes\n((?:[-+] [^\n]*\n)+)(.*)", rest, re.DOTALL)
    assert found is not None, rest
    kv_bytes, capacity, would_change, explained = int(found[1]), int(found[2]), found[3], found[4]
    assert 0 < kv_bytes < capacity == plugin_says(measured.pod, KV_CACHE_CAPACITY_BYTES)
    assert "--gpu-memory-utilization=0.3" in would_change
    assert f"Deployment {NAME}" in explained
    assert "decided by" in explained


def test_the_list_has_it(kubectl: Kubectl, sized: str) -> None:
    assert sized
    command = ["vllm-rightsizer", "list", "-n", CHAT]
    listed = subprocess.run(command, env=reader(kubectl), capture_output=True, text=True, check=True).stdout
    print(listed)
    assert f"{CHAT}/{NAME}" in listed


@pytest.mark.parametrize("command", commands_in_sentences(QUICK_START))
def test_what_its_sentences_name(kubectl: Kubectl, sized: str, command: str) -> None:
    assert sized
    print(run_one(command, reader(kubectl)))


def test_until_the_window_has_data_the_preliminary_size_is_held(real: Raw) -> None:
    assert real["target"]["boundBy"] == "held"
    assert condition(real, "CoverageSufficient") == "False"


def test_next_pod_runs_with_the_recommendation_and_serves(kubectl: Kubectl, real: Raw) -> None:
    assert "mode" not in kubectl.get("clusterautomation", "default")["spec"]
    own = _pool_of_its_own_arguments(kubectl)
    target = wait_for(lambda: _other_target(kubectl, real), "a size by the policy `default`")
    assert target["kvBytes"] < own
    # Both replicas follow the API server, each in its own time.
    wait_for(lambda: ANNOTATION_APPLIED in annotations(tried_of_deployment(kubectl)), "a webhook that writes the size")
    admitted = restarted(kubectl)
    pod = ready_pod(kubectl)
    assert pod["metadata"]["uid"] == admitted["metadata"]["uid"]
    # In whole blocks, which are smaller than a hundredth of it.
    assert plugin_says(pod, KV_CACHE_CAPACITY_BYTES) == pytest.approx(_applied_bytes(admitted), rel=0.01)
    assert plugin_says(pod, KV_CACHE_CAPACITY_BYTES) < own
    FIGURES.append(f"KV cache: {own} bytes by its own arguments, {_applied_bytes(admitted)} by the recommendation")
    load(pod, AFTER_THE_RESTART, seed=3)


def test_killed_recommender_goes_on_with_its_history(kubectl: Kubectl, real: Raw) -> None:
    assert real
    pod = ready_pod(kubectl)
    # Some came to the pod before this one: the last look at them is the history's.
    least = LATER + AFTER_THE_RESTART
    before = wait_for(lambda: _counted(kubectl, lambda requests: requests >= least), "requests of both pods")
    [killed] = ready_pods(kubectl, RECOMMENDER, 1)
    kubectl("delete", "pod", f"--namespace={NAMESPACE}", killed["metadata"]["name"], "--grace-period=0", "--force")
    ready_pods(kubectl, RECOMMENDER, 1, but=(killed["metadata"]["uid"],))
    load(pod, AFTER_THE_KILL, seed=4)

    def with_the_last(requests: int) -> bool:
        # Those of the policy `preliminary` go ten minutes after they came: on a slow machine at this moment.
        return requests >= before + AFTER_THE_KILL or least + AFTER_THE_KILL <= requests < before

    # Only a recommender that runs counts these; one without the history counts these, or what the pod has seen, alone.
    after = wait_for(lambda: _counted(kubectl, with_the_last), "what came before the kill, and after it")
    assert AFTER_THE_KILL <= plugin_says(pod, REQUESTS_METRIC) < min(before, after)
    assert status_of(kubectl)["target"]["kvBytes"] < _pool_of_its_own_arguments(kubectl)


def _other_target(kubectl: Kubectl, than: Raw) -> Raw | None:
    target = status_of(kubectl).get("target")
    return target if target != than["target"] else None


def _counted(kubectl: Kubectl, enough: Callable[[int], bool]) -> int:
    """Requests that the recommendation is made from, where they are as they are to be; else 0."""
    requests = int((status_of(kubectl).get("measured") or {}).get("requests", 0))
    return requests if enough(requests) else 0


def _pool_of_its_own_arguments(kubectl: Kubectl) -> int:
    return next(int(bound["kvBytes"]) for bound in status_of(kubectl)["bounds"] if bound["name"] == "pool")


def _applied_bytes(pod: Raw) -> int:
    """Of the KV pool, as the webhook has written them."""
    [written] = json.loads(annotations(pod)[ANNOTATION_APPLIED]).values()
    [found] = [one for one in written if one.startswith(("VLLM_RIGHTSIZER_KV_BYTES=", "--kv-cache-memory-bytes="))]
    return int(found.partition("=")[2])
