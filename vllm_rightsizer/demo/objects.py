"""The Kubernetes objects of the demo: what a user of a cluster would have applied."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from recommender.api.objects import ObjectMeta
from recommender.api.policies import AutomatedNamespace, AutomatedNamespaceSpec, PolicySpec, VLLMPolicy
from vllm_plugin.names import LABEL_INJECT
from vllm_rightsizer.demo.model import BLOCK_TOKENS, MAX_MODEL_LEN

Raw = dict[str, Any]

NAMESPACE = "demo"
DEPLOYMENT = "tiny-llama"
CONTAINER = "vllm"
MODEL_NAME = "tiny-llama"
POLICY = "demo"

_MODELS_MOUNT = "/models"


def policy() -> VLLMPolicy:
    """Production's defaults, but for the time: minutes instead of days, and half of one is enough.

    All requests have to lie in the window until the second pod is admitted, on slow machines too.
    """
    return VLLMPolicy(metadata=ObjectMeta(name=POLICY), spec=PolicySpec(observation_window="10m", window_coverage=5))


def namespace_objects() -> list[Raw]:
    """A namespace that has opted in, and automation for it."""
    automation = AutomatedNamespace(
        metadata=ObjectMeta(name=NAMESPACE),
        spec=AutomatedNamespaceSpec(vllm_optimize=True, default_vllm_policy=POLICY),
    )
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {LABEL_INJECT: "enabled"}},
    }
    return [namespace, policy().to_json(), automation.to_json()]


def deployment(model: Path, version: str, port: int, sizing: list[str]) -> Raw:
    """vLLM as its author would deploy it; `sizing` is what he says about its memory.

    `model`: folder of this machine in which the init container leaves the model.
    """
    image = f"vllm/vllm-openai-cpu:v{version}"
    mounted_model = f"{_MODELS_MOUNT}/{model.name}"
    init_container = {
        "name": "model",
        "image": image,
        "command": ["python", "-m", "vllm_rightsizer.demo.model", mounted_model],
        "volumeMounts": [{"name": "models", "mountPath": _MODELS_MOUNT}],
    }
    container = {
        "name": CONTAINER,
        "image": image,
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [
            f"--model={mounted_model}",
            "--served-model-name=$(MODEL_NAME)",
            "--host=127.0.0.1",
            f"--port={port}",
            "--load-format=dummy",
            "--dtype=float32",
            "--enforce-eager",
            f"--max-model-len={MAX_MODEL_LEN}",
            f"--block-size={BLOCK_TOKENS}",
            *sizing,
        ],
        "env": [
            {"name": "MODEL_NAME", "value": MODEL_NAME},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
        ],
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "volumeMounts": [{"name": "models", "mountPath": _MODELS_MOUNT, "readOnly": True}],
    }
    labels = {"app": DEPLOYMENT}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    # One host is one size of memory: the webhook may then write the utilization too.
                    "nodeSelector": {"kubernetes.io/hostname": socket.gethostname()},
                    "terminationGracePeriodSeconds": 15,
                    "initContainers": [init_container],
                    "containers": [container],
                    "volumes": [
                        {"name": "models", "hostPath": {"path": str(model.parent), "type": "DirectoryOrCreate"}}
                    ],
                },
            },
        },
    }
