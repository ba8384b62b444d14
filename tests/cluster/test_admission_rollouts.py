"""Pods of Argo Rollouts, made by its own controller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import folder_with, start
from bench.lab.webhook import Webhook
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_EXCLUDE
from vllm_rightsizer.demo.ports import free_ports

from .pods import AUTOMATED, FLAGS, OPTED_IN, Raw, args_of, injected, owned, recommend, template, tried, vllm_pod

pytestmark = pytest.mark.e2e

ROLLOUT = WorkloadRef("argoproj.io", "Rollout", "llama")


@pytest.fixture(scope="module")
def rollouts(
    request: pytest.FixtureRequest, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """The controller of Argo Rollouts, and a webhook that has seen its kinds."""
    plane = webhook.plane
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        binaries = folder_with("argo-rollouts")
    files = [file for file in (binaries / "crds").glob("*.yaml") if file.name != "kustomization.yaml"]
    plane.define(*(definition for file in files for definition in documents(file)))
    webhook.stop()
    webhook.start()
    plane.start_controller_manager()
    plane.namespace("argo-rollouts")
    healthz, metrics = free_ports(2)
    folder: Path = tmp_path_factory.mktemp("argo-rollouts")
    options = [f"--kubeconfig={plane.kubeconfig}", f"--healthzPort={healthz}", f"--metricsPort={metrics}"]
    program = start(binaries / "argo-rollouts", [*options, "--leader-elect=false"], folder)
    yield plane
    program.stop()
    plane.stop_controller_manager()


def _make(plane: ControlPlane, namespace: str, pod: Raw, **metadata: Raw) -> None:
    """A Rollout without pods yet."""
    labels = {"app": "llama"}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "strategy": {"canary": {}}}
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "llama"} | metadata,
        "spec": spec | {"template": template(pod, **labels)},
    }
    plane.client.create(f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/rollouts", rollout)


def _pod_of(plane: ControlPlane, namespace: str) -> Raw:
    """Let the Rollout make its pod."""
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/rollouts/llama"
    plane.client.patch(path, {"spec": {"replicas": 1}})
    pods = f"/api/v1/namespaces/{namespace}/pods"
    plane.wait_for(lambda: plane.client.get(pods)["items"], "pod of the Rollout")
    made: Raw = plane.client.get(pods)["items"][0]
    return made


def test_what_is_recommended_for_a_rollout(rollouts: ControlPlane) -> None:
    namespace = rollouts.namespace("rollout-sized", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    recommend(rollouts, namespace, ROLLOUT, pod)
    _make(rollouts, namespace, pod)
    made = _pod_of(rollouts, namespace)
    assert made["metadata"]["labels"]["rollouts-pod-template-hash"]
    assert args_of(made) == [*args_of(pod), *FLAGS]


def test_an_excluded_rollout(rollouts: ControlPlane) -> None:
    namespace = rollouts.namespace("rollout-excluded", OPTED_IN)
    pod = vllm_pod()
    probe = owned(pod, ROLLOUT)
    assert injected(tried(rollouts, namespace, probe))
    _make(rollouts, namespace, pod, annotations={ANNOTATION_EXCLUDE: "true"})
    rollouts.wait_for(lambda: not injected(tried(rollouts, namespace, probe)), "exclusion")
    assert not injected(_pod_of(rollouts, namespace))
