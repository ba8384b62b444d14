"""Workers of this release's own base classes: each is seen once, and its pool measured where the release keeps it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engines
import pytest
import torch
from engines import BLOCK_BYTES

from vllm_plugin import process

BASES = [name for name in ("vllm.v1.worker.worker_base", "vllm.worker.worker_base") if engines.has(name)]
BLOCKS = 80


@pytest.mark.skipif(not BASES, reason="this release's V1 has no base class of workers")
@pytest.mark.parametrize("module", BASES)
def test_a_worker_is_seen_once_and_its_pool_measured(module: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v1 = ".v1." in module
    if engines.has("vllm.core.block_manager"):
        monkeypatch.setenv("VLLM_USE_V1", "0")
    config = engines.configured(model)
    base = importlib.import_module(module).WorkerBase

    class Worker(base):  # type: ignore[misc,valid-type]
        """As the base is, but for what each release's workers add."""

        def get_kv_cache_spec(self) -> dict[str, Any]:
            return engines.kv_cache_specs()

    if not v1:
        del Worker.get_kv_cache_spec
    before = list(process.current().workers)
    worker = engines.built(
        Worker, vllm_config=config, local_rank=0, rank=0, distributed_init_method="", is_driver_worker=True
    )
    (tracker,) = [one for one in process.current().workers if one not in before]
    assert tracker.report() is None

    weights = torch.nn.Linear(64, 64)
    tensors = [torch.zeros(BLOCKS * BLOCK_BYTES // engines.LAYERS, dtype=torch.uint8) for _ in range(engines.LAYERS)]
    worker.model_runner = SimpleNamespace(model=weights)
    config.cache_config.num_gpu_blocks = BLOCKS
    if not v1:
        worker.local_rank = 0
        worker.cpu_cache = [tensors]
    else:
        worker.model_runner.kv_caches = tensors
        if engines.runner_knows_its_config():
            worker.model_runner.kv_cache_config = engines.kv_cache_config(config, BLOCKS)
    report = tracker.report()
    assert report["capacity_bytes"] == BLOCKS * BLOCK_BYTES
    assert report["block_bytes"] == BLOCK_BYTES
    assert report["weights_bytes"] == 4 * (64 * 64 + 64)
    assert report["total_bytes"] > report["capacity_bytes"]
