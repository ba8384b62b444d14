"""What a dashboard shows: a point every half hour, for 30 days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import BLOCK_BYTES, KEY, GiB, facts, series

from recommender.api.recommendations import Target
from recommender.history import History
from recommender.history_files import UnreadableHistoryError
from recommender.standings import Memory
from recommender.targets import pools_of
from recommender.trends import CLUSTER, Point, allocatable_point, point_of
from recommender.windows import Window

DAY = 86_400.0
NOTHING = Memory(KEY, "f" * 16, "", 0.0, None, 0.0, None, 0.0)
TARGET = Target(
    kv_bytes=1024 * BLOCK_BYTES,
    kv_blocks=1024,
    allocation_bytes=0,
    gpu_memory_utilization="0.5000",
    flags=[],
    bound_by="hitRate",
)


def node(memory: str | None, gpus: str) -> dict[str, object]:
    labels = {} if memory is None else {"nvidia.com/gpu.memory": memory}
    return {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}


def test_the_point_of_a_workload_adds_up_its_pods() -> None:
    shrunk = facts(blocks=2048)
    pods = [
        series([[1]] * 4, 96.0, 96.0, shrunk, pod="llama-0", demand_blocks=[900, 900, 900, 400]),
        series([[1]] * 4, 96.0, 96.0, shrunk, pod="llama-1", demand_blocks=[900, 900, 900, 200]),
    ]
    window = Window.of(pods, 96.0, 96.0)
    pools = pools_of([shrunk, shrunk], 4096 * BLOCK_BYTES)
    found = point_of(window, [shrunk, shrunk], pools, TARGET)
    # Requests hold half of what is demanded.
    assert found == Point(
        used_bytes=2 * 18 * GiB + (200 + 100) * BLOCK_BYTES,
        recommended_bytes=2 * (18 * GiB + 1024 * BLOCK_BYTES),
        requested_bytes=2 * (18 * GiB + 2048 * BLOCK_BYTES),
        original_bytes=2 * (18 * GiB + 4096 * BLOCK_BYTES),
    )
    without = point_of(window, [shrunk, shrunk], pools, None)
    assert without == replace(found, recommended_bytes=None)
    assert point_of(window, [], pools, TARGET) is None
    assert point_of(None, [shrunk], None, TARGET) is None


def test_the_cluster_has_what_its_nodes_can_give() -> None:
    nodes = [node("81559", "8"), node("24576", "4"), node(None, "8"), node("81559", "")]
    assert allocatable_point(nodes) == Point(allocatable_bytes=(8 * 81559 + 4 * 24576) << 20)
    assert allocatable_point([]) == Point(allocatable_bytes=0)
    shared = node("24576", "16")
    shared["metadata"]["labels"]["nvidia.com/gpu.count"] = "4"
    assert allocatable_point([shared]) == Point(allocatable_bytes=4 * 24576 << 20)


def test_a_point_a_half_hour_is_kept_for_30_days(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History.open(path) as history:
        for at in (0.0, 600.0, 1800.0, 29 * DAY):
            history.remember([replace(NOTHING, at=at, point=Point(used_bytes=round(at)))])
        history.keep_point(CLUSTER, 1900.0, Point(allocatable_bytes=7))
        expected = [(0.0, 600), (1800.0, 1800), (29 * DAY, round(29 * DAY))]
        assert [(at, point.used_bytes) for at, point in history.trend(str(KEY), 0.0)] == expected
        assert [at for at, _ in history.trend(str(KEY), 1.0)] == [1800.0, 29 * DAY]
        assert history.trend(CLUSTER, 0.0) == ((1800.0, Point(allocatable_bytes=7)),)
        history.prune(30 * DAY + 1000.0)
    with History.open(path) as history:
        assert [at for at, _ in history.trend(str(KEY), 0.0)] == [1800.0, 29 * DAY]
        history.prune(60 * DAY)
        assert history.trend(str(KEY), 0.0) == history.trend(CLUSTER, 0.0) == ()
        assert history._connection.execute("SELECT count(*) FROM subjects").fetchone() == (0,)


def test_a_point_that_changed_is_damage(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        history.keep_point(CLUSTER, 1900.0, Point(allocatable_bytes=7))
        history._connection.execute("UPDATE points SET allocatable_bytes = 8")
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.trend(CLUSTER, 0.0)
