"""Another policy, tried on what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import BLOCK_BYTES, KEY, facts
from test_explanations import fill, observed

from recommender.api.object_store import FileObjectStore
from recommender.api.policies import PolicySpec
from recommender.history import History
from recommender.what_ifs import Comparison, what_if


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileObjectStore, Path]:
    folder = tmp_path_factory.mktemp("what-if")
    return fill(folder, observed()), folder / "history.db"


def tried(seen: tuple[FileObjectStore, Path], **changes: object) -> Comparison:
    store, history = seen
    (found,) = what_if(
        store, history, lambda own: PolicySpec.model_validate({**own.to_json(), **changes}), KEY.namespace, "llama"
    )
    return found


def test_the_policy_it_has_gives_the_size_it_has(seen: tuple[FileObjectStore, Path]) -> None:
    found = tried(seen)
    assert found.now is not None
    assert found.now == found.then
    assert found.own_bytes == facts().capacity_bytes
    assert (found.parts, found.intervals) == (41, 96)
    assert found.now.lost_points <= 1
    assert (found.now.parts_over, found.now.intervals_over) == (0, 0)


def test_more_loss_makes_it_smaller_and_says_what_it_costs(seen: tuple[FileObjectStore, Path]) -> None:
    found = tried(seen, hitRateLoss={"points": 20, "missRatioPercent": 100})
    assert found.now is not None
    assert found.then is not None
    assert found.then.kv_bytes < found.now.kv_bytes
    assert found.then.hit_rate < found.now.hit_rate
    assert 5 < found.then.lost_points <= 20
    assert found.then.allocation_bytes - found.now.allocation_bytes == found.then.kv_bytes - found.now.kv_bytes


def test_a_cap_shows_what_would_have_been_missed(seen: tuple[FileObjectStore, Path]) -> None:
    found = tried(seen, maxKV=str(500 * BLOCK_BYTES))
    assert found.then is not None
    assert found.then.bound_by == "maxKV"
    # Demand is 600 blocks in every interval; a size that loses a third of the hits misses every part.
    assert (found.then.parts_over, found.then.intervals_over) == (41, 96)


def test_a_shorter_window_sees_less(seen: tuple[FileObjectStore, Path]) -> None:
    found = tried(seen, observationWindow="36h")
    assert found.intervals == 72
    assert found.then is not None


def test_where_nothing_would_be_recommended_it_says_why(seen: tuple[FileObjectStore, Path]) -> None:
    found = tried(seen, minRequests=10**9)
    assert found.then is None
    assert "requests came" in found.reason
    assert found.now is not None


def test_by_the_recommendations_own_name(seen: tuple[FileObjectStore, Path]) -> None:
    store, history = seen
    [raw] = store.list("VLLMRecommendation")
    for name, found in ((raw["metadata"]["name"], [KEY]), ("mistral", [])):
        assert [one.key for one in what_if(store, history, lambda own: own, KEY.namespace, name)] == found


def test_a_workload_that_the_history_does_not_know(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    (tmp_path / "history.db").unlink()
    with History.open(tmp_path / "other.db"):
        pass
    (found,) = what_if(store, tmp_path / "other.db", lambda own: own)
    assert (found.now, found.then) == (None, None)
    assert "holds nothing" in found.reason
