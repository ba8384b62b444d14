"""Has every pod that runs been measured lately? Pure.

Measurements may lack some pods and go on for the rest: a Prometheus behind Thanos is down and nobody says so, or a zone
cannot be reached. What is left asks for less, and the pod that needs most may be among those that are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from recommender.api.units import format_duration
from recommender.intervals import Series
from recommender.sizing import PODS, Guard
from recommender.windows import ROLLING_PARTS
from recommender.workload_states import PodReport

_MOST_NAMED = 3


def pods_guard(reports: Iterable[PodReport], series: Sequence[Series], now: float, window_seconds: float) -> Guard:
    """Whether each pod that serves with the plugin has data of the last W/6; sooner a size does not sink anyway.

    `reports`: the pods of one fingerprint, `series`: what is known of it; times in seconds since the epoch. A pod that
    began less than W/6 ago is not missed yet, nor before anybody else was measured for as long. One that sleeps, or has
    nothing to size, says so itself. One that has been silent for all of W is given up: nothing is known of it that
    could still be lost. One that answers is not, however long it takes.
    """
    lately = window_seconds / ROLLING_PARTS
    first, last = _seen(series, now - window_seconds)
    missed: list[str] = []
    given_up: list[str] = []
    count = 0
    for report in reports:
        pod = report.pod
        # Who is not ready gets no requests.
        if pod.missing is not None or pod.address is None or not pod.ready or report.aside is not None:
            continue
        count += 1
        seen = last.get((pod.name, pod.uid))
        since = max(pod.began, first) if seen is None else seen
        if now - since < lately:
            continue
        if seen is None and not report.reporting and now - pod.began >= window_seconds:
            given_up.append(pod.name)
        else:
            answers = ", though it answers now" if report.reporting else ""
            missed.append(f"{pod.name} (none since {_shown(since)}{answers})")
    message = f"all {count} pods that are ready have data of the last {format_duration(lately)}, or began since"
    if missed:
        message = f"{len(missed)} of {count} pods that are ready have no data of the last {format_duration(lately)}: "
        message += _some(missed)
    if given_up:
        silent = f"silent for the whole window of {format_duration(window_seconds)}"
        message += f"; not counted, as {silent}: {_some(given_up)}"
    return Guard(PODS, not missed, message)


def _seen(series: Sequence[Series], begin: float) -> tuple[float, dict[tuple[str, str], float]]:
    """When the first interval that ends after `begin` starts, never where there is none; and when the last one of each
    pod ends, by its name and UID."""
    first, last = float("inf"), dict[tuple[str, str], float]()
    for one in series:
        ends = one.columns.ends
        inside = ends > begin
        if inside.any():
            first = min(first, float(one.columns.rows["start"][inside].min()))
            pod = (one.key.pod, one.key.uid)
            last[pod] = max(last.get(pod, begin), float(ends.max()))
    return first, last


def _some(names: Sequence[str]) -> str:
    named = ", ".join(names[:_MOST_NAMED])
    return named if len(names) <= _MOST_NAMED else f"{named} and {len(names) - _MOST_NAMED} more"


def _shown(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")
