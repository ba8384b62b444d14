"""What a GPU worker took besides weights and pool, where vLLM does not measure it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import names, page, process
from vllm_plugin.hooks import worker as hooks
from vllm_plugin.worker import WorkerTracker

MIB = 1 << 20
GIB = 1 << 30


class Storage:
    """Of the pool's one tensor."""

    def untyped_storage(self) -> Storage:
        return self

    def data_ptr(self) -> int:
        return 4096

    def nbytes(self) -> int:
        return 2 * GIB


class WorkerBase:
    """Stands for vLLM's."""

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config
        self.cache_config = vllm_config.cache_config
        self.device = "cuda:0"
        self.init_snapshot = SimpleNamespace(total_memory=80 * GIB, free_memory=79 * GIB)
        self.requested_memory = 72 * GIB
        self.model_runner = SimpleNamespace(
            kv_cache_config=SimpleNamespace(num_blocks=1024, kv_cache_groups=[]),
            kv_caches=[Storage()],
            model_memory_usage=5 * GIB,
        )

    def compile_or_warm_up_model(self) -> str:
        torch: Any = sys.modules["torch"]
        torch.reserved += 700 * MIB
        return "times"


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device on which this process reserved 8 GiB, and neighbours have most of the rest."""
    fake: Any = SimpleNamespace(reserved=8 * GIB)
    fake.cuda = SimpleNamespace(
        memory_reserved=lambda device: fake.reserved if device == "cuda:0" else 0,
        mem_get_info=lambda _: (10 * GIB, 80 * GIB),
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[WorkerTracker]:
    made: list[WorkerTracker] = []
    monkeypatch.setattr(process, "track_worker", made.append)
    module: Any = ModuleType("worker_base")
    module.WorkerBase = WorkerBase
    monkeypatch.setattr(WorkerBase, "__init__", WorkerBase.__init__)
    hooks.patch(module)
    return made


def config(**cache: Any) -> Any:
    return SimpleNamespace(cache_config=SimpleNamespace(**cache), device_config=SimpleNamespace(device_type="cuda"))


def report_of(tracker: WorkerTracker) -> dict[str, Any]:
    report = tracker.report()
    assert report is not None
    return report


def snapshot_of(report: dict[str, Any]) -> dict[str, Any]:
    worker = {**report, "server": "1-0", "engine": 0}
    parts = {"version": "1", "loaded_from": "here", "engines": [], "hooks": {}}
    return {"pid": 1, "started": 1, "workers": [worker], **parts}


def test_overhead_is_this_processs_own_and_known_after_the_warm_up(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(kv_cache_memory_bytes=2 * GIB))
    (tracker,) = trackers
    report = report_of(tracker)
    assert (report["capacity_bytes"], report["weights_bytes"]) == (2 * GIB, 5 * GIB)
    assert (report["allocated_bytes"], report["overhead_bytes"]) == (None, {})
    text = page.render([snapshot_of(report)])
    assert names.MODEL_WEIGHTS_BYTES in text
    assert names.GPU_MEMORY_ALLOCATED_BYTES not in text
    assert names.RUNTIME_OVERHEAD_BYTES not in text
    assert worker.compile_or_warm_up_model() == "times"
    report = report_of(tracker)
    assert report["allocated_bytes"] == 8 * GIB + 700 * MIB
    assert report["overhead_bytes"]["other"] == GIB + 700 * MIB


def test_what_vllm_measured_besides_torch_is_added(trackers: list[WorkerTracker]) -> None:
    worker: Any = WorkerBase(config(num_gpu_blocks_override=1024))
    worker.non_torch_memory = 300 * MIB
    worker.compile_or_warm_up_model()
    report = report_of(trackers[0])
    assert report["allocated_bytes"] == 8 * GIB + 1000 * MIB
    assert report["overhead_bytes"]["non_torch"] == 300 * MIB


def test_where_the_utilization_counts_the_claim_is_known_at_once(trackers: list[WorkerTracker]) -> None:
    worker = WorkerBase(config(gpu_memory_utilization=0.9))
    report = report_of(trackers[0])
    assert report["allocated_bytes"] == worker.requested_memory
    assert report["overhead_bytes"]["other"] == 65 * GIB
