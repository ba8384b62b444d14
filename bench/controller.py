"""A size that may grow during the judged day: the recommender's rounds with a loss budget, each growth a restart.

At each interval's end the recommender sees what the plugin has exported until then, at the pools that really ran. What
it asks for beyond today's pool starts at once, with an empty cache, if the loss budget or requests that had to wait
make it urgent; everything else waits for a later day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.plugin_replay import PluginReplay
from bench.referee import Pieces, Referee, Verdict
from recommender import bounds
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import Bound, RecommendationStatus
from recommender.api.workloads import WorkloadRef
from recommender.evaluation import Assessment, assess, loss_budget_status
from recommender.intervals import INTERVALS_PER_WINDOW, Interval, Series, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recommending import scrape_period
from recommender.recording import Recorder
from recommender.targets import target_of
from recommender.windows import ROLLING_PARTS, Window

_REMEMBERED = INTERVALS_PER_WINDOW // ROLLING_PARTS
"""Evaluations in W/6."""

WORKLOAD = WorkloadKey("bench", WorkloadRef("apps", "Deployment", "judged"), "vllm")


def observed(replay: PluginReplay, pod: str, policy: PolicySpec, until: float) -> Series:
    """What the recommender has stored at `until` of a pod that ran with one pool all the time."""
    key = SeriesKey(WORKLOAD, "", pod, "", "0")
    window = policy.observation_window_seconds
    period = scrape_period([window])
    recorder = Recorder(lambda _: None)
    intervals: list[Interval] = []
    for at, sample in replay.samples(period, until):
        intervals += (closed.interval for closed in recorder.closed(at))
        recorder.take(key, sample, at, window, period)
    intervals += (closed.interval for closed in recorder.closed(until))
    return Series(key, replay.facts, tuple(intervals))


def usable_blocks(found: Assessment, otherwise: int) -> int:
    """What a recommendation leaves to requests: the pool minus its null block. Without one the pool stays."""
    if found.sizing is None or found.sizing.kv_bytes is None or found.pools is None:
        return otherwise
    return found.sizing.kv_bytes // found.pools.block_bytes - 1


@dataclass(frozen=True)
class Judged:
    """What the judge says of a sequence of sizes; the verdict's blocks are their average over the judged time.

    `changes`: from which second on which size held. `pieces`: the requests that came meanwhile. `less_while_short`: how
    often less was asked for than ran while the window showed that the pool was short; it should be never.
    """

    changes: tuple[tuple[float, int], ...]
    verdict: Verdict
    pieces: Pieces
    less_while_short: int

    @property
    def first(self) -> int:
        return self.changes[0][1]

    @property
    def restarts(self) -> int:
        return len(self.changes) - 1


def control(referee: Referee, policy: PolicySpec) -> Judged:
    """Recommend at the end of what may be seen, then watch the judged part."""
    workload, default = referee.workload, referee.default_blocks
    begin, end = float(workload.observe), float(workload.t[-1]) + 1
    slot = interval_seconds(policy.observation_window_seconds)
    seen = [observed(PluginReplay(workload, referee.default_run), "judged-0", policy, begin)]
    own = (default + 1) * seen[0].facts.block_bytes
    stands = RecommendationStatus(bounds=[Bound(name=bounds.POOL, kv_bytes=own, message="")])
    candidates: list[int] = []
    changes: list[tuple[float, int]] = []
    running: Series | None = None
    now, less_while_short = begin, 0
    while now < end:
        series = [*seen, between(running, begin, now)] if running else seen
        facts = series[-1].facts
        found = assess(policy, series, (facts,), stands, tuple(candidates[-_REMEMBERED:]), now)
        sizing, pools = found.sizing, found.pools
        if sizing is not None and pools is not None:
            if sizing.candidate_bytes is not None:
                candidates.append(sizing.candidate_bytes)
            stands = stands.model_copy(
                update={
                    "target": target_of(sizing, pools, found.engines),
                    "loss_budget": loss_budget_status(sizing.spending) if sizing.spending else stands.loss_budget,
                }
            )
        wanted = min(max(usable_blocks(found, default), int(workload.floor)), default)
        if changes and found.window is not None and _is_short(found.window):
            less_while_short += wanted < changes[-1][1]
        if not changes or (_urgent(found, running, begin, now) and wanted > changes[-1][1]):
            if running is not None:
                seen.append(between(running, begin, now))
            changes.append((now, wanted))
            running = _run(referee, policy, changes, end)
            if running is None:
                break
        now += slot
    verdict, pieces = referee.verdict_of_changes(changes)
    return Judged(tuple(changes), verdict, pieces, less_while_short)


def _urgent(found: Assessment, running: Series | None, begin: float, now: float) -> bool:
    """A restart costs hits: it is for the budget that it keeps, or for requests that wait."""
    if found.sizing is not None and found.sizing.spending is not None and found.sizing.spending.grow_to_bytes:
        return True
    return _is_short(Window.of([between(running, begin, now)] if running else [], now, now - begin))


def _is_short(window: Window) -> bool:
    return bool(window.preemptions) or window.blocked_share > bounds.LARGEST_BLOCKED_SHARE


def _run(referee: Referee, policy: PolicySpec, changes: list[tuple[float, int]], end: float) -> Series | None:
    """The pod that starts with the last of `changes`, until the end; the first one warms up on what came before. None
    where a request can never fit."""
    start, blocks = changes[-1]
    first = len(changes) == 1
    piece = referee.workload if first else referee.part(start, end)
    run = referee.run(blocks) if first else referee.simulate(piece, blocks)
    return None if run is None else observed(PluginReplay(piece, run), f"judged-{len(changes)}", policy, end)


def between(series: Series, begin: float, now: float) -> Series:
    """The intervals of that time."""
    columns = series.columns
    return replace(series, intervals=columns.kept((columns.rows["start"] >= begin - 1) & (columns.ends <= now + 1)))
