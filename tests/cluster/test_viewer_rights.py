"""Whoever has `view` runs what reads: in one namespace by a RoleBinding, everywhere by a ClusterRoleBinding."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import API_VERSION
from vllm_rightsizer.cli import app
from vllm_rightsizer.doctor.gathering import gather
from vllm_rightsizer.doctor.gitops import APPLICATIONS
from vllm_rightsizer.doctor.monitoring import MONITORING
from vllm_rightsizer.following import looks
from vllm_rightsizer.reading import Source

from .pods import store_recommendation, vllm_pod
from .recommenders import MANIFESTS, path_of, put_policy

Raw = dict[str, Any]

LLAMA, MISTRAL = WorkloadRef("apps", "Deployment", "llama"), WorkloadRef("apps", "Deployment", "mistral")
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NOT_FOR_VIEWERS = {"Pod proxies", "SubjectAccessReview"} | {one.kind for one in (APPLICATIONS, *MONITORING)}
"""What the doctor does in the place of others, or with Secrets: `view` does not have it, and the doctor says so. Of
kinds that others define, they say who may see them."""


@pytest.fixture(scope="module")
def viewed(crds: ControlPlane, controllers: ControlPlane) -> str:
    """A namespace with a recommendation; our role for viewers is a part of `view`, which a controller makes it."""
    controllers.client.apply_files(MANIFESTS / "viewer-rbac.yaml")

    def is_part() -> bool:
        rules = controllers.client.get(f"{RBAC}/clusterroles/view").get("rules") or ()
        return any("vllmrecommendations" in rule.get("resources", ()) for rule in rules)

    controllers.wait_for(is_part, "aggregation into view")
    namespace = crds.namespace("viewed")
    store_recommendation(crds, namespace, LLAMA, vllm_pod())
    put_policy(crds, "default")
    return namespace


def viewer(plane: ControlPlane, user: str, namespace: str, *, everywhere: bool) -> Path:
    """A kubeconfig of a user who has nothing but `view`; its context is `namespace`."""
    kind = "ClusterRoleBinding" if everywhere else "RoleBinding"
    metadata = {"name": user} | ({} if everywhere else {"namespace": namespace})
    group = {"apiGroup": "rbac.authorization.k8s.io"}
    plane.client.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": metadata,
            "roleRef": {**group, "kind": "ClusterRole", "name": "view"},
            "subjects": [{**group, "kind": "User", "name": user}],
        }
    )
    file = plane.kubeconfig_of(user, plane.user(user))
    config = json.loads(file.read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    file.write_text(json.dumps(config))
    lists = f"/apis/{API_VERSION}" + ("" if everywhere else f"/namespaces/{namespace}") + "/vllmrecommendations"
    client = plane.client_of(user)
    # RBAC takes effect a moment later.
    plane.wait_for(lambda: client.http.get(lists).status_code == 200, "rights")
    return file


def run(kubeconfig: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--kubeconfig", str(kubeconfig)], catch_exceptions=False)


def test_of_one_namespace(crds: ControlPlane, viewed: str) -> None:
    config = viewer(crds, "viewer-of-one", viewed, everywhere=False)
    [row] = json.loads(run(config, "list", "-n", viewed, "-o", "json").stdout)["workloads"]
    assert row["name"] == "llama"
    # In the namespace of the context; the policy is the cluster's.
    explained = run(config, "explain", "deploy/llama")
    assert explained.exit_code == 0
    assert f"Deployment llama, container vllm, in {viewed}" in explained.stdout
    assert "the policy is not shown: vllmpolicies.vllm-rightsizer.io cannot be listed" in explained.stderr
    assert "there is no VLLMPolicy" not in explained.stdout


def test_of_everything(crds: ControlPlane, viewed: str) -> None:
    config = viewer(crds, "viewer-of-all", viewed, everywhere=True)
    listed = json.loads(run(config, "list", "-A", "-o", "json").stdout)["workloads"]
    assert (viewed, "llama") in {(one["namespace"], one["name"]) for one in listed}
    explained = run(config, "explain", "llama", "-o", "json")
    assert explained.stderr == ""
    assert json.loads(explained.stdout)["policy"]["percentile"] == 99
    assert run(config, "plan", "-o", "json").exit_code == 0

    async def unseen() -> set[str]:
        server = await ApiServer.connect(config)
        try:
            return set((await gather(server)).unseen)
        finally:
            await server.close()

    left = {what for what in asyncio.run(unseen()) if not what.startswith("Secret ")}
    assert left <= NOT_FOR_VIEWERS


async def test_what_changes_is_followed(crds: ControlPlane, viewed: str) -> None:
    config = viewer(crds, "viewer-who-watches", viewed, everywhere=False)
    # Within it the API server ends and starts again.
    async with contextlib.aclosing(looks(Source(None, config), viewed)) as seen, asyncio.timeout(400):
        async for look in seen:
            assert len(look.raws) <= 1
            if look.raws and look.trouble is None:
                break
        store_recommendation(crds, viewed, MISTRAL, vllm_pod())
        async for look in seen:
            if len(look.raws) == 2 and all("status" in raw for raw in look.raws):
                break
        crds.client.delete(path_of(viewed, MISTRAL))
        async for look in seen:
            if len(look.raws) == 1:
                break
        # While nobody answers what was seen last stays, and it is said that it may be old.
        crds.stop_api_server()
        try:
            async for look in seen:
                assert len(look.raws) == 1
                if look.trouble is not None:
                    break
        finally:
            # Not in a thread: the server would end with it.
            crds.start_api_server()
        async for look in seen:
            if look.trouble is None:
                break
