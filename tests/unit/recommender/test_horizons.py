"""Clocks that jump: what is forgotten, what is counted on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import KEY, facts

from recommender.histograms import BUCKETS, pack
from recommender.history import History
from recommender.horizons import DOUBTED_SECONDS, TOLERATED_SECONDS, Horizon
from recommender.intervals import ClosedInterval, Interval
from recommender.keys import SeriesKey
from recommender.observation import Observer
from recommender.recording import Recorder
from recommender.samples import Counters, EngineSample
from recommender.telemetry import Telemetry
from recommender.trends import KEPT_SECONDS, SLOT_SECONDS, Point

YEAR = 365 * 86_400.0
NOW = 1_800_000_000.0
HALF_HOUR = 1_800.0
W = 96 * HALF_HOUR


def test_time_goes_on_as_it_did_while_a_jump_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    horizon = Horizon(None)
    assert horizon.at(NOW, 0.0) == NOW
    assert horizon.at(NOW + 1800, 1800.0) == NOW + 1800
    assert horizon.at(NOW + YEAR, 3600.0) == NOW + 3600
    assert horizon.at(NOW + YEAR + 1800, 5400.0) == NOW + 5400
    assert horizon.at(NOW + 7200, 7200.0) == NOW + 7200
    assert caplog.text.count("364d 23h ahead of what was expected") == 1


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_jump_that_lasts_is_believed(jump: float) -> None:
    horizon = Horizon(NOW)
    found = [horizon.at(NOW + jump + step * HALF_HOUR, step * HALF_HOUR) for step in range(60)]
    doubted = [NOW + step * HALF_HOUR for step in range(60)]
    believed = next(step for step in range(60) if found[step] != doubted[step])
    assert believed == DOUBTED_SECONDS / HALF_HOUR
    assert found[believed:] == [one + jump for one in doubted[believed:]]


def test_a_clock_that_jumps_about_is_never_believed() -> None:
    horizon = Horizon(NOW)
    for step in range(200):
        assert horizon.at(NOW + (step % 2 + 1) * YEAR, step * HALF_HOUR) == NOW + step * HALF_HOUR


@given(st.lists(st.tuples(st.floats(0, 4000), st.floats(-3 * YEAR, 3 * YEAR)), max_size=30))
def test_nothing_is_forgotten_sooner_than_a_day_after_a_jump(steps: list[tuple[float, float]]) -> None:
    """Whatever the clock says, in less than a day what is forgotten by moves no further than time itself."""
    horizon, running = Horizon(NOW), 0.0
    for elapsed, offset in steps:
        running += elapsed
        if running >= DOUBTED_SECONDS - TOLERATED_SECONDS:
            break
        assert horizon.at(NOW + offset, running) <= NOW + running + (len(steps) + 1) * TOLERATED_SECONDS


class Clock:
    """What `time` is to the observer."""

    def __init__(self) -> None:
        self.running = 0.0

    def monotonic(self) -> float:
        return self.running


def closed(start: float, requests: int = 1) -> ClosedInterval:
    interval = Interval(start, HALF_HOUR, HALF_HOUR, 60, 1 << 30, 5, 6, requests=requests, reuse=pack(range(BUCKETS)))
    key = SeriesKey(KEY, "f", "pod", "uid", "0")
    return ClosedInterval(key, facts(), interval, Counters(0, 0, 0, 0, 0), start, start + W + 3 * HALF_HOUR)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """Stores the interval that began so many half hours after `NOW`; which there are then."""
    clock = Clock()
    monkeypatch.setattr("recommender.observation.time", clock)
    history = History.open(tmp_path / "history.db")
    observer = Observer(history, Telemetry())

    def one(slot: int, ahead: float = 0.0) -> list[float]:
        clock.running += HALF_HOUR
        start = NOW + slot * HALF_HOUR + ahead
        observer._store([closed(start)], start + HALF_HOUR)
        found = history.series(KEY, "f", 0.0)
        return sorted(interval.start - NOW for series in found for interval in series.intervals)

    return one


def test_a_clock_a_year_ahead_forgets_nothing(store: Callable[..., list[float]]) -> None:
    for slot in range(20):
        store(slot)
    assert len(store(20, YEAR)) == 21
    found = store(21)
    assert [one / HALF_HOUR for one in found[:21]] == [*range(20), 21]
    for slot in range(22, 130):
        found = store(slot)
    # Once the clock is right again, what was observed by the wrong one is forgotten, and what is too old.
    slots = [round(one / HALF_HOUR) for one in found]
    assert slots == list(range(slots[0], 130))
    # Rows are forgotten eight intervals at a time.
    assert 130 - 99 - 8 < slots[0] <= 130 - 99


def test_intervals_go_on_and_count_once_where_a_clock_is_set_back() -> None:
    recorder = Recorder(lambda _: None)
    key = SeriesKey(KEY, "f", "pod", "uid", "0")
    requests, found = 0, []
    for step in range(400):
        at = NOW + step * 30.0 - (YEAR if step >= 200 else 0.0)
        found += recorder.closed(at)
        requests += 3
        sample = EngineSample("0", facts(), 0, 0, 0, 0, Counters(requests, 0, 0, 0, 0))
        recorder.take(key, sample, at, W, 30.0)
    found += recorder.closed(float("inf"))
    assert sum(one.interval.requests for one in found) == requests - 3
    starts = [one.interval.start for one in found]
    assert len(set(starts)) == len(starts)
    assert max(starts) <= NOW + 200 * 30.0
    assert sum(start < NOW - YEAR / 2 for start in starts) >= 3


def test_a_month_of_points_has_a_bound(tmp_path: Path) -> None:
    """Of two workloads: the file stops growing once 30 days are full."""
    sizes = []
    with History.open(tmp_path / "history.db") as history:
        for day in range(45):
            with history._transaction():
                for slot in range(48):
                    at = NOW + day * 86_400 + slot * SLOT_SECONDS
                    for subject in range(2):
                        _keep(history, f"chat/Deployment/llm-{subject}/vllm", at)
            history.prune(NOW + day * 86_400 + 86_400)
            (pages,) = history._connection.execute("PRAGMA page_count").fetchone()
            sizes.append(pages)
        (count,) = history._connection.execute("SELECT count(*) FROM points").fetchone()
        assert count <= 2 * (KEPT_SECONDS / SLOT_SECONDS + 1)
    assert sizes[-1] <= 1.1 * sizes[31]


def _keep(history: History, subject: str, at: float) -> None:
    from recommender import history_trends

    history_trends.keep(history._connection, subject, at, Point(1 << 34, 1 << 34, 1 << 34, 1 << 34))
