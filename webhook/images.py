"""What an image's name says about what it runs. A hint, never a proof: the command decides where there is one."""

from __future__ import annotations

import re

_NO_ENGINE = frozenset(
    (
        "benchmark",
        "client",
        "controller",
        "epp",
        "exporter",
        "gateway",
        "loadgen",
        "manager",
        "mock",
        "operator",
        "proxy",
        "requester",
        "router",
        "sidecar",
        "sim",
        "simulator",
        "tokenizer",
        "webui",
    )
)
_WORD = re.compile(r"[a-z0-9]+")


def repository_of(image: str) -> tuple[str, str]:
    """Path and tag of an image: `host:5000/a/b:t@sha256:…` → `host:5000/a/b`, `t`."""
    path = image.partition("@")[0]
    head, slash, last = path.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag


def runs_vllm(image: str) -> bool:
    """The image's entrypoint is vLLM's server, going by its name: arguments given alone are vLLM's."""
    path, _ = repository_of(image.lower())
    name = path.rpartition("/")[2]
    if _NO_ENGINE.intersection(_WORD.findall(name)):
        return False
    return "vllm" in name or name == "huggingfaceserver"


def serves_with_vllm(image: str) -> bool:
    """vLLM runs in what the image starts, however that is done: vLLM's server images, NIM, Triton and Ray with vLLM."""
    path, tag = repository_of(image.lower())
    name = path.rpartition("/")[2]
    if _NO_ENGINE.intersection(_WORD.findall(name)):
        return False
    if "vllm-openai" in name or name == "ray-llm" or "/nim/" in path:
        return True
    return "vllm" in tag + name and ("tritonserver" in name or name.startswith("ray-"))


def hides_arguments(image: str) -> bool:
    """The image's entrypoint is no vLLM parser: arguments given alone are for something else."""
    path, _ = repository_of(image.lower())
    name = path.rpartition("/")[2]
    return "/nim/" in path or "tritonserver" in name or name.startswith("ray-")
