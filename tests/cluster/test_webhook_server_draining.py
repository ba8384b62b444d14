"""Replicas come and go, and the API server too, while pods are created; and no pod misses the plugin for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bench.lab.control_plane import ControlPlane

from .pods import injected
from .replicas import Installation, Load

DRAIN_SECONDS = 2.0


@pytest.fixture(scope="module")
def installation(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(crds, "draining", tmp_path_factory.mktemp("draining"))
    try:
        yield made
    finally:
        made.stop()


def test_a_rolling_update_of_two_replicas(installation: Installation) -> None:
    serving = [installation.start(drain=DRAIN_SECONDS) for _ in range(2)]
    installation.ready(*serving)
    with Load(installation, threads=4) as load:
        for _ in range(2):
            old = serving.pop(0)
            new = installation.start(drain=DRAIN_SECONDS)
            installation.plane.wait_for(new.ready, "ready replica")
            serving.append(new)
            installation.serve(old, *serving)
            load.goes_on()
            # The kubelet's signal and the endpoint's end are not in any order: here the signal comes first.
            old.terminate()
            installation.plane.wait_for(lambda old=old: old.readiness() == (503, "the server is ending"), "unreadiness")
            load.goes_on(10)
            installation.serve(*serving)
            assert old.process.wait(timeout=30) == 0
            load.goes_on()
        assert load.seen[False] == 0, load.seen
        assert load.seen[True] > 200
    answered = [line for replica in installation.replicas for line in _reviews(replica.log.read_text())]
    assert len({line["uid"] for line in answered}) >= load.seen[True]
    assert any(_reviews(replica.log.read_text()) for replica in installation.replicas[:2])
    for replica in serving:
        replica.stop()


def test_one_of_two_is_killed(installation: Installation) -> None:
    """Pods start all the same; and as soon as its endpoint has gone, each of them has the plugin again."""
    replicas = [installation.start() for _ in range(2)]
    installation.ready(*replicas)
    with Load(installation, threads=4) as load:
        load.goes_on()
        replicas[0].stop()
        load.goes_on(20)
        installation.serve(replicas[1])

        def twenty_in_a_row() -> bool:
            missed = load.seen[False]
            load.goes_on(20)
            return load.seen[False] == missed

        installation.plane.wait_for(twenty_in_a_row, "end of the misses")
        missed = load.seen[False]
        load.goes_on(100)
        assert load.seen[False] == missed
    replicas[1].stop()


def test_the_api_server_is_restarted(installation: Installation) -> None:
    """What is known holds on, and is caught up with afterwards."""
    plane = installation.plane
    replica = installation.start(drain=0)
    installation.ready(replica)
    plane.stop_api_server()
    assert replica.readiness()[0] == 200
    plane.start_api_server()
    assert injected(installation.create(plane.client))
    automation = {
        "apiVersion": "vllm-rightsizer.io/v1alpha1",
        "kind": "AutomatedNamespace",
        "metadata": {"name": installation.pods_namespace},
    }
    plane.client.apply(automation)
    plane.wait_for(lambda: "are followed again" in replica.log.read_text(), "end of the trouble")
    assert injected(installation.create(plane.client))
    replica.terminate()
    assert replica.process.wait(timeout=60) == 0
    assert json.loads(replica.log.read_text().splitlines()[-1])["message"] == "stopped"


def _reviews(log: str) -> list[dict[str, str]]:
    """The structured lines of reviews; that every line is JSON is a part of it."""
    return [line for line in map(json.loads, log.splitlines()) if "uid" in line]
