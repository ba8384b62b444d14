"""What the other tests of this folder stand on."""

from __future__ import annotations

import pytest

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane


def _pod(name: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "example.test/main"}]}}


def test_objects_outlive_the_api_server(control_plane: ControlPlane) -> None:
    pods = f"/api/v1/namespaces/{control_plane.namespace('outlive')}/pods"
    made = control_plane.client.create(pods, _pod("kept"))
    control_plane.restart_api_server()
    assert control_plane.client.get(f"{pods}/kept")["metadata"]["uid"] == made["metadata"]["uid"]


def test_users_may_do_what_rbac_allows_them(control_plane: ControlPlane) -> None:
    nobody = control_plane.client_of("nobody")
    with pytest.raises(StatusError) as refused:
        nobody.get("/api/v1/pods")
    assert refused.value.code == 403


def test_a_deployment_makes_pods(controllers: ControlPlane) -> None:
    namespace = controllers.namespace("workloads")
    template = {"metadata": {"labels": {"app": "x"}}, "spec": _pod("x")["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template}
    controllers.client.create(
        f"/apis/apps/v1/namespaces/{namespace}/deployments", {"metadata": {"name": "x"}, "spec": spec}
    )
    controllers.wait_for(
        lambda: len(controllers.client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]) == 2, "pods"
    )
