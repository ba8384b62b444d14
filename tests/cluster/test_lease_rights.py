"""Each right of the recommender on its Lease is needed: without it nobody leads, and why is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import MANIFESTS
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.cluster_objects import ClusterObjects
from recommender.elections import Timing
from recommender.leading import LEASE, LEASES, Candidate
from recommender.telemetry import Telemetry

from .single_rights import Right, holds, rights_of, said, until, without
from .test_recommender_rights import grant, shipped

pytestmark = pytest.mark.e2e

QUICK = Timing(retry=0.2)
"""It asks often; how long it waits for an answer, and leads without one, is as in a cluster."""
RULES: list[dict[str, Any]] = next(
    one["rules"] for one in documents(MANIFESTS / "recommender-rbac.yaml") if one["kind"] == "Role"
)


@asynccontextmanager
async def _standing(plane: ControlPlane, right: Right, name: str) -> AsyncIterator[tuple[Candidate, ClusterObjects]]:
    """A recommender without that right, in the namespace of that name, which follows all else."""
    # Rules on Leases hold everywhere here, which makes no difference to what is refused.
    rules = [*shipped(), *without(RULES, right)]
    grant(plane, name, rules)
    await until(lambda: holds(plane, name, rules), lambda: "rights that do not hold yet")
    kubeconfig = plane.kubeconfig_of(name, plane.user(name))
    server, elections = await ApiServer.connect(kubeconfig), await ApiServer.connect(kubeconfig)
    objects = ClusterObjects(server, Telemetry(), Pace(first_delay=0.05, look_again=0.2))
    candidate = Candidate(elections, name, lambda: objects.synced, CollectorRegistry(), QUICK)
    try:
        async with objects.following(), candidate.running():
            await until(lambda: objects.synced and objects.trouble is None, lambda: objects.trouble)
            yield candidate, objects
    finally:
        await elections.close()
        await server.close()


@pytest.mark.parametrize("right", list(rights_of(RULES)), ids="-".join)
async def test_what_leading_needs(crds: ControlPlane, right: Right) -> None:
    name = crds.namespace(f"leading-without-{right[0]}")
    async with _standing(crds, right, name) as (candidate, objects):
        await until(lambda: said(candidate.trouble) == {right}, lambda: candidate.trouble)
        assert "(grant it, see deploy/kubernetes/recommender-rbac.yaml, or run a single one" in str(candidate.trouble)
        assert candidate.held_seconds() == 0
        await until(lambda: objects.trouble is None, lambda: objects.trouble)


async def test_a_lease_that_is_there_need_not_be_made(crds: ControlPlane) -> None:
    name = crds.namespace("leading-a-lease-of-others")
    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": LEASE}, "spec": {}}
    crds.client.create(LEASES.path(name), lease)
    async with _standing(crds, ("create", "leases"), name) as (candidate, _):
        await until(
            lambda: candidate.held_seconds() > 0 and candidate.trouble is None,
            lambda: (candidate.held_seconds(), candidate.trouble),
        )
