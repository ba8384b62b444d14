"""The programs by which vLLM is started, or is not: names and what they mean, without any logic of command lines."""

from __future__ import annotations

import re

ENGINE_SUBCOMMANDS = frozenset(("serve", "run-batch"))
"""Of the `vllm` command line; `bench`, `chat`, `complete`, `collect-env`, `launch render` serve nothing."""

CLI_MODULES = frozenset(("vllm", "vllm.entrypoints.cli.main", "vllm_omni", "vllm_omni.entrypoints.cli.main"))
_ENGINE_MODULES = frozenset(
    (
        "dynamo.vllm",
        "dynamo.vllm.main",
        "fastchat.serve.vllm_worker",
        "huggingfaceserver",
        "vllm.entrypoints.grpc_server",
        "vllm.entrypoints.launchers.api_server.entry",
        "vllm.entrypoints.launchers.grpc_server",
        "vllm.entrypoints.launchers.run_batch",
        "vllm.entrypoints.openai.run_batch",
    )
)
_API_SERVER_MODULE = re.compile(r"^vllm\.entrypoints\.([a-z_]+\.)*api_server$")
API_SERVER_SCRIPTS = frozenset(("api_server.py", "grpc_server.py"))

RUST_FRONT_END = "vllm-rs"
"""Knows its own options only and refuses others; what follows a `--` goes to the Python engine that it starts."""

SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh"))
PYTHON = re.compile(r"^(python|pypy)\d*(\.\d+)?$")

WRAPPERS = frozenset(
    (
        "accelerate",
        "catatonit",
        "chrt",
        "conda",
        "dcgmi",
        "ddtrace-run",
        "doppler",
        "dotenv",
        "dumb-init",
        "env",
        "flock",
        "gosu",
        "infisical",
        "ionice",
        "mamba",
        "micromamba",
        "mpirun",
        "ncu",
        "nice",
        "nohup",
        "nsys",
        "numactl",
        "opentelemetry-instrument",
        "pdm",
        "pipenv",
        "pixi",
        "poetry",
        "rye",
        "script",
        "setpriv",
        "setsid",
        "stdbuf",
        "su-exec",
        "sudo",
        "taskset",
        "time",
        "timeout",
        "tini",
        "torchrun",
        "unbuffer",
        "uv",
        "uvx",
        "vault-env",
        "xvfb-run",
    )
)
"""Programs that start the program named further on in their arguments."""

MAYBE = frozenset(
    ("bentoml", "djl-serving", "dynamo", "dynamo-run", "eval", "ray", "serve", "supervisord", "tritonserver")
)
"""Programs behind which a vLLM may run, out of sight; the image has to tell."""

MODEL_SERVERS = frozenset(("gpustack", "openllm", "xinference", "xinference-local", "xinference-worker"))
"""Programs that start vLLM engines of their own, when they are asked for a model."""

_LOOKS_LIKE_SCRIPT = re.compile(r"(\.(sh|bash|py)$|entrypoint|^(start|run|launch|serve)[\w-]*$)")
_ENVIRONMENT_SCRIPT = re.compile(r"(activate|profile|rc|env|setvars)(\.\w+)?$")
_WORD = re.compile(r"[a-z]+")
_NO_ENGINE = (
    "bench",
    "client",
    "convert",
    "download",
    "evaluat",
    "exporter",
    "finetun",
    "frontend",
    "gateway",
    "healthcheck",
    "loadgen",
    "mock",
    "monitor",
    "planner",
    "prepare",
    "proxy",
    "quantiz",
    "router",
    "test",
    "train",
    "wait",
    "warmup",
)
"""Beginnings of words in the names of scripts and modules that use a vLLM, or prepare one, and run none."""


def base_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def looks_like_script(name: str) -> bool:
    return _LOOKS_LIKE_SCRIPT.search(name) is not None


def sets_environment_only(path: str) -> bool:
    """A file that is sourced for what it sets (`venv/bin/activate`, `~/.bashrc`), not for what it starts."""
    return _ENVIRONMENT_SCRIPT.search(base_name(path)) is not None


def runs_no_engine(name: str) -> bool:
    """The name of a script or module says that it only talks to an engine, or comes before one."""
    return any(word.startswith(_NO_ENGINE) for word in _WORD.findall(name.lower()))


def takes_engine_options(module: str) -> bool:
    """`python -m module` hands its arguments to vLLM's own parser."""
    return module in _ENGINE_MODULES or _API_SERVER_MODULE.match(module) is not None


def speaks_of_vllm(module: str) -> bool:
    """A module of somebody else's that is named for vLLM: an engine whose parser nobody knows."""
    return "vllm" in module.lower() and module.partition(".")[0] != "vllm" and not runs_no_engine(module)
