"""What an image's name says about what it runs. A hint, never a proof: the command decides where there is one."""

from __future__ import annotations

import re

_NO_ENGINE = frozenset(
    (
        *("agent", "autoscaler", "bench", "benchmark", "client", "collector", "controller"),
        *("dashboard", "docs", "download", "downloader", "emulator", "epp", "eval"),
        *("exporter", "fake", "gateway", "initializer", "launcher", "loadgen", "manager"),
        *("mock", "monitor", "operator", "planner", "playground", "proxy", "remote"),
        *("requester", "router", "scheduler", "sidecar", "sim", "simulator", "stub"),
        *("test", "tests", "tokenizer", "trainer", "ui", "webui"),
    )
)
_SERVER = frozenset(("server", "serve", "serving"))
_OTHER_ENGINES = frozenset(
    (
        *("aphrodite", "infinity", "lmdeploy", "lorax", "llamacpp", "mlc", "ollama", "sglang", "tei", "tgi"),
        *("tensorrtllm", "trtllm"),
    )
)
_NO_LANGUAGE_MODEL = frozenset(
    ("asr", "embed", "embedqa", "maxine", "nemoretriever", "ocdrnet", "rerank", "rerankqa", "riva", "tts")
)
"""NIMs that are no language models run on Triton, without vLLM."""
_WORD = re.compile(r"[a-z0-9]+")
_LLM_D = ("llm-d-cuda", "llm-d-rocm", "llm-d-xpu", "llm-d-hpu", "llm-d-aws", "llm-d-gke")
"""llm-d's builds of vLLM, one a platform."""
_MODEL_SERVERS = frozenset(("gpustack", "openllm", "xinference"))


def repository_of(image: str) -> tuple[str, str]:
    """Path and tag of an image: `host:5000/a/b:t@sha256:…` → `host:5000/a/b`, `t`."""
    path = image.partition("@")[0]
    head, slash, last = path.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag


def words_of(image: str) -> set[str]:
    """The words of an image's name and tag, without its registry and folders."""
    path, tag = repository_of(image.lower())
    return set(_WORD.findall(f"{_name(path)} {tag}"))


def runs_vllm(image: str) -> bool:
    """The image's entrypoint is vLLM's server, going by its name: arguments given alone are vLLM's."""
    path, _ = repository_of(image.lower())
    name = _name(path)
    return not _serves_nothing(name) and ("vllm" in name or name == "huggingfaceserver")


def serves_with_vllm(image: str) -> bool:
    """vLLM runs in what the image starts, however that is done: images with vLLM inside, NIM, Triton, Ray and DJL with
    vLLM, and servers that start it when they are asked for a model.
    """
    path, tag = repository_of(image.lower())
    name = _name(path)
    words = set(_WORD.findall(name))
    if _serves_nothing(name):
        return False
    if "/nim/" in path:
        return not _NO_LANGUAGE_MODEL & words
    if name == "ray-llm" or name in _MODEL_SERVERS or "huggingfaceserver" in name or name.startswith(_LLM_D):
        return True
    if name.startswith("djl-"):
        return "lmi" in tag or "vllm" in tag
    if "tritonserver" in name or name.startswith("ray-"):
        return "vllm" in tag + name
    # What developers work in may run anything.
    return "vllm" in words and "dev" not in words


def hides_arguments(image: str) -> bool:
    """The image's entrypoint is no vLLM parser: arguments given alone are for something else."""
    path, _ = repository_of(image.lower())
    name = _name(path)
    return "/nim/" in path or "tritonserver" in name or name.startswith(("ray-", "djl-"))


def names_another_engine(name: str) -> bool:
    """An image, a container or a variable is named for another inference engine, whose options may look like vLLM's."""
    return bool(_OTHER_ENGINES.intersection(_WORD.findall(name.lower())))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _serves_nothing(name: str) -> bool:
    words = set(_WORD.findall(name))
    marks = _NO_ENGINE & words
    # `vllm-bench-server` is the server that is put to the test.
    return bool(marks) and not (marks <= {"bench", "benchmark", "test", "tests"} and words & _SERVER)
