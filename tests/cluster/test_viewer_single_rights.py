"""Each right of the role for viewers is needed: without it one thing is not shown, it is said which, and everything
else goes on. `docs/security.md` says the same in a table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.workloads import WorkloadRef
from recommender.cluster_objects import AUTOMATION, POLICIES, RECOMMENDATIONS
from vllm_rightsizer.doctor.gathering import gather
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.following import looks
from vllm_rightsizer.reading import Source

from .pods import store_recommendation, vllm_pod
from .recommenders import MANIFESTS
from .single_rights import Right, holds, rights_of, until, without
from .test_chart_rights import PAGE, written
from .test_recommender_rights import grant
from .test_viewer_rights import NOT_FOR_VIEWERS, run

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

RULES: list[Raw] = next(one["rules"] for one in documents(MANIFESTS / "viewer-rbac.yaml"))
OURS = {resource.plural: resource for resource in (RECOMMENDATIONS, POLICIES, *AUTOMATION)}
PLAN, DOCTOR, GET, FOLLOW = "plan", "doctor", "kubectl get NAME", "kubectl get --watch"
LIST, LIST_WATCH, EXPLAIN = "list", "list --watch", "explain"
NEEDED_BY: Mapping[Right, set[str]] = {
    **{("get", plural): {GET} for plural in OURS},
    **{("watch", plural): {FOLLOW} for plural in OURS},
    ("watch", "vllmrecommendations"): {FOLLOW, LIST_WATCH},
    ("list", "vllmrecommendations"): {LIST, LIST_WATCH, EXPLAIN, PLAN, DOCTOR},
    ("list", "vllmpolicies"): {EXPLAIN, PLAN, DOCTOR},
    ("list", "automatednamespaces"): {PLAN, DOCTOR},
    ("list", "clusterautomations"): {PLAN, DOCTOR},
    ("list", "nodes"): {PLAN, DOCTOR},
    ("list", "rollouts"): {PLAN, DOCTOR},
    ("list", "leaderworkersets"): {PLAN, DOCTOR},
    ("list", "inferenceservices"): {PLAN, DOCTOR},
    ("list", "mutatingwebhookconfigurations"): {PLAN, DOCTOR},
    ("list", "customresourcedefinitions"): {DOCTOR},
    ("list", "deviceclasses"): {DOCTOR},
    ("get", "leases"): {DOCTOR},
}


@pytest.fixture(scope="module")
def namespace(crds: ControlPlane) -> str:
    """It has a recommendation."""
    made = crds.namespace("viewed-in-part")
    store_recommendation(crds, made, WorkloadRef("apps", "Deployment", "llama"), vllm_pod())
    return made


def _command(config: Path, *arguments: str) -> str:
    try:
        done = run(config, *arguments)
    except UserError as error:
        return str(error)
    # `explain` goes on without the policy, and `plan` without the scope, and say so.
    assert done.exit_code == 0
    return done.stderr


def _asked(plane: ControlPlane, user: str, namespace: str, *, watch: bool) -> str:
    """What is refused where each of our kinds is asked for as kubectl does it."""
    refused, client = [], plane.client_of(user)
    for resource in OURS.values():
        path = resource.path(namespace if resource is RECOMMENDATIONS else None, None if watch else "default")
        query = {"watch": "1", "timeoutSeconds": "5"} if watch else {}
        with client.http.stream("GET", path, params=query) as answer:
            assert answer.status_code in ((200, 403) if watch else (200, 403, 404))
            if answer.status_code == 403:
                refused.append(answer.read().decode())
    client.http.close()
    return "\n".join(refused)


async def _followed(config: Path, namespace: str) -> str:
    async with contextlib.aclosing(looks(Source(None, config), namespace)) as seen, asyncio.timeout(180):
        quiet = 0
        async for look in seen:
            if look.trouble is not None:
                return look.trouble
            # A watch that is refused says so before the second look.
            quiet += 1
            if quiet == 3:
                break
    return ""


async def _examined(config: Path) -> str:
    server = await ApiServer.connect(config)
    try:
        unseen = (await gather(server)).unseen
    finally:
        await server.close()
    mine = {what: why for what, why in unseen.items() if what not in NOT_FOR_VIEWERS and not what.startswith("Secret ")}
    return "\n".join(mine.values())


@pytest.mark.parametrize("right", list(rights_of(RULES)), ids="-".join)
async def test_what_is_not_shown(crds: ControlPlane, namespace: str, right: Right) -> None:
    # Messages have this name as well: it says nothing of the right.
    user = f"viewer-in-part-{list(NEEDED_BY).index(right)}"
    built_in = crds.client.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregate-to-view")["rules"]
    rules = without(RULES, right)
    grant(crds, user, [*built_in, *rules])
    await until(lambda: holds(crds, user, rules), lambda: "rights that do not hold yet")
    config = crds.kubeconfig_of(user, crds.user(user))
    of_threads: dict[str, Callable[[], str]] = {
        LIST: partial(_command, config, "list", "-A"),
        EXPLAIN: partial(_command, config, "explain", "llama", "-n", namespace),
        PLAN: partial(_command, config, "plan"),
        GET: partial(_asked, crds, user, namespace, watch=False),
        FOLLOW: partial(_asked, crds, user, namespace, watch=True),
    }
    said = {what: await asyncio.to_thread(ask) for what, ask in of_threads.items()}
    said |= {LIST_WATCH: await _followed(config, namespace), DOCTOR: await _examined(config)}
    assert {what for what, trouble in said.items() if trouble} == NEEDED_BY[right], said
    for what in NEEDED_BY[right]:
        named = {resource for _, resource in rights_of(RULES) if resource in said[what]}
        assert named == {right[1]}, (what, said[what])


def test_the_page_has_each_of_them() -> None:
    assert written(PAGE, ["viewers"]) == {("viewers", *right) for right in rights_of(RULES)}
