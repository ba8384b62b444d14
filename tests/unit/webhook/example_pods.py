"""The pods that come of deploy/examples, as the API server shows them to the webhook, and what is to become of each."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from webhook_cases import FLAGS, KV_BYTES, UTILIZATION, Raw, environment, vector

from bench.pods import pods_of
from recommender.api.claims import claim_template_name
from recommender.api.fingerprints import container_of, fingerprint
from recommender.api.recommendations import (
    Measured,
    Range,
    RecommendationSpec,
    RecommendationStatus,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.rounding import GIBIBYTE
from recommender.api.workloads import recommendation_name, workload_of
from vllm_plugin.names import ENV_ALLOCATION_BYTES, ENV_GPU_MEMORY_UTILIZATION, ENV_KV_BYTES

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
ALLOCATION = 20 * GIBIBYTE
REQUEST_MIB = 21 * 1024
"""What is asked of a scheduler: the allocation, and 1 GiB for what a process holds beside it."""
GPU = 24 * GIBIBYTE


@dataclass(frozen=True)
class Form:
    """What a container has afterwards: options behind those of its author, variables of ours."""

    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    is_vllm: bool = True


ARGUMENTS = Form(flags=tuple(FLAGS))
VARIABLES = Form(variables={ENV_KV_BYTES: str(KV_BYTES), ENV_GPU_MEMORY_UTILIZATION: UTILIZATION})
UNPINNED = Form(variables={ENV_KV_BYTES: str(KV_BYTES), ENV_ALLOCATION_BYTES: str(ALLOCATION)})
UNPINNED_BEFORE_0_10_2 = Form(variables={ENV_ALLOCATION_BYTES: str(ALLOCATION)})
OF_ITS_SHARE = Form(flags=("--gpu-memory-utilization=0.9524", FLAGS[1]))
"""20 GiB of the 21 that the process is shown as its device."""
UNTOUCHED = Form(is_vllm=False)

API_SERVER = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
UNGATED = "NousResearch/Meta-Llama-3-8B-Instruct"
QWEN = "--model=Qwen/Qwen2.5-7B-Instruct"


@dataclass(frozen=True)
class Row:
    """A container of an example, and what its argument vector begins with."""

    file: str
    place: str
    """Kind, and where there are several of it name or role, of what the pod comes from."""
    container: str
    form: Form
    beginning: tuple[str, ...] = ()


def _row(file: str, place: str, container: str, form: Form, *beginning: str) -> Row:
    return Row(file, place, container, form, beginning)


TABLE: tuple[Row, ...] = (
    _row("batch-job", "CronJob", "vllm", ARGUMENTS, QWEN),
    _row("batch-job", "CronJob", "summaries", UNTOUCHED),
    _row("config-file", "Deployment", "vllm", ARGUMENTS, "vllm", "serve", "--config"),
    _row("configmap-arguments", "Deployment", "vllm", ARGUMENTS, *API_SERVER, "--model=$(MODEL_PATH)"),
    _row("download-first", "Deployment", "download", UNTOUCHED, "hf", "download"),
    _row("download-first", "Deployment", "vllm", VARIABLES, "/bin/bash", "-c"),
    _row("kserve", "InferenceService/llama-3-8b", "kserve-container", ARGUMENTS, *API_SERVER, "--port=8080"),
    _row("kserve", "InferenceService/qwen-7b", "kserve-container", ARGUMENTS, "--model_name=qwen-7b"),
    _row("kuberay", "RayService/head", "ray-head", UNTOUCHED, "/bin/bash", "-c", "--"),
    _row("kuberay", "RayService/worker", "ray-worker", VARIABLES, "/bin/bash", "-c", "--"),
    _row("leaderworkerset", "LeaderWorkerSet/leader", "vllm-leader", VARIABLES, "sh", "-c"),
    _row("leaderworkerset", "LeaderWorkerSet/worker", "vllm-worker", VARIABLES, "sh", "-c"),
    _row("llama-3-70b-tp4", "Deployment", "vllm", ARGUMENTS, "vllm", "serve", "meta-llama/Meta-Llama-3-70B-Instruct"),
    _row("llama-3-8b", "Deployment", "vllm", ARGUMENTS, f"--model={LLAMA}"),
    _row("llama-3-8b-any-gpu", "Deployment", "vllm", UNPINNED_BEFORE_0_10_2, "--model"),
    _row("own-image", "StatefulSet", "server", VARIABLES),
    _row("own-share", "Deployment/qwen-7b-claim", "vllm", ARGUMENTS, QWEN),
    _row("own-share", "Deployment/qwen-7b-mig", "vllm", ARGUMENTS, QWEN),
    _row("prefill-decode", "Deployment/llama-3-8b-decode", "routing-proxy", UNTOUCHED, "--port=8000"),
    _row("prefill-decode", "Deployment/llama-3-8b-decode", "vllm", ARGUMENTS, "vllm", "serve", LLAMA),
    _row("prefill-decode", "Deployment/llama-3-8b-prefill", "vllm", ARGUMENTS, "vllm", "serve", LLAMA),
    _row("production-stack-values", "Deployment", "vllm", ARGUMENTS, "vllm", "serve", UNGATED, "--host"),
    _row("share-dra", "Deployment", "vllm", UNPINNED, QWEN),
    _row("share-hami", "Deployment", "vllm", OF_ITS_SHARE, QWEN),
    _row("share-kai", "Deployment", "vllm", ARGUMENTS, QWEN),
    _row("triton", "Deployment", "triton", UNPINNED, "tritonserver"),
    _row("two-engines", "Deployment", "chat", ARGUMENTS, f"--model={LLAMA}"),
    _row("two-engines", "Deployment", "code", ARGUMENTS, "--model=Qwen/Qwen2.5-Coder-7B-Instruct"),
    _row("two-engines", "Deployment", "router", UNTOUCHED),
)
FILES = sorted({row.file for row in TABLE})
PODLESS = ("autoscaling-hpa", "autoscaling-keda", "prices")
"""Examples without a pod."""
FOREIGN_WORDS = ("kserve", "kuberay", "production-stack-values")
"""Files that hold no pod's template as it stands in the pod: others make the command line."""


def row_of(file: str, place: str, container: str) -> Row:
    [found] = [row for row in TABLE if (row.file, row.place, row.container) == (file, place, container)]
    return found


@cache
def _read(path: Path) -> tuple[Raw, ...]:
    return tuple(found for found in YAML(typ="safe", pure=True).load_all(path.read_text()) if found)


def documents(path: Path) -> list[Raw]:
    return copy.deepcopy(list(_read(path)))


def objects_of(file: str) -> list[Raw]:
    """The Kubernetes objects of an example; values of a chart as what the chart renders from them."""
    found = documents(EXAMPLES / f"{file}.yaml")
    return found if "kind" in found[0] else [_of_production_stack(spec) for spec in _model_specs(found[0])]


def _model_specs(values: Raw) -> list[Raw]:
    specs: list[Raw] = values["servingEngineSpec"]["modelSpec"]
    return specs


def _of_production_stack(spec: Raw) -> Raw:
    """What helm/templates/deployment-vllm-multi.yaml of vllm-project/production-stack makes of an entry."""
    config = spec["vllmConfig"]
    caching = "--enable-prefix-caching" if config.get("enablePrefixCaching") else "--no-enable-prefix-caching"
    command = ["vllm", "serve", spec["modelURL"], "--host", "0.0.0.0", "--port", "8000", caching]
    command += ["--max-model-len", str(config["maxModelLen"])]
    command += ["--gpu_memory_utilization", str(config["gpuMemoryUtilization"])]
    labels = {"model": spec["name"], "helm-release-name": "stack"}
    requests = {"memory": spec["requestMemory"], "cpu": str(spec["requestCPU"])}
    gpus = {"nvidia.com/gpu": str(spec["requestGPU"])}
    container = {
        "name": "vllm",
        "image": f"{spec['repository']}:{spec['tag']}",
        "command": command,
        "env": [{"name": "HF_HOME", "value": "/tmp"}, {"name": "PROMETHEUS_MULTIPROC_DIR", "value": "/tmp"}],
        "ports": [{"name": "container-port", "containerPort": 8000}],
        "resources": {"requests": requests | gpus, "limits": gpus},
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": spec["nodeSelectorTerms"]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"stack-{spec['name']}-deployment-vllm",
            "namespace": "chat",
            "annotations": spec["annotations"],
        },
        "spec": {
            "replicas": spec["replicaCount"],
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": dict(labels)},
                "spec": {"containers": [container], "affinity": {"nodeAffinity": required}},
            },
        },
    }


def pods_from(file: str) -> Iterator[tuple[str, Raw]]:
    """The example's pods, owned as their controllers own them, each with its place in `TABLE`."""
    objects = objects_of(file)
    several = sum(obj["kind"] == "Deployment" for obj in objects) > 1
    for obj in objects:
        kind, name = obj["kind"], obj["metadata"]["name"]
        # A runtime makes no pod by itself; its neighbours are handed over for those who refer to it.
        others = [other for other in objects if other["kind"] == "ServingRuntime"]
        for found in pods_of([obj, *(other for other in others if other is not obj)]):
            if found.place.startswith(kind) and kind != "ServingRuntime":
                # KServe's own, beside what it hands on to the pod.
                found.pod["spec"].pop("minReplicas", None)
                place = _owned(found.pod, found.place, kind, name)
                yield f"{place}/{name}" if kind == "Deployment" and several else place, found.pod


def _owned(pod: Raw, template: str, kind: str, name: str) -> str:
    """Give `pod` its owner, and the labels that come with it; returns its place, of one of its kind."""
    metadata = pod["metadata"]
    labels = metadata.setdefault("labels", {})
    place, group = kind, "apps/v1"
    match kind:
        case "Deployment":
            labels["pod-template-hash"] = "5d4f8c7b9"
            owner = ("ReplicaSet", f"{name}-5d4f8c7b9")
        case "StatefulSet":
            owner = (kind, name)
        case "CronJob":
            group, owner = "batch/v1", ("Job", f"{name}-29384760")
        case "InferenceService":
            labels |= {"serving.kserve.io/inferenceservice": name, "pod-template-hash": "5d4f8c7b9"}
            place, owner = f"{kind}/{name}", ("ReplicaSet", f"{name}-predictor-5d4f8c7b9")
        case "LeaderWorkerSet":
            role = labels["role"]
            labels["leaderworkerset.sigs.k8s.io/name"] = name
            metadata.setdefault("annotations", {})["leaderworkerset.sigs.k8s.io/size"] = "2"
            place, owner = f"{kind}/{role}", ("StatefulSet", name if role == "leader" else f"{name}-0")
        case _:
            role = "head" if "headGroupSpec" in template else "worker"
            place, group, owner = f"{kind}/{role}", "ray.io/v1", ("RayCluster", f"{name}-x7k2p")
    metadata["ownerReferences"] = [
        {"apiVersion": group, "kind": owner[0], "name": owner[1], "uid": "u", "controller": True}
    ]
    return place


def containers_in(pod: Raw) -> dict[str, Raw]:
    """Those of the pod by name, sidecars and downloads too."""
    spec = pod["spec"]
    return {item["name"]: item for item in [*(spec.get("initContainers") or ()), *spec["containers"]]}


def recommendation(pod: Raw, container: str, namespace: str = "chat") -> Raw:
    """What a recommender would have written for this container, after it ran on GPUs of one size."""
    workload = workload_of(pod)
    counts = {
        name: 0 for name, field in Measured.model_fields.items() if field.is_required() and field.annotation is int
    }
    name = recommendation_name(workload, container)
    found = container_of(pod, container)
    assert found is not None
    release = "0.8.5" if found["image"].endswith("v0.8.5") else "0.11.0"
    status = RecommendationStatus(
        fingerprint=fingerprint(pod, container),
        gpu_memory_total_bytes=Range(min=GPU, max=GPU),
        measured=Measured(vllm_version=release, model="m", **counts),
        claim_template=claim_template_name(name, REQUEST_MIB << 20, 1),
        target=Target(
            kv_bytes=KV_BYTES,
            kv_blocks=1,
            allocation_bytes=ALLOCATION,
            gpu_memory_utilization=UTILIZATION,
            flags=FLAGS,
            bound_by="hitRate",
        ),
    )
    ref = TargetRef(group=workload.group, kind=workload.kind, name=workload.name, container=container)
    made = VLLMRecommendation(
        metadata={"name": name, "namespace": namespace}, spec=RecommendationSpec(target_ref=ref), status=status
    )
    raw: Raw = made.to_json()
    return raw


def check(before: Raw, after: Raw, row: Row) -> None:
    """The container `before` admission and `after` it: as `row` says, and nothing of its author's is lost."""
    assert vector(after) == [*vector(before), *row.form.flags]
    assert tuple(vector(after)[: len(row.beginning)]) == row.beginning
    ours = (ENV_KV_BYTES, ENV_GPU_MEMORY_UTILIZATION, ENV_ALLOCATION_BYTES)
    assert {name: value for name, value in environment(after).items() if name in ours} == row.form.variables
    if row.form.is_vllm:
        assert "PYTHONPATH" in environment(after)
    else:
        assert after == before


def shares_in(pod: Raw) -> Any:
    """What the pod's one engine asks of a GPU scheduler, in whatever words."""
    resources = containers_in(pod)["vllm"]["resources"]
    annotation = (pod["metadata"].get("annotations") or {}).get("gpu-memory")
    return resources.get("limits") or {}, annotation, pod["spec"].get("resourceClaims")
