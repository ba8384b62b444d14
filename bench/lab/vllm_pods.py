"""Real vLLM in pods of the lab: the image is empty, its programs are those of this machine, mounted read-only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.lab.client import Raw
from bench.lab.images import image
from vllm_rightsizer.demo.model import BLOCK_TOKENS, write_model

IMAGE = "vllm/vllm-openai:v0.32.0"
PORT = 8000


def vllm_image(file: Path) -> Path:
    """The image's archive: nothing but the links by which programs find their libraries."""
    links = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
    return image(file, IMAGE, {}, ["vllm", "serve"], links)


def vllm_pod(model: Path, *arguments: str, memory: str = "6Gi") -> Raw:
    """The spec of a pod that serves the tiny model, which is written to `model`, with `arguments` more.

    Of `memory` the CPU backend takes its utilization.
    """
    if not model.exists():
        write_model(model)
    environment = Path(sys.executable).parent.parent
    mounted = {"usr": Path("/usr"), "venv": environment, "python": Path(sys.base_prefix), "model": model}
    # Where the interpreter is the system's own, it is there already.
    mounted = {name: path for name, path in mounted.items() if name == "usr" or not path.is_relative_to("/usr")}
    options = [f"--port={PORT}", "--dtype=float32", "--load-format=dummy", "--enforce-eager"]
    options += ["--served-model-name=tiny", f"--block-size={BLOCK_TOKENS}"]
    container: dict[str, Any] = {
        "name": "vllm",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        # The program `vllm` asks for a distribution of that name; the one for CPUs has another.
        "command": [sys.executable, "-m", "vllm.entrypoints.openai.api_server"],
        "args": [f"--model={model}", *options, *arguments],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"memory": memory, "cpu": "2"}, "requests": {"memory": "1Gi", "cpu": "100m"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 2, "failureThreshold": 300},
        "volumeMounts": [
            *({"name": name, "mountPath": str(path), "readOnly": True} for name, path in mounted.items()),
            {"name": "shared", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes: list[Raw] = [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounted.items()]
    volumes += [{"name": "shared", "emptyDir": {"medium": "Memory"}}, {"name": "tmp", "emptyDir": {}}]
    return {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 5}
