"""What happened to a recommendation is remembered, and shown: the size before, and what each bound asked for then."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from synthetic import KEY
from test_explanations import NOW, fill, observed

from recommender import history_changes
from recommender.api.recommendations import RecommendationStatus, Resolved
from recommender.api.units import format_bytes
from recommender.changes import Change, before_the_last, changes_of
from recommender.explanations import explain
from recommender.history import History, HistoryReader
from recommender.history_files import HistoryError
from recommender.standings import Memory
from recommender.trends import KEPT_SECONDS
from vllm_rightsizer.explaining import print_explanation
from vllm_rightsizer.reading import Source
from vllm_rightsizer.reading_options import Color, Output

DAY = 86_400.0


def remembered(*changes: Change) -> Memory:
    return Memory(KEY, "f" * 16, "p", NOW, None, NOW + DAY, None, NOW + DAY, changes=changes)


def change(at: float, kv_bytes: int | None = None) -> Change:
    return Change(at, "RecommendationChanged", "from 2 GiB to 1 GiB", kv_bytes, "hitRate", {"hitRate": 7})


def test_an_explanation_says_what_stood_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a recommender leaves it: first a size, then another one by another policy."""
    store = fill(tmp_path, observed())
    first = explain(store, tmp_path / "history.db", KEY.namespace, "llama").recommendation.status
    target = first.target
    assert target is not None
    larger = target.model_copy(update={"kv_bytes": 2 * target.kv_bytes, "bound_by": "demand"})
    policy = Resolved(value="bold", source="workload")
    earlier = first.model_copy(update={"target": larger, "policy": policy})
    with History.open(tmp_path / "history.db") as history:
        history.remember([remembered(*changes_of(None, earlier, NOW - DAY))])
        history.remember([remembered(*changes_of(earlier, first, NOW))])
    found = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    assert [one.reason for one in found.changes] == ["Recommended", "RecommendationChanged"]
    assert found.before is not None
    assert (found.before.kv_bytes, found.before.bound_by) == (larger.kv_bytes, "demand")
    assert found.before.policy == "bold, by workload"
    assert found.before.bounds == {bound.name: bound.kv_bytes for bound in first.bounds}
    shown = found.to_json()
    assert shown["before"]["kvBytes"] == larger.kv_bytes
    assert [one["at"] for one in shown["changes"]] == ["2027-01-14T08:00:00.000Z", "2027-01-15T08:00:00.000Z"]
    assert shown["changes"][1]["note"].startswith("from ")
    capsys.readouterr()
    source = Source(tmp_path / "objects")
    print_explanation(source, tmp_path / "history.db", KEY.namespace, "llama", Output.TABLE, Color.NEVER)
    text = capsys.readouterr().out
    assert "2027-01-15 08:00:00 UTC  RecommendationChanged  from " in text
    assert f"Before the present size: {format_bytes(larger.kv_bytes)} by demand; policy bold, by workload" in text
    assert "Made from 192 samples, 2027-01-13 08:00:00 to 2027-01-15 08:00:00 UTC: 172800 of 172800 s" in text


def test_nothing_happened_where_nothing_changed(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    found = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    assert not changes_of(found.recommendation.status, found.recommendation.status, NOW)
    assert not changes_of(None, RecommendationStatus(), NOW)
    assert (found.changes, found.before) == ((), None)
    assert before_the_last((change(1, 5), change(2, 5)), 5) is None


def test_only_the_newest_are_kept_and_none_for_ever(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        for number in range(history_changes.MOST + 20):
            history.remember([remembered(change(NOW + number))])
        found = history.changes(KEY)
        assert [one.at for one in found] == [NOW + number for number in range(20, history_changes.MOST + 20)]
        assert history.changes(KEY._replace(container="other")) == ()
        history.prune(NOW + 30 + KEPT_SECONDS)
        assert history.changes(KEY)[0].at == NOW + 30


def test_a_damaged_one_is_never_shown(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        history.remember([remembered(change(NOW, 4096))])
    with contextlib.closing(sqlite3.connect(tmp_path / "history.db")) as vandal:
        vandal.execute("UPDATE changes SET content = replace(content, '4096', '8192')")
        vandal.commit()
    with HistoryReader.open(tmp_path / "history.db") as reader, pytest.raises(HistoryError, match="checksum"):
        reader.changes(KEY)


def test_a_history_of_the_release_before_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History.open(path) as history:
        history.remember_policy("default", "{}")
    with contextlib.closing(sqlite3.connect(path)) as former:
        former.executescript("DROP TABLE changes; DROP TABLE forgotten; PRAGMA user_version = 3;")
    with History.open(path) as history:
        assert history.policies() == {"default": "{}"}
        history.remember([remembered(change(NOW, 1))])
        assert history.changes(KEY) == (change(NOW, 1),)
    assert not list(tmp_path.glob("*unreadable*"))
