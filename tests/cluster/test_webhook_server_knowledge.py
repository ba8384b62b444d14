"""What the webhook knows of a real cluster: every kind that admission depends on, from its watches alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_AUTO, ANNOTATION_EXCLUDE, API_VERSION
from webhook.cluster_watch import ClusterWatch
from webhook.knowledge import Knowledge

from .pods import recommendation, vllm_pod
from .waiting import until

LLAMA = WorkloadRef("apps", "Deployment", "llama")
ROLLOUTS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rollouts.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"plural": "rollouts", "kind": "Rollout", "singular": "rollout", "listKind": "RolloutList"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@asynccontextmanager
async def watching(plane: ControlPlane) -> AsyncIterator[Callable[[], Knowledge]]:
    server = await ApiServer.connect(plane.kubeconfig)
    watch = ClusterWatch(server, Pace(first_delay=0.05, look_again=0.2))
    assert watch.knowledge is None
    assert "not read yet" in str(watch.trouble)

    def known() -> Knowledge:
        assert watch.knowledge is not None
        return watch.knowledge

    try:
        async with watch.running():
            # A server that has just learnt of a kind throttles its first watches.
            await until(lambda: watch.knowledge is not None and watch.trouble is None)
            assert {"VLLMRecommendation", "Deployment", "Rollout"} < watch.ages().keys()
            yield known
    finally:
        await server.close()


def workload(plane: ControlPlane, kind: str, namespace: str, name: str, annotations: dict[str, str]) -> None:
    """One that makes no pods."""
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    once = {"template": {"spec": template["spec"] | {"restartPolicy": "Never"}}, "suspend": True}
    specs: dict[str, tuple[str, dict[str, Any]]] = {
        "Deployment": ("apps/v1", {"replicas": 0}),
        "StatefulSet": ("apps/v1", {"replicas": 0}),
        "DaemonSet": ("apps/v1", {}),
        "ReplicaSet": ("apps/v1", {"replicas": 0}),
        "Job": ("batch/v1", once),
        "CronJob": ("batch/v1", {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": once}}),
        "Rollout": ("argoproj.io/v1alpha1", {}),
    }
    version, spec = specs[kind]
    if version == "apps/v1":
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    plane.client.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


async def test_an_exclusion_holds_before_there_is_a_recommendation(crds: ControlPlane) -> None:
    namespace = crds.namespace("exclusions")
    groups = dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "apps")
    groups |= dict.fromkeys(("Job", "CronJob"), "batch")
    workload(crds, "Deployment", namespace, "before", {ANNOTATION_EXCLUDE: "true"})
    async with watching(crds) as known:
        before = WorkloadRef("apps", "Deployment", "before")
        assert known().automation(namespace, before, {}).excluded
        for kind, group in groups.items():
            ref = WorkloadRef(group, kind, "after")
            assert not known().automation(namespace, ref, {}).excluded
            workload(crds, kind, namespace, "after", {ANNOTATION_EXCLUDE: "true"})
            await until(lambda ref=ref: known().automation(namespace, ref, {}).excluded)
            workload(crds, kind, namespace, "after", {ANNOTATION_EXCLUDE: "false"})
            await until(lambda ref=ref: not known().automation(namespace, ref, {}).excluded)
        crds.client.delete(f"/apis/apps/v1/namespaces/{namespace}/deployments/before")
        await until(lambda: not known().automation(namespace, before, {}).excluded)


async def test_a_kind_that_is_installed_later(crds: ControlPlane) -> None:
    """There are no Rollouts, and nothing waits for them; from the moment that there are some, they count."""
    namespace = crds.namespace("rollouts")
    rollout = WorkloadRef("argoproj.io", "Rollout", "llama")
    async with watching(crds) as known:
        crds.client.apply(ROLLOUTS)

        def made() -> bool:
            try:
                workload(crds, "Rollout", namespace, "llama", {ANNOTATION_AUTO: "true"})
            except (StatusError, LookupError, ValueError):
                # 404 as text, while nothing is known of the group.
                return False
            return True

        await until(made)
        await until(lambda: known().automation(namespace, rollout, {}).enabled)
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rollouts.argoproj.io"
    crds.client.delete(definition)
    # Whoever defines it next must not meet one that is on its way out.
    crds.wait_for(lambda: not crds.exists(definition), "end of the kind")


async def test_who_says_what_comes_first(crds: ControlPlane) -> None:
    namespace = crds.namespace("precedence")

    def ours(kind: str, name: str, spec: dict[str, Any]) -> None:
        crds.client.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})

    async with watching(crds) as known:

        def said() -> tuple[bool, str]:
            automation = known().automation(namespace, LLAMA, {})
            return automation.enabled, automation.enabled_source

        assert said() == (False, "default")
        try:
            ours("ClusterAutomation", "default", {"vllmOptimize": True, "defaultVllmPolicy": "careful"})
            await until(lambda: said() == (True, "ClusterAutomation"))
            ours("AutomatedNamespace", namespace, {"vllmOptimize": False})
            await until(lambda: said() == (False, "AutomatedNamespace"))
            workload(crds, "Deployment", namespace, "llama", {ANNOTATION_AUTO: "true"})
            await until(lambda: said() == (True, "workload"))
            assert known().automation(namespace, LLAMA, {ANNOTATION_AUTO: "false"}).enabled_source == "pod"
            ours("VLLMPolicy", "careful", {"mode": "DryRun"})
            await until(lambda: known().only_shown(known().automation(namespace, LLAMA, {})))
            ours("VLLMPolicy", "careful", {"mode": "Apply"})
            await until(lambda: not known().only_shown(known().automation(namespace, LLAMA, {})))
        finally:
            for path in ("clusterautomations/default", f"automatednamespaces/{namespace}", "vllmpolicies/careful"):
                crds.client.http.delete(f"/apis/{API_VERSION}/{path}")
        await until(lambda: known().cluster is None and namespace not in known().namespaces)


@pytest.mark.parametrize("gone_first", ["a", "b"])
async def test_two_recommendations_for_one_target(crds: ControlPlane, gone_first: str) -> None:
    """The recommender makes one; a person may make another. While one is left, one holds."""
    namespace = crds.namespace(f"rivals-{gone_first}")
    made = recommendation(namespace, LLAMA, vllm_pod())
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/vllmrecommendations"
    container = made.spec.target_ref.container
    async with watching(crds) as known:

        def name() -> str | None:
            found = known().recommended(namespace, LLAMA, container)
            return None if found is None else found.name

        assert name() is None
        for each in ("a", "b"):
            raw = made.to_json()
            crds.client.create(path, raw | {"metadata": {"name": each, "namespace": namespace}})
            await until(lambda each=each: name() == each)
        crds.client.delete(f"{path}/{gone_first}")
        await until(lambda: name() == ("b" if gone_first == "a" else "a"))
        crds.client.delete(f"{path}/{'b' if gone_first == 'a' else 'a'}")
        await until(lambda: name() is None)
