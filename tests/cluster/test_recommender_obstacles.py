"""What an API server may do to the recommender while it works: nothing is missed, and what is to be there is there."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from synthetic import SyntheticEngine, served

from bench.lab.control_plane import ControlPlane
from recommender.api.workloads import WorkloadRef

from .overheard import Overheard, overhearing
from .recommenders import (
    RecommenderProcess,
    deployed,
    found,
    install,
    measured_pod,
    opted_in,
    path_of,
    put_policy,
    run,
)

POLICY = "hasty-obstacles"
LLAMA = WorkloadRef("apps", "Deployment", "llama")
PATIENT = {"observationWindow": "192s", "windowCoverage": 5, "minRequests": 100}
"""Its window outlasts each of these tests: what was counted at first still counts at the end."""
ROUND_SECONDS = 1.0
"""Two in an interval of that policy."""


@pytest.fixture(scope="module")
def heard(crds: ControlPlane) -> Iterator[Overheard]:
    with overhearing(crds) as made:
        yield made


@pytest.fixture(scope="module")
def recommender(
    crds: ControlPlane, heard: Overheard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RecommenderProcess]:
    install(crds)
    put_policy(crds, POLICY, **PATIENT)
    made = RecommenderProcess(crds, tmp_path_factory.mktemp("recommender"), heard.url)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def requests_of(plane: ControlPlane, path: str) -> int:
    return int(((found(plane, path).get("status") or {}).get("measured") or {}).get("requests", -1))


def bare_pod(plane: ControlPlane, namespace: str, name: str, port: int) -> str:
    """A pod that is measured; the path of its recommendation."""
    plane.client.create(f"/api/v1/namespaces/{namespace}/pods", measured_pod(port, name))
    run(plane, namespace, name)
    return path_of(namespace, WorkloadRef("", "Pod", name))


def test_throttling(crds: ControlPlane, recommender: RecommenderProcess, heard: Overheard) -> None:
    """It waits as long as it is told to, and then writes what holds."""
    namespace = opted_in(crds, "throttled", POLICY)
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        path = bare_pod(crds, namespace, "llama", port)
        crds.wait_for(lambda: requests_of(crds, path) == 0, "first measurement")
        before, began = heard.refused, time.monotonic()
        heard.refusing = 429
        engine.look_up([1, 2], requests=30)
        crds.wait_for(lambda: heard.refused >= before + 2, "throttling")
        # It asked for a second each time.
        assert heard.refused - before <= time.monotonic() - began + 1
        assert "takes no writes" in recommender.answer("/readyz")
        heard.refusing = None
        crds.wait_for(lambda: requests_of(crds, path) == 30, "what was counted meanwhile")
        crds.wait_for(lambda: recommender.answer("/readyz") == "ok", "readiness")
        assert recommender.metric('vllm_rightsizer_recommender_object_writes_total{kind="VLLMRecommendation",o') > 0


def known_pods(recommender: RecommenderProcess) -> set[str]:
    """Those of the namespace `forgotten`: the API server is not ours alone."""
    page = recommender.answer("/metrics")
    return set(
        re.findall(r'^vllm_rightsizer_workload_pod_info\{.*namespace="forgotten".*pod="(\w+)"', page, re.MULTILINE)
    )


def test_versions_that_nobody_remembers(crds: ControlPlane, recommender: RecommenderProcess, heard: Overheard) -> None:
    """etcd was compacted and the API server is another one: what came and went meanwhile is met all the same."""
    namespace = opted_in(crds, "forgotten", POLICY)
    stays, comes, goes = SyntheticEngine(), SyntheticEngine(), SyntheticEngine()
    with (
        served(lambda: stays.page().encode()) as port,
        served(lambda: comes.page().encode()) as another,
        served(lambda: goes.page().encode()) as third,
    ):
        path = bare_pod(crds, namespace, "stays", port)
        gone = bare_pod(crds, namespace, "goes", third)
        for one in (path, gone):
            crds.wait_for(lambda one=one: requests_of(crds, one) == 0, "first measurement")
        crds.wait_for(lambda: "goes" in known_pods(recommender), "the pod that will go")
        heard.closed = True
        crds.stop_api_server()
        etcd = f"http://127.0.0.1:{crds._etcd_port}/v3/kv"
        for value in ("YQ==", "Yg=="):
            httpx.post(f"{etcd}/put", json={"key": "L3VucmVsYXRlZA==", "value": value}).raise_for_status()
        revision = httpx.post(f"{etcd}/range", json={"key": "AA=="}).json()["header"]["revision"]
        compaction = {"revision": revision, "physical": True}
        httpx.post(f"{etcd}/compaction", json=compaction, timeout=60).raise_for_status()
        crds.start_api_server()
        crds.client.delete(f"/api/v1/namespaces/{namespace}/pods/goes", gracePeriodSeconds="0")
        new = bare_pod(crds, namespace, "comes", another)
        stays.look_up([1, 2], requests=11)
        lists = heard.lists.count("/api/v1/pods")
        heard.closed = False
        crds.wait_for(lambda: requests_of(crds, new) == 0, "the pod that came")
        crds.wait_for(lambda: requests_of(crds, path) == 11, "what was counted meanwhile")
        crds.wait_for(lambda: known_pods(recommender) == {"stays", "comes"}, "end of the pod that went")
        assert heard.lists.count("/api/v1/pods") > lists
        crds.wait_for(lambda: recommender.answer("/readyz") == "ok", "readiness")


@pytest.mark.usefixtures("recommender")
def test_a_recommendation_that_somebody_deletes(controllers: ControlPlane) -> None:
    """Whenever that is, it is made again, and is its workload's."""
    plane = controllers
    namespace = opted_in(plane, "deleted", POLICY)
    path = path_of(namespace, LLAMA)
    engine = SyntheticEngine()
    draw = random.Random(1)
    with served(lambda: engine.page().encode()) as port:
        deployed(plane, namespace, measured_pod(port))
        plane.wait_for(lambda: requests_of(plane, path) == 0, "first measurement")
        first = plane.client.get(path)
        seen = {first["metadata"]["uid"]}
        for number in range(1, 7):
            # In each part of a round.
            engine.look_up([1, 2], requests=1)
            time.sleep(draw.uniform(0, ROUND_SECONDS))
            plane.client.delete(path)
            plane.wait_for(lambda number=number: requests_of(plane, path) == number, "another one")
            made = plane.client.get(path)["metadata"]
            assert made["ownerReferences"] == first["metadata"]["ownerReferences"]
            assert made["uid"] not in seen
            seen.add(made["uid"])
