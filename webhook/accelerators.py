"""What a container computes on, and whether vLLM's two sizes mean there what they mean on a GPU."""

from __future__ import annotations

from itertools import pairwise

from recommender.api.sizing_flags import parse_version
from webhook.images import repository_of, words_of
from webhook.patches import Raw

_RESOURCES = (
    *("/gpu", "/tpu", "/gpumem", "/gpu-mem", "/vgpu", "/i915", "/xe", "/mig-", "/gaudi", "/neuron"),
    *("/ascend", "/npu", "/mlu", "/dcu", "/va"),
)
_VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_CPU_KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_CPU_BUILDS = ("opea/vllm",)
"""Images for the CPU that do not say so; their builds for accelerators have names of their own."""
_OFFICIAL_CPU_IMAGES = ("vllm-openai-cpu", "vllm-cpu-release-repo")
_FIRST_CPU_VERSION = (0, 20)
"""From here on vLLM's CPU backend takes both options, as a share of the host's memory and as the cache's bytes."""


def asks_for_accelerator(container: Raw) -> bool:
    """By a resource, by a resource claim, or past the scheduler by the variables that choose devices."""
    resources = container.get("resources") or {}
    # Dynamo writes a bare `gpu`, everybody else `vendor/device`.
    names = {*(resources.get("requests") or {}), *(resources.get("limits") or {})}
    if resources.get("claims") or any(mark in f"/{name.lower()}" for name in names for mark in _RESOURCES):
        return True
    chosen = [entry.get("value") for entry in container.get("env") or () if entry.get("name") in _VISIBLE_DEVICES]
    return any(str(value).lower() not in ("", "-1", "none", "void") for value in chosen if value is not None)


def other_meaning(container: Raw) -> str | None:
    """Why the sizes would not mean in `container` what they mean on a GPU; None where they do.

    vLLM on a CPU: its cache was set by a variable alone up to 0.19. Where the release is not told by the name of one
    of vLLM's own images, the pod is measured and its arguments stay.
    """
    if not _runs_on_cpu(container):
        return None
    if any(entry.get("name") == _CPU_KV_SPACE and entry.get("value") != "" for entry in container.get("env") or ()):
        return f"its KV cache is host memory, which {_CPU_KV_SPACE} sets and no option overrides"
    path, tag = repository_of(str(container.get("image") or ""))
    version = parse_version(tag) if path.endswith(_OFFICIAL_CPU_IMAGES) else None
    if version is None or version < _FIRST_CPU_VERSION:
        return "its KV cache is host memory; it is sized with vLLM's own CPU images of a stated release from 0.20 on"
    return None


def _runs_on_cpu(container: Raw) -> bool:
    if asks_for_accelerator(container):
        return False
    image = str(container.get("image") or "")
    if "cpu" in words_of(image) or repository_of(image)[0].endswith(_CPU_BUILDS):
        return True
    variables = {entry.get("name"): entry.get("value") for entry in container.get("env") or ()}
    if variables.get("VLLM_TARGET_DEVICE") == "cpu" or any(str(name).startswith("VLLM_CPU_") for name in variables):
        return True
    tokens = [str(token) for token in [*(container.get("command") or ()), *(container.get("args") or ())]]
    return "--device=cpu" in tokens or any(pair == ("--device", "cpu") for pair in pairwise(tokens))
