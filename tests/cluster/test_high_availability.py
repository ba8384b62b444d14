"""Two recommenders on one API server and one history: one of them works, and whatever happens to it, never two."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from synthetic import SyntheticEngine, served

from bench.lab.control_plane import ControlPlane
from recommender.api.workloads import WorkloadRef

from .overheard import Overheard, overhearing
from .recommenders import (
    NAMESPACE,
    RecommenderProcess,
    found,
    install,
    measured_pod,
    opted_in,
    path_of,
    put_policy,
    run,
)

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/vllm-rightsizer-recommender"
BARE = WorkloadRef("", "Pod", "llama")
PATIENT = {"observationWindow": "300s", "windowCoverage": 5, "minRequests": 100}
"""Its window outlasts these tests: what was counted at first still counts at the end."""


@dataclass
class Replica:
    process: RecommenderProcess
    heard: Overheard

    def send(self, number: signal.Signals) -> None:
        assert self.process.program is not None
        os.kill(self.process.program.pid, number)


@dataclass
class Pair:
    plane: ControlPlane
    replicas: list[Replica]
    namespace: str
    engine: SyntheticEngine
    looked_up: int = 0

    def leaders(self) -> list[Replica]:
        return [one for one in self.replicas if one.process.leads()]

    def leader(self) -> tuple[Replica, Replica]:
        """Who leads, and the other one; waited for."""
        self.plane.wait_for(lambda: len(self.leaders()) == 1, "leader")
        [leader] = self.leaders()
        return leader, next(one for one in self.replicas if one is not leader)

    def wait_for(self, holds: Callable[[], object], what: str) -> None:
        self.plane.wait_for(holds, what)

    def measured(self) -> int:
        status = found(self.plane, path_of(self.namespace, BARE)).get("status") or {}
        return int((status.get("measured") or {}).get("requests", -1))

    def goes_on(self) -> None:
        """What the pod counts from now on is counted on from what was counted before, and written."""
        self.engine.look_up([1, 2], requests=7)
        self.looked_up += 7
        self.wait_for(lambda: self.measured() == self.looked_up, f"{self.looked_up} requests in the recommendation")


@pytest.fixture(scope="module")
def pair(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both ready, one leads; and a pod that is measured."""
    install(crds)
    put_policy(crds, "hasty-pair", **PATIENT)
    namespace = opted_in(crds, "pair", "hasty-pair")
    engine = SyntheticEngine()
    with ExitStack() as stack:
        port = stack.enter_context(served(lambda: engine.page().encode()))
        history = tmp_path_factory.mktemp("volume") / "history.db"
        replicas = []
        for name in ("one", "two"):
            heard = stack.enter_context(overhearing(crds))
            process = RecommenderProcess(crds, tmp_path_factory.mktemp(name), heard.url, history)
            stack.callback(process.stop)
            process.start(leads=False)
            replicas.append(Replica(process, heard))
        made = Pair(crds, replicas, namespace, engine)
        made.leader()
        crds.client.create(f"/api/v1/namespaces/{namespace}/pods", measured_pod(port))
        run(crds, namespace, "llama")
        made.wait_for(lambda: made.measured() == 0, "first measurement")
        made.goes_on()
        yield made


def test_one_works_and_the_other_is_ready_to(pair: Pair) -> None:
    leader, other = pair.leader()
    for one in (leader, other):
        pair.wait_for(lambda one=one: one.process.answer("/readyz") == "ok", "ready recommender")
    assert other.process.answer("/healthz") == "ok"
    assert other.heard.objects() == []
    assert leader.heard.objects() != []
    # What is said of workloads is said once.
    said = f'namespace="{pair.namespace}"'
    assert said in leader.process.answer("/metrics")
    assert "namespace=" not in other.process.answer("/metrics")
    assert "vllm_rightsizer_recommender_lease_age_seconds" in other.process.answer("/metrics")
    lease = pair.plane.client.get(LEASE)["spec"]
    assert f"as {lease['holderIdentity']}," in leader.process.log()
    pair.wait_for(lambda: f"{lease['holderIdentity']} leads" in other.process.log(), "word of the other one")


def test_one_that_stood_still_writes_nothing_when_it_wakes(pair: Pair) -> None:
    """Even though writes were waiting; and the other one takes the history over where it was left."""
    leader, other = pair.leader()
    leader.heard.refusing = 429
    before = leader.heard.refused
    pair.engine.look_up([1, 2], requests=7)
    pair.looked_up += 7
    pair.wait_for(lambda: leader.heard.refused > before, "writes that wait")
    leader.send(signal.SIGSTOP)
    try:
        pair.wait_for(other.process.leads, "another leader")
        # The frozen one still has its lock on the history.
        pair.wait_for(lambda: "in use by another recommender" in other.process.answer("/readyz"), "wait for the lock")
        leader.heard.refusing = None
        woken = time.monotonic()
    finally:
        leader.send(signal.SIGCONT)
    pair.wait_for(lambda: pair.measured() == pair.looked_up, "what was counted before")
    pair.wait_for(lambda: leader.process.answer("/readyz") == "ok", "one that stands by")
    pair.goes_on()
    assert [one for one in leader.heard.writes if one.at >= woken] == []
    assert "leads no more" in leader.process.log()
    assert leader.process.metric("vllm_rightsizer_recommender_leader_transitions_total") == 1
    assert "namespace=" not in leader.process.answer("/metrics")


def test_after_a_graceful_end_the_other_need_not_wait(pair: Pair) -> None:
    leader, other = pair.leader()
    program = leader.process.program
    assert program is not None
    leader.send(signal.SIGTERM)
    pair.wait_for(lambda: program.exit_code() is not None, "end")
    assert program.exit_code() == 0
    assert "is given back" in leader.process.log()
    pair.wait_for(other.process.leads, "another leader")
    pair.goes_on()
    leader.process.start(leads=False)


def test_after_one_was_killed_nothing_is_lost(pair: Pair) -> None:
    leader, other = pair.leader()
    program = leader.process.program
    assert program is not None
    leader.send(signal.SIGKILL)
    pair.wait_for(other.process.leads, "another leader")
    pair.goes_on()
    assert pair.plane.client.get(LEASE)["spec"]["leaseTransitions"] >= 1
    leader.process.start(leads=False)
    assert not leader.process.leads()


def test_who_cannot_reach_the_lease_stops(pair: Pair) -> None:
    """With both, since nobody can: they are well, say what is wrong, and one goes on afterwards."""
    leader, _ = pair.leader()
    pair.plane.stop_api_server()
    try:
        pair.wait_for(lambda: not pair.leaders(), "nobody who leads")
        for one in pair.replicas:
            assert one.process.answer("/healthz") == "ok"
            pair.wait_for(lambda one=one: "vllm-rightsizer-recommender" in one.process.answer("/readyz"), "complaint")
        pair.wait_for(lambda: "leads no more" in leader.process.log(), "word of it")
    finally:
        pair.plane.start_api_server()
    pair.leader()
    pair.goes_on()
