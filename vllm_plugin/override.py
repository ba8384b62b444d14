"""The two sizes that the plugin may set in process, for pods whose argument list the webhook cannot see."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable

from vllm_plugin.guard import logger
from vllm_plugin.names import (
    ENV_ALLOCATION_BYTES,
    ENV_GPU_MEMORY_UTILIZATION,
    ENV_KV_BYTES,
    ENV_PREFIX,
    OVERRIDE_APPLIED,
    OVERRIDE_KVCACHED,
    OVERRIDE_NONE,
    OVERRIDE_RAISED,
    OVERRIDE_REFUSED,
)

ENV_OUTCOME = ENV_PREFIX + "OUTCOME"
"""Written for the child processes, which export what was done but see only vLLM's final configuration."""

_ENV_KVCACHED = "ENABLE_KVCACHED"
"""Read by kvcached itself."""


@dataclass(frozen=True)
class Outcome:
    """What became of the override, and what the user had asked for."""

    state: str = OVERRIDE_NONE
    requested_utilization: float | None = None
    requested_kv_bytes: int | None = None
    applied_utilization: float | None = None
    applied_kv_bytes: int | None = None
    """These two: what the environment asked for, and None where it left the user's."""
    raised_kv_bytes: int | None = None
    """What the KV cache got in the place of a size that vLLM refuses."""
    server: str = ""
    """Tells this vLLM from others in the pod: its processes share nothing else by which to know each other."""

    def decides(self, cache_config: Any) -> bool:
        """Whether the pool's size follows from a value that was set here, and not from the user's."""
        kv_bytes = getattr(cache_config, "kv_cache_memory_bytes", None)
        if kv_bytes is not None:
            return kv_bytes in (self.applied_kv_bytes, self.raised_kv_bytes)
        utilization = getattr(cache_config, "gpu_memory_utilization", None)
        return self.applied_utilization is not None and utilization == self.applied_utilization


def kvcached(environ: Mapping[str, str]) -> bool:
    """Whether kvcached manages the KV cache, which is elastic then."""
    return environ.get(_ENV_KVCACHED, "").strip().lower() in ("true", "1")


def parse_bytes(name: str, environ: Mapping[str, str]) -> int | None:
    """Bytes as a plain positive integer; None when unset. Raises ValueError with a sentence."""
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name}={text!r} is not a positive integer of bytes")
    return int(text)


def parse_utilization(text: str | None) -> float | None:
    """A fraction above 0 and up to 1; None when unset. Raises ValueError with a sentence."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{ENV_GPU_MEMORY_UTILIZATION}={text!r} is not a fraction above 0 and up to 1")
    return value


def fraction_of(allocation_bytes: int, total_bytes: int) -> float:
    """The utilization that claims at least `allocation_bytes` of the device: rounded up at the 4th decimal."""
    return min(-(-allocation_bytes * 10_000 // total_bytes), 10_000) / 10_000


def apply(arguments: Any, environ: Mapping[str, str], device_total_bytes: Callable[[], int]) -> Outcome:
    """Set the sizes on vLLM's `EngineArgs` as the environment says. `device_total_bytes`: as this process sees it.

    Absolute values, so that doing it again, here or in the next process, changes nothing; what was asked for at first
    is then known from `ENV_OUTCOME`. Refused, with a warning, are malformed values, and KV bytes on a
    vLLM that has no such argument. With kvcached nothing is set.
    """
    earlier = recall(environ)
    if kvcached(environ):
        if earlier is None:
            logger.warning("vllm-rightsizer sets no size here: kvcached (%s) gives memory back itself", _ENV_KVCACHED)
        return _requested(arguments, OVERRIDE_KVCACHED)
    try:
        kv_bytes = parse_bytes(ENV_KV_BYTES, environ)
        utilization = parse_utilization(environ.get(ENV_GPU_MEMORY_UTILIZATION))
        allocation_bytes = parse_bytes(ENV_ALLOCATION_BYTES, environ)
    except ValueError as error:
        logger.warning("vllm-rightsizer changes no argument: %s", error)
        return _requested(arguments, OVERRIDE_REFUSED)
    if utilization is None and allocation_bytes is not None:
        utilization = fraction_of(allocation_bytes, device_total_bytes())
    if kv_bytes is None and utilization is None:
        return _requested(arguments, OVERRIDE_NONE)
    if kv_bytes is not None and not hasattr(arguments, "kv_cache_memory_bytes"):
        logger.warning("vllm-rightsizer cannot set KV bytes: this vLLM has no kv_cache_memory_bytes (before 0.10.2)")
        if utilization is None:
            return _requested(arguments, OVERRIDE_REFUSED)
        kv_bytes = None
    done = _is(arguments, "kv_cache_memory_bytes", kv_bytes) and _is(arguments, "gpu_memory_utilization", utilization)
    outcome = earlier if earlier is not None and done else _requested(arguments, OVERRIDE_APPLIED)
    outcome = replace(
        outcome,
        state=OVERRIDE_APPLIED,
        applied_utilization=utilization,
        applied_kv_bytes=kv_bytes,
        raised_kv_bytes=None,
    )
    if kv_bytes is not None:
        arguments.kv_cache_memory_bytes = kv_bytes
    if utilization is not None:
        arguments.gpu_memory_utilization = utilization
    # A number of blocks would win over both.
    if getattr(arguments, "num_gpu_blocks_override", None) is not None:
        logger.info("vllm-rightsizer sets num_gpu_blocks_override=%s aside", arguments.num_gpu_blocks_override)
        arguments.num_gpu_blocks_override = None
    logger.info(
        "vllm-rightsizer starts vLLM with kv_cache_memory_bytes=%s, gpu_memory_utilization=%s (asked for: %s, %s)",
        getattr(arguments, "kv_cache_memory_bytes", None),
        getattr(arguments, "gpu_memory_utilization", None),
        outcome.requested_kv_bytes,
        outcome.requested_utilization,
    )
    return outcome


def remember(outcome: Outcome) -> None:
    """Leave the outcome, as that of a new vLLM, to processes started from here."""
    # Numbers of processes are the same in every container.
    server = os.urandom(8).hex()
    os.environ[ENV_OUTCOME] = json.dumps(vars(replace(outcome, server=server)))


def remember_raised(outcome: Outcome, kv_bytes: int) -> None:
    """Leave to this process, and to those started from here, that vLLM got more than was asked for."""
    raised = replace(outcome, state=OVERRIDE_RAISED, raised_kv_bytes=kv_bytes)
    os.environ[ENV_OUTCOME] = json.dumps(vars(raised))


def recall(environ: Mapping[str, str]) -> Outcome | None:
    """The outcome that this process or its parent left, if any."""
    try:
        return Outcome(**json.loads(environ[ENV_OUTCOME]))
    except (KeyError, TypeError, ValueError):
        return None


def _requested(arguments: Any, state: str) -> Outcome:
    return Outcome(
        state,
        getattr(arguments, "gpu_memory_utilization", None),
        getattr(arguments, "kv_cache_memory_bytes", None),
    )


def _is(arguments: Any, name: str, value: Any) -> bool:
    return value is None or getattr(arguments, name, None) == value
