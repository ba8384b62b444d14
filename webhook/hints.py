"""What speaks for a vLLM in a container whose command leaves it open: its options, its environment, its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recommender.api.sizing_flags import GPU_MEMORY_UTILIZATION, sizing_flag
from webhook.accelerators import asks_for_accelerator
from webhook.argv import Arguments
from webhook.images import names_another_engine, repository_of, runs_vllm, serves_with_vllm
from webhook.patches import Raw
from webhook.programs import runs_no_engine

_ENGINE_OPTIONS = frozenset(
    (
        *("--enable-chunked-prefill", "--enable-prefix-caching", "--enforce-eager", "--kv-transfer-config"),
        *("--max-model-len", "--max-num-batched-tokens", "--max-num-seqs"),
    )
)
"""Options that vLLM and its wrappers have, and neither other engines nor clients."""

_MODEL_OPTION = re.compile(r"^--(model|config|served|tensor|pipeline|data-parallel|dtype|port|host)")

_ENGINE_VARIABLE = re.compile(
    r"^VLLM_(ALLOW|ALL2ALL|ATTENTION|CACHE_ROOT|COMPILE|CONFIG|CPU_|DISABLE|DP_|ENABLE|ENGINE|FLASH|FLASHINFER|FUSED|"
    r"GPU|HOST_IP|LOGGING_LEVEL|LORA_|MOE_|NEURON|NIXL_|NO_USAGE|PLUGINS|PP_|ROCM_|RPC_|SERVER_DEV|SKIP_|SLEEP|"
    r"TARGET_DEVICE|TORCH_|TPU_|USE_|WORKER_|XLA_)"
)
"""Variables that vLLM's engine reads. Clients have others: `VLLM_URL`, `VLLM_API_KEY`, `VLLM_MODEL`."""


def speaks_for_vllm(container: Raw, arguments: Arguments) -> bool:
    """A program that may start vLLM out of sight does: an option, the environment or the image says so."""
    image = str(container.get("image") or "")
    if _is_another_engine(container):
        return False
    options = {_option_name(token) for token in arguments.vector if token.startswith("--")}
    sized = any(sizing_flag(token) == GPU_MEMORY_UTILIZATION for token in arguments.vector)
    if sized or has_engine_variable(container):
        return True
    if not asks_for_accelerator(container):
        return False
    return serves_with_vllm(image) or bool(options & _ENGINE_OPTIONS) or _named_as_backend(container)


def starts_vllm_by_itself(container: Raw) -> bool:
    """No command and no arguments: the image's own may hold all of vLLM's options."""
    image = str(container.get("image") or "")
    if _is_another_engine(container) or not asks_for_accelerator(container):
        return False
    name = str(container.get("name") or "").lower()
    return (
        runs_vllm(image)
        or serves_with_vllm(image)
        or has_engine_variable(container)
        or _named_as_backend(container)
        or ("vllm" in name and not runs_no_engine(name))
    )


def looks_like_engine_options(args: Sequence[str]) -> bool:
    """Arguments that an image named for vLLM gets are meant for the engine, rather than for a tool around it."""
    return any(_MODEL_OPTION.match(arg) or _option_name(arg) in _ENGINE_OPTIONS or sizing_flag(arg) for arg in args)


def has_engine_variable(container: Raw) -> bool:
    return any(_ENGINE_VARIABLE.match(str(entry.get("name"))) for entry in container.get("env") or ())


def _is_another_engine(container: Raw) -> bool:
    """Named so, or given variables that another engine reads (`OLLAMA_KEEP_ALIVE`)."""
    path, _ = repository_of(str(container.get("image") or ""))
    variables = [str(entry.get("name")).partition("_")[0] for entry in container.get("env") or ()]
    return any(map(names_another_engine, (path, str(container.get("name") or ""), *variables)))


def _option_name(token: str) -> str:
    return token.partition("=")[0].replace("_", "-")


def _named_as_backend(container: Raw) -> bool:
    """A variable chooses vLLM among backends, as DJL's `OPTION_ROLLING_BATCH=vllm` does."""
    return any(str(entry.get("value") or "").lower() == "vllm" for entry in container.get("env") or ())
