"""vLLM pods of 8 to 30 kB, as they reach admission, and recommendations for as many workloads as are asked for."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.lab.client import ApiClient
from bench.lab.control_plane import ControlPlane
from recommender.api.fingerprints import fingerprint
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.workloads import WorkloadRef, recommendation_name
from vllm_plugin.names import ANNOTATION_AUTO, API_VERSION

Raw = dict[str, Any]

CONTAINER = "vllm"
KV_BYTES = 4 << 30
_WRITERS = 8
_SETTINGS = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "VLLM_LOGGING_LEVEL",
    "LMCACHE_CONFIG_FILE",
    "OTEL_SERVICE_NAME",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def vllm_pod(sidecars: int, settings: int) -> Raw:
    """A pod of a Deployment: vLLM with probes, volumes and `settings` variables, beside `sidecars` of a mesh."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": {"app.kubernetes.io/name": "llama", "pod-template-hash": "6d4f9b7c5"},
            "annotations": {ANNOTATION_AUTO: "true", "prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        },
        "spec": {
            "nodeName": "no-such-node",
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [_engine(settings), *(_sidecar(number) for number in range(sidecars))],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
                {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            ],
        },
    }


POD_KINDS = ((0, 8), (1, 16), (2, 32), (3, 48), (4, 64))
"""Sidecars and variables: from about 8 to about 30 kB as the API server sends them."""


def _engine(settings: int) -> Raw:
    names = [f"{_SETTINGS[number % len(_SETTINGS)]}_{number // len(_SETTINGS)}" for number in range(settings)]
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 10, "failureThreshold": 60}
    return {
        "name": CONTAINER,
        "image": "vllm/vllm-openai:v0.11.0",
        "command": ["vllm", "serve"],
        "args": [
            "meta-llama/Llama-3.1-8B-Instruct",
            "--served-model-name=llama",
            "--tensor-parallel-size=1",
            "--max-model-len=32768",
            "--gpu-memory-utilization=0.92",
            "--enable-prefix-caching",
            "--max-num-seqs=256",
        ],
        "env": [
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token"}}},
            *({"name": name, "value": f"/var/lib/{name.lower()}"} for name in names),
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {
            "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"},
            "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
        },
        "startupProbe": probe,
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "models", "mountPath": "/models"}],
    }


def _sidecar(number: int) -> Raw:
    variables = [{"name": f"PROXY_SETTING_{at}", "value": f"outbound|443||service-{at}.mesh"} for at in range(12)]
    return {
        "name": f"proxy-{number}",
        "image": "example.test/mesh/proxy:1.27",
        "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--log_output_level=info"],
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}, *variables],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 1337},
    }


def owned_by(pod: Raw, deployment: str) -> Raw:
    """`pod` as the ReplicaSet of `deployment` makes it."""
    digits = pod["metadata"]["labels"]["pod-template-hash"]
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{deployment}-{digits}", "controller": True}
    made = copy.deepcopy(pod)
    made["metadata"] |= {
        "generateName": f"{deployment}-{digits}-",
        "ownerReferences": [owner | {"uid": "5f1c2f0e-2f3f-4f5a-9a54-0d8f3a5e7b11", "blockOwnerDeletion": True}],
    }
    return made


def deployment_name(number: int) -> str:
    return f"llama-{number:05d}"


def recommend(plane: ControlPlane, namespace: str, names: Sequence[str], pods: Sequence[Raw]) -> None:
    """Store a recommendation for each Deployment of `names`; the pods that it is for are taken from `pods` in turn."""
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/{VLLMRecommendation.PLURAL}"
    prints = [fingerprint(pod, CONTAINER) for pod in pods]

    def write(part: Sequence[tuple[int, str]]) -> None:
        client: ApiClient = plane.admin_client()
        for number, name in part:
            made = _recommendation(namespace, name, prints[number % len(prints)])
            stored = client.create(path, made)
            client.update(f"{path}/{made['metadata']['name']}/status", stored | {"status": made["status"]})

    numbered = list(enumerate(names))
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(write, [numbered[at::_WRITERS] for at in range(_WRITERS)]))


def _recommendation(namespace: str, name: str, made_for: str) -> Raw:
    workload = WorkloadRef("apps", "Deployment", name)
    time = "2026-11-01T12:00:00Z"
    reasons = ("PluginReporting", "CoverageSufficient", "Recommended", "Applied", "Verified")
    return {
        "apiVersion": API_VERSION,
        "kind": VLLMRecommendation.KIND,
        "metadata": {"name": recommendation_name(workload, CONTAINER), "namespace": namespace},
        "spec": {"targetRef": {"group": "apps", "kind": "Deployment", "name": name, "container": CONTAINER}},
        "status": {
            "fingerprint": made_for,
            "gpuMemoryTotalBytes": {"min": 80 << 30, "max": 80 << 30},
            "automation": {"value": "true", "source": "pod"},
            "policy": {"value": "default", "source": "default"},
            "measured": {
                "vllmVersion": "0.11.0",
                "model": "meta-llama/Llama-3.1-8B-Instruct",
                "weightsBytes": 15 << 30,
                "overheadBytes": 2 << 30,
                "kvCapacityBytes": 16 << 30,
                "kvBlockBytes": 2 << 20,
                "kvBlockTokens": 16,
                "kvActivePeakBytes": 1 << 30,
                "kvDemandPeakBytes": 2 << 30,
                "kvFloorBytes": 1 << 30,
                "allocatedBytes": 33 << 30,
                "hitRate": 0.625,
                "requests": 100_000,
                "lookupTokens": 10_000_000_000,
                "preemptions": 0,
                "admissionsBlocked": 0,
            },
            "bounds": [
                {"name": name, "kvBytes": KV_BYTES, "message": f"what the {name} of this workload asks for"}
                for name in ("hitRate", "demand", "floor")
            ],
            "target": {
                "kvBytes": KV_BYTES,
                "kvBlocks": 2048,
                "allocationBytes": 21 << 30,
                "gpuMemoryUtilization": "0.2625",
                "flags": ["--gpu-memory-utilization=0.2625", f"--kv-cache-memory-bytes={KV_BYTES}"],
                "predictedHitRate": 0.62,
                "boundBy": "hitRate",
            },
            "savings": {"bytes": 12 << 30, "shareOfPool": 0.75},
            "coverage": {"windowSeconds": 172800, "coveredSeconds": 172000, "percent": 99.5, "samples": 2880},
            "conditions": [
                {
                    "type": type_,
                    "status": "True",
                    "reason": type_,
                    "message": "as it should",
                    "lastTransitionTime": time,
                }
                for type_ in reasons
            ],
        },
    }


def reviews(plane: ControlPlane, namespace: str, names: Sequence[str], pods: Sequence[Raw]) -> Iterator[bytes]:
    """AdmissionReviews of pods of these Deployments, each pod as the API server itself completes it."""
    complete = [
        plane.client.create(f"/api/v1/namespaces/{namespace}/pods", owned_by(pod, "x"), dryRun="All") for pod in pods
    ]
    for number, name in enumerate(names):
        pod = copy.deepcopy(complete[number % len(complete)])
        pod.pop("status")
        pod["metadata"] |= owned_by(pods[number % len(pods)], name)["metadata"]
        yield json.dumps(
            {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "request": {
                    "uid": f"705ab4f5-6393-11e8-b7cc-{number:012d}",
                    "kind": {"group": "", "version": "v1", "kind": "Pod"},
                    "resource": {"group": "", "version": "v1", "resource": "pods"},
                    "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
                    "requestResource": {"group": "", "version": "v1", "resource": "pods"},
                    "namespace": namespace,
                    "operation": "CREATE",
                    "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
                    "object": pod,
                    "oldObject": None,
                    "dryRun": False,
                    "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
                },
            }
        ).encode()
