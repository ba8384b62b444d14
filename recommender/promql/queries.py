"""What is asked, in PromQL that Prometheus, Thanos, Mimir and VictoriaMetrics understand alike. Pure.

`increase` and `rate` are not among it: they extrapolate to the ends of a range, and other sizes would follow. Counters
are read where an interval ends, and subtracted here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from recommender.promql.settings import PrometheusSettings
from vllm_plugin import names

POD_INFO = names.PREFIX + "recommender_pod_info"

GAUGES = (
    names.MODEL_WEIGHTS_BYTES,
    names.KV_CACHE_CAPACITY_BYTES,
    names.KV_CACHE_BLOCK_BYTES,
    names.KV_CACHE_BLOCK_TOKENS,
    names.KV_CACHE_RESERVED_BYTES,
    names.KV_CACHE_ACTIVE_BYTES,
    names.KV_CACHE_ACTIVE_PEAK_BYTES,
    names.KV_CACHE_REUSABLE_BYTES,
    names.KV_DEMAND_PEAK_BYTES,
    names.RUNTIME_OVERHEAD_BYTES,
    names.GPU_MEMORY_TOTAL_BYTES,
    names.GPU_MEMORY_ALLOCATED_BYTES,
    names.KV_FLOOR_BYTES,
    names.ENGINE_ASLEEP,
    names.HOOKS_ACTIVE,
    names.BUILD_INFO,
    names.ENGINE_INFO,
)
COUNTERS = (names.PREEMPTIONS, names.ADMISSIONS_BLOCKED, names.REQUESTS, names.HIT_TOKENS)
"""Besides `LOOKUP_TOKENS`, which is read sample by sample."""
PEAKS = (names.KV_CACHE_ACTIVE_BYTES, names.KV_CACHE_ACTIVE_PEAK_BYTES, names.KV_DEMAND_PEAK_BYTES)
BUCKET = names.KV_REUSE_DISTANCE_BYTES + "_bucket"

_SPECIAL = re.compile(r"[.+*?()|\[\]{}^$]")

LE_GROUPS = 16
"""Into so many queries the classic buckets are split: 10,000 engines have a million and a half of them."""


def at_end(end: float) -> float:
    """When to ask about an interval that ends at `end`: that moment itself belongs to the next one."""
    return round(end - 0.001, 3)


class Queries:
    """The texts for one set of settings."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings
        self._matchers = tuple(settings.matchers)

    def lookups(self, seconds: float) -> str:
        """Every sample of one counter: when each engine was scraped, and whether it was started anew."""
        return f"{self._selector(names.LOOKUP_TOKENS)}[{duration(seconds)}]"

    def last(self, seconds: float) -> str:
        """The last values of all that is neither a histogram nor read sample by sample."""
        return f"last_over_time({self._selector_of((*GAUGES, *COUNTERS))}[{duration(seconds)}])"

    def peak(self, metric: str, seconds: float) -> str:
        return f"max_over_time({self._selector(metric)}[{duration(seconds)}])"

    def native(self, seconds: float) -> str:
        """The last native histogram of each engine that has one."""
        return f"last_over_time({self._selector(names.KV_REUSE_DISTANCE_BYTES)}[{duration(seconds)}])"

    def buckets(self, bounds: Sequence[str], seconds: float) -> str:
        """The last values of the classic buckets with these bounds, as they are written in the label `le`."""
        return f"last_over_time({self._selector(BUCKET, _one_of('le', bounds))}[{duration(seconds)}])"

    def of_buckets(self) -> str:
        """The series whose `le` are the bounds that there are."""
        return self._selector(BUCKET)

    def everything_of(self, pods: Iterable[tuple[str, str]], seconds: float) -> str:
        """Every sample of some pods (namespace and name): of few, and not of all buckets of a fleet."""
        found = sorted(pods)
        namespaces, pod_names = sorted({namespace for namespace, _ in found}), [name for _, name in found]
        chosen = [
            _one_of(self._settings.namespace_label, namespaces),
            _one_of(self._settings.pod_label, pod_names),
        ]
        metrics = (*GAUGES, *COUNTERS, names.LOOKUP_TOKENS, names.KV_REUSE_DISTANCE_BYTES, BUCKET)
        return f"{self._selector_of(metrics, *chosen)}[{duration(seconds)}]"

    def own(self, metric: str, seconds: float, function: str = "last_over_time") -> str:
        """What the recommender itself said last."""
        matchers = ",".join(self._settings.recommender_matchers)
        return f"{function}({metric}{{{matchers}}}[{duration(seconds)}])"

    def _selector(self, metric: str, *more: str) -> str:
        return f"{metric}{{{','.join((*self._matchers, *more))}}}"

    def _selector_of(self, metrics: Sequence[str], *more: str) -> str:
        return f"{{{','.join((_one_of('__name__', metrics), *self._matchers, *more))}}}"


def duration(seconds: float) -> str:
    """As PromQL writes it, in whole milliseconds."""
    return f"{math.ceil(round(seconds * 1000, 3))}ms"


def grouped(bounds: Iterable[str]) -> list[list[str]]:
    """Bounds as they are written, in `LE_GROUPS` groups or fewer; spellings of one number are in one group."""
    numbers: dict[float, list[str]] = {}
    for bound in bounds:
        numbers.setdefault(float(bound), []).append(bound)
    each = math.ceil(len(numbers) / LE_GROUPS)
    ordered = [sorted(numbers[number]) for number in sorted(numbers)]
    return [list(itertools.chain(*ordered[at : at + each])) for at in range(0, len(ordered), each or 1)]


def _one_of(label: str, values: Sequence[str]) -> str:
    # Once for the regular expression, once for the string.
    written = "|".join(_SPECIAL.sub(r"\\\\\g<0>", value) for value in values)
    return f'{label}=~"{written}"'
