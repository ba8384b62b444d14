"""A store that takes nothing for a while: what is observed waits, and nothing of it is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from synthetic import KEY, facts
from test_history import FINGERPRINT, NOTHING, stored

from recommender.discovery import Pod
from recommender.histograms import BUCKETS, pack, unpack
from recommender.history import History
from recommender.keys import SeriesKey
from recommender.observation import Observer
from recommender.samples import Counters, EngineSample, PodSample
from recommender.scraping import Scrape
from recommender.telemetry import Telemetry

W, PERIOD = 96 * 60.0, 30.0
POD = Pod(KEY, "llama-0", "uid", FINGERPRINT, ("127.0.0.1", 1), 0.0, True, False, None, {})
SERIES = SeriesKey(KEY, FINGERPRINT, "llama-0", "uid", "0")


def look(observer: Observer, at: float) -> None:
    """A scrape of a pod that serves ten requests a second."""
    count = round(10 * at)
    counters = Counters(count, 16 * count, 8 * count, 0, 0, pack((0,) * (BUCKETS - 1) + (count,)))
    sample = PodSample("0.1.0", (EngineSample("0", facts(), 0, 0, 0, 0, counters),))
    observer.observe([Scrape(POD, at, 0.01, sample)], {KEY: W}, at, PERIOD)


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History.open(path) as history:
        observer = Observer(history, Telemetry())
        look(observer, 0.0)
        history._connection.execute("PRAGMA query_only = ON")
        for step in range(1, 12):
            look(observer, step * PERIOD)
        observer.remember(dataclasses.replace(NOTHING, candidate_bytes=7, candidate_expires=1e9))
        observer.store_memories()
        assert observer.fault is not None
        assert stored(path) == []
        # A pod that was not seen for an interval goes on from what waits.
        baseline = observer._baseline(SERIES)
        assert baseline is not None
        assert baseline.counters.requests == 2700
        history._connection.execute("PRAGMA query_only = OFF")
        look(observer, 12 * PERIOD)
        observer.store_memories()
        assert observer.fault is None
        found = stored(path)
        assert [interval.start for interval in found] == [60.0 * number for number in range(6)]
        assert sum(interval.requests for interval in found) == 3300
        kept = history.baseline(SERIES)
        assert kept is not None
        assert kept.counters.requests == 3300
        assert unpack(kept.counters.reuse)[-1] == 3300
        assert history.candidates(KEY, FINGERPRINT, "", 0.0) == (7,)


def test_only_the_last_counters_wait(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        observer = Observer(history, Telemetry())
        history._connection.execute("PRAGMA query_only = ON")
        for step in range(12):
            look(observer, step * PERIOD)
        *earlier, last = observer._unwritten
        assert {closed.counters.requests for closed in earlier} == {0}
        assert last.counters.requests == 2700
