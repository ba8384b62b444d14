"""Which containers of a pod are engines, and what is said about those that are none."""

from __future__ import annotations

from typing import Any

import pytest
from webhook_cases import FLAGS, IMAGE, KV_BYTES, environment, knowing, patched, pod, review, vector

from webhook.accelerators import asks_for_accelerator, other_meaning
from webhook.admission import admit
from webhook.detection import detect
from webhook.settings import InjectionSettings

Raw = dict[str, Any]
SETTINGS = InjectionSettings()
SERVE: Raw = {"image": IMAGE, "command": ["vllm", "serve", "m"]}
PROXY: Raw = {"image": "g/routing-sidecar:1", "args": ["--vllm-port=8200"]}
GPU: Raw = {"limits": {"nvidia.com/gpu": "1"}}


def _pod(init: list[Raw], main: list[Raw]) -> Raw:
    return {"spec": {"initContainers": init, "containers": main}}


@pytest.mark.parametrize(
    ("init", "main", "engines"),
    [
        ([{**PROXY, "name": "p", "restartPolicy": "Always"}], [{**SERVE, "name": "v"}], ["v"]),
        ([{**SERVE, "name": "v", "restartPolicy": "Always"}], [{**PROXY, "name": "p"}], ["v"]),
        (
            [{**SERVE, "name": "a", "restartPolicy": "Always"}, {**SERVE, "name": "b", "restartPolicy": "Always"}],
            [{**PROXY, "name": "p"}],
            ["a", "b"],
        ),
        ([{**SERVE, "name": "warm-up"}], [{**SERVE, "name": "v"}], ["v"]),
        (
            [],
            [{**SERVE, "name": "prefill"}, {**PROXY, "name": "p"}, {**SERVE, "name": "decode"}],
            ["prefill", "decode"],
        ),
        ([], [{**PROXY, "name": "vllm"}, {"name": "web", "image": "nginx"}], []),
        ([], [{"name": "vllm", "image": "corp/llm:1", "resources": GPU}], ["vllm"]),
        ([], [{"name": "vllm-router", "image": "corp/llm:1", "resources": GPU}], []),
        ([], [{"name": "vllm", "image": "corp/llm:1"}], []),
    ],
)
def test_engines(init: list[Raw], main: list[Raw], engines: list[str]) -> None:
    assert [engine.name for engine in detect(_pod(init, main)).engines] == engines


@pytest.mark.parametrize(
    ("container", "asks"),
    [
        ({"resources": {"limits": {"amd.com/gpu": 1}}}, True),
        ({"resources": {"requests": {"habana.ai/gaudi": 1}}}, True),
        ({"resources": {"limits": {"aws.amazon.com/neuron": 1}}}, True),
        ({"resources": {"limits": {"google.com/tpu": 4}}}, True),
        ({"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}, True),
        ({"resources": {"limits": {"volcano.sh/vgpu-memory": 1}}}, True),
        ({"resources": {"limits": {"gpu": "1"}}}, True),
        ({"resources": {"claims": [{"name": "gpu"}]}}, True),
        ({"env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}, True),
        ({"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}, False),
        ({"env": [{"name": "CUDA_VISIBLE_DEVICES", "valueFrom": {}}]}, False),
        ({"resources": {"limits": {"cpu": 1, "memory": "1Gi", "ephemeral-storage": "1Gi"}}}, False),
        ({}, False),
    ],
)
def test_accelerators(container: Raw, asks: bool) -> None:
    assert asks_for_accelerator(container) is asks


@pytest.mark.parametrize(
    ("container", "why"),
    [
        ({"image": "vllm/vllm-openai-cpu:v0.32.0"}, None),
        ({"image": "registry.example/q9t5s3a7/vllm-cpu-release-repo:v0.20.1"}, None),
        ({"image": "vllm/vllm-openai-cpu:v0.19.1"}, "from 0.20 on"),
        ({"image": "vllm/vllm-openai-cpu:latest"}, "from 0.20 on"),
        ({"image": "corp/vllm-cpu:v0.32.0"}, "from 0.20 on"),
        ({"image": "corp/vllm:1-cpu"}, "from 0.20 on"),
        ({"image": "opea/vllm:1", "env": [{"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "all"}]}, "from 0.20 on"),
        ({"image": "corp/vllm:1", "args": ["--device=cpu"]}, "from 0.20 on"),
        ({"image": "corp/vllm:1", "args": ["--device", "cpu"]}, "from 0.20 on"),
        (
            {"image": "vllm/vllm-openai-cpu:v0.32.0", "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "4"}]},
            "VLLM_CPU_KVCACHE_SPACE sets",
        ),
        ({"image": "corp/vllm-cpu-offload:1", "resources": GPU}, None),
        ({"image": IMAGE}, None),
        ({"image": "rocm/vllm:1", "resources": {"limits": {"amd.com/gpu": "1"}}}, None),
    ],
)
def test_what_the_sizes_mean(container: Raw, why: str | None) -> None:
    meaning = other_meaning(container)
    assert meaning is None if why is None else why in (meaning or "")


def test_a_cpu_pod_is_measured_and_keeps_its_arguments() -> None:
    before = pod({"name": "main", "image": "vllm/vllm-openai-cpu:latest", "args": ["--model=m"]})
    answer = admit(review(before), knowing(before), SETTINGS)
    container = patched(before, answer)["spec"]["containers"][0]
    assert vector(container) == ["--model=m"]
    assert "PYTHONPATH" in environment(container)
    assert "VLLM_RIGHTSIZER_KV_BYTES" not in environment(container)
    assert "runs on the CPU" in answer["response"]["auditAnnotations"]["reason"]


def test_behind_the_front_end_in_rust() -> None:
    """Twice as once, new sizes in the place of old ones, and back to what the author wrote."""
    args = ["--port=1", "--", "--enforce-eager"]
    before = pod({"name": "main", "image": IMAGE, "command": ["vllm-rs", "serve", "m"], "args": args})
    once = patched(before, admit(review(before), knowing(before), SETTINGS))
    assert vector(once["spec"]["containers"][0]) == ["vllm-rs", "serve", "m", *args, *FLAGS]
    assert "patch" not in admit(review(once), knowing(before), SETTINGS)["response"]
    other = patched(once, admit(review(once), knowing(before, kv_bytes=1), SETTINGS))
    assert vector(other["spec"]["containers"][0])[-1] == FLAGS[1].replace(str(KV_BYTES), "1")
    back = patched(once, admit(review(once), knowing(before, paused=True), SETTINGS))
    assert vector(back["spec"]["containers"][0]) == vector(before["spec"]["containers"][0])
