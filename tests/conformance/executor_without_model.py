"""A V1 executor that has no worker, so that nothing loads plugins but the engine's own process. Spawned by name."""

from __future__ import annotations

from typing import Any

import engines
from vllm.v1.executor.abstract import Executor


class Seconds(float):
    """How long a worker compiled: a number, and in newer releases one for each part of the model."""

    language_model = encoder = 0.0


class ExecutorWithoutModel(Executor):  # type: ignore[misc]  # vLLM is untyped here
    """Answers what an engine core asks at its start."""

    blocks = 90
    uses_ray = False

    def _init_executor(self) -> None:
        """No worker."""

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> list[Any]:
        """As one worker would answer."""
        answers = {
            "get_kv_cache_spec": engines.kv_cache_specs(),
            "determine_available_memory": self.blocks * engines.BLOCK_BYTES,
            "get_supported_kv_cache_layouts": ["LBNHC", "BLHNC"],
            "compile_or_warm_up_model": Seconds(0.0),
        }
        return [answers.get(method)]

    def register_failure_callback(self, callback: Any) -> None:
        """It never fails."""

    def check_health(self) -> None:
        """It is."""

    def shutdown(self) -> None:
        """Nothing runs."""
