"""An engine whose pool kvcached manages: what can be told of it.

Its blocks have addresses without memory behind them, and what is free is shared with whoever else is on the card: no
figure of one engine follows from that. Such a vLLM is left as it is, and its page says so.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from vllm_plugin import geometry, override
from vllm_plugin.guard import hook


class ElasticPool:
    """Stands where `pool.PoolTracker` does."""

    def __init__(self, manager: Any) -> None:
        """`manager`: vLLM's `KVCacheManager`."""
        self._manager = weakref.ref(manager)
        self._config = manager.kv_cache_config
        self._max_model_len = int(manager.max_model_len)
        self.vllm_config: Any | None = None
        self.outcome = override.recall(os.environ) or override.Outcome()

    def alive(self) -> bool:
        """False once vLLM has dropped the manager."""
        return self._manager() is not None

    def report(self) -> dict[str, Any]:
        """How the engine is laid out, sizes in bytes; nothing about blocks in use."""
        specs = [group.kv_cache_spec for group in geometry.device_groups(self._config)]
        block_bytes = geometry.block_bytes(self._config)
        floor = hook("floor").within(geometry.floor_blocks, self._config, self.vllm_config, self._max_model_len)
        return {
            "engine_version": "V1",
            "blocks": int(self._config.num_blocks),
            "block_bytes": block_bytes,
            "block_tokens": int(specs[0].block_size) if specs else None,
            "capacity_bytes": None,
            "floor_bytes": None if floor is None else floor * block_bytes,
            "reuse_counts": [],
        }
