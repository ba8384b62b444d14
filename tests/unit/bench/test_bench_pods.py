"""The pods that come of objects, as their controllers would make them."""

from __future__ import annotations

from typing import Any

import pytest

from bench.pods import merge, pods_of

Raw = dict[str, Any]
MAIN: Raw = {"name": "main", "image": "vllm/vllm-openai:v0.11.0", "command": ["vllm", "serve", "m"]}
SPEC: Raw = {"containers": [MAIN]}
TEMPLATE: Raw = {"metadata": {"labels": {"a": "b"}}, "spec": SPEC}
RUNTIME: Raw = {
    "kind": "ServingRuntime",
    "metadata": {"name": "mine"},
    "spec": {"containers": [{**MAIN, "args": ["-x"]}]},
}


def _vectors(*documents: Raw) -> list[list[str]]:
    containers = [found.pod["spec"]["containers"][0] for found in pods_of(documents)]
    return [[*(container.get("command") or ()), *(container.get("args") or ())] for container in containers]


@pytest.mark.parametrize(
    "obj",
    [
        {"kind": "Pod", "metadata": {"labels": {}}, "spec": SPEC},
        {"kind": "Deployment", "spec": {"template": TEMPLATE}},
        {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
        {"kind": "List", "items": [{"kind": "Deployment", "spec": {"template": TEMPLATE}}]},
        {"kind": "LeaderWorkerSet", "spec": {"leaderWorkerTemplate": {"workerTemplate": TEMPLATE}}},
        {"kind": "StormService", "spec": {"template": {"spec": {"roles": [{"template": TEMPLATE}]}}}},
        {"kind": "ServingRuntime", "spec": SPEC},
        {"kind": "LLMInferenceService", "spec": {"template": SPEC}},
        {"kind": "DynamoGraphDeployment", "spec": {"components": [{"podTemplate": TEMPLATE}]}},
        {"kind": "DynamoGraphDeployment", "spec": {"services": {"W": {"extraPodSpec": {"mainContainer": MAIN}}}}},
        {"kind": "InferenceService", "spec": {"engine": {"runner": MAIN}}},
    ],
    ids=lambda obj: obj["kind"],
)
def test_one_template(obj: Raw) -> None:
    assert _vectors(obj) == [["vllm", "serve", "m"]]


def test_a_service_of_dynamo_has_its_resources_beside_it() -> None:
    service = {"resources": {"limits": {"gpu": "1"}}, "extraPodSpec": {"mainContainer": MAIN}}
    (found,) = pods_of([{"kind": "DynamoGraphDeployment", "spec": {"services": {"W": service}}}])
    assert found.pod["spec"]["containers"][0]["resources"] == {"limits": {"gpu": "1"}}


def test_a_role_refers_to_a_shared_template() -> None:
    patch = {"spec": {"containers": [{"name": "main", "args": ["--port=1"]}]}}
    obj = {
        "kind": "RoleBasedGroup",
        "spec": {
            "roleTemplates": [{"name": "base", "template": TEMPLATE}],
            "roles": [{"standalonePattern": {"templateRef": {"name": "base", "patch": patch}}}],
        },
    }
    assert _vectors(obj) == [["vllm", "serve", "m", "--port=1"]]


def test_patches_change_the_template_beside_them() -> None:
    role = {
        "template": TEMPLATE,
        "leaderWorkerSet": {"patchLeaderTemplate": {"spec": {"containers": [{"name": "main", "args": ["--port=1"]}]}}},
    }
    vectors = _vectors({"kind": "RoleBasedGroup", "spec": {"roles": [role]}})
    assert sorted(vectors) == [["vllm", "serve", "m"], ["vllm", "serve", "m", "--port=1"]]


def test_kuberay_starts_ray_behind_the_templates_command() -> None:
    groups = {
        "headGroupSpec": {"template": TEMPLATE},
        "workerGroupSpecs": [{"template": {"spec": {"containers": [{}]}}}],
    }
    head, worker = _vectors({"kind": "RayCluster", "spec": groups})
    assert head[:3] == worker[:3] == ["/bin/bash", "-c", "--"]
    assert head[3].startswith("vllm serve m && ulimit -n 65536; ray start --head")
    assert worker[3].startswith("ulimit -n 65536; ray start --address")
    kept = {
        "metadata": {"annotations": {"ray.io/overwrite-container-cmd": "true"}},
        "kind": "RayCluster",
        "spec": groups,
    }
    assert _vectors(kept) == [["vllm", "serve", "m"], []]


@pytest.mark.parametrize(
    ("model", "vector"),
    [
        ({"runtime": "mine", "args": ["-y"]}, ["vllm", "serve", "m", "-x", "-y"]),
        ({"modelFormat": {"name": "huggingface"}, "args": ["-y"]}, ["-y"]),
        ({"modelFormat": {"name": "vLLM"}}, ["python3", "-m", "vllm.entrypoints.openai.api_server"]),
        ({"modelFormat": {"name": "sklearn"}}, []),
    ],
)
def test_a_model_of_kserve(model: Raw, vector: list[str]) -> None:
    service = {"kind": "InferenceService", "spec": {"predictor": {"model": model}}}
    assert vector in _vectors(service, RUNTIME)


@pytest.mark.parametrize(
    ("obj", "first"),
    [
        ({"kind": "LLMInferenceService", "spec": {"model": {"uri": "hf://m"}}}, "/bin/bash"),
        ({"kind": "Model", "spec": {"engine": "VLLM", "url": "hf://m", "args": ["-y"]}}, "python3"),
        ({"kind": "Model", "spec": {"engine": "OLlama", "url": "ollama://m"}}, "--model=m"),
        ({"kind": "Workspace", "inference": {"preset": {"name": "phi"}}}, "/bin/sh"),
    ],
)
def test_controllers(obj: Raw, first: str) -> None:
    ((begin, *_),) = _vectors(obj)
    assert begin == first


def test_a_nim_service() -> None:
    image = {"repository": "registry.example/nim/meta/llama", "tag": "1"}
    (found,) = pods_of([{"kind": "NIMService", "spec": {"image": image}}])
    assert found.pod["spec"]["containers"][0]["image"] == "registry.example/nim/meta/llama:1"


@pytest.mark.parametrize("document", [None, 1, [], "text", {"kind": "ConfigMap", "data": {"containers": "x"}}])
def test_no_pod(document: Any) -> None:
    assert pods_of([document]) == []


def test_merge() -> None:
    base = {"a": [{"name": "x", "v": 1}, {"name": "y"}], "b": [1], "c": {"d": 1}}
    assert merge(base, {"a": [{"name": "x", "w": 2}], "b": [2], "c": {"e": 2}}) == {
        "a": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}],
        "b": [2],
        "c": {"d": 1, "e": 2},
    }
