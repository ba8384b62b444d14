"""Replicas come and go, and the API server too, while pods are created; and no pod misses the plugin for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bench.lab.control_plane import ControlPlane

from .pods import injected
from .replicas import Installation, Load, Replica

DRAIN_SECONDS = 8.0
"""Longer than the API server takes, on a busy machine too, to hear that an endpoint is gone."""


@pytest.fixture(scope="module")
def installation(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(crds, "draining", tmp_path_factory.mktemp("draining"))
    try:
        yield made
    finally:
        made.stop()


def ready(installation: Installation, count: int) -> list[Replica]:
    """So many replicas that are called: those that an earlier test has left, and new ones."""
    found = [one for one in installation.replicas if one.process.poll() is None][:count]
    found += [installation.start(drain=DRAIN_SECONDS) for _ in range(count - len(found))]
    installation.ready(*found)
    return found


def test_a_rolling_update_of_two_replicas(installation: Installation) -> None:
    ending = ready(installation, 2)
    # Programs that start beside a load take four times as long.
    coming = [installation.start(drain=DRAIN_SECONDS) for _ in range(2)]
    installation.plane.wait_for(lambda: all(new.ready() for new in coming), "ready replicas")
    serving = list(ending)
    with Load(installation, threads=4) as load:
        for old, new in zip(ending, coming, strict=True):
            serving = [*serving[1:], new]
            installation.serve(old, *serving)
            load.goes_on()
            # The kubelet's signal and the endpoint's end are not in any order: here the signal comes first.
            old.terminate()
            installation.plane.wait_for(lambda old=old: old.readiness() == (503, "the server is ending"), "unreadiness")
            load.goes_on(10)
            installation.serve(*serving)
            load.goes_on()
        for old in ending:
            assert old.process.wait(timeout=60) == 0
        load.goes_on()
        assert load.seen[False] == 0, load.seen
        assert load.seen[True] > 200
    answered = [line for replica in installation.replicas for line in _reviews(replica.log.read_text())]
    assert len({line["uid"] for line in answered}) >= load.seen[True]
    assert any(_reviews(replica.log.read_text()) for replica in installation.replicas[:2])


def test_one_of_two_is_killed(installation: Installation) -> None:
    """Pods start all the same; and as soon as its endpoint has gone, each of them has the plugin again."""
    replicas = ready(installation, 2)
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


def test_the_api_server_is_restarted(installation: Installation) -> None:
    """What is known holds on, and is caught up with afterwards."""
    plane = installation.plane
    [replica] = ready(installation, 1)

    def times_caught_up() -> int:
        return replica.log.read_text().count("are followed again")

    before = times_caught_up()
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
    plane.wait_for(lambda: times_caught_up() > before, "end of the trouble")
    assert injected(installation.create(plane.client))
    replica.terminate()
    plane.wait_for(lambda: replica.readiness() == (503, "the server is ending"), "unreadiness")
    # The second signal ends the drain.
    replica.terminate()
    assert replica.process.wait(timeout=60) == 0
    assert json.loads(replica.log.read_text().splitlines()[-1])["message"] == "stopped"


def _reviews(log: str) -> list[dict[str, str]]:
    """The structured lines of reviews; that every line is JSON is a part of it."""
    return [line for line in map(json.loads, log.splitlines()) if "uid" in line]
