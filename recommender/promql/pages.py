"""Series of many pods, put together again as the pages that they were scraped from. Pure.

A page is what one target showed at one moment. Which labels are the target's and which stood on the page is known by
name; on info metrics, whose labels are many, by what the target's other series have.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from recommender.exposition import PageSample
from recommender.histograms import BUCKETS
from recommender.promql.answers import PromSeries, Value
from recommender.promql.queries import BUCKET
from recommender.promql.settings import PrometheusSettings
from recommender.samples import LARGEST_COUNT
from vllm_plugin import names

_INFOS = (names.BUILD_INFO, names.ENGINE_INFO)
_LE = "le"
_OF_THE_PAGE = frozenset(
    ("__name__", names.LABEL_ENGINE, names.LABEL_RANK, names.LABEL_COMPONENT, names.LABEL_HOOK, _LE)
)
_WRITTEN_BOUNDS = (*map(repr, names.REUSE_BUCKET_BOUNDS), "+Inf")
_INDEX_OF = {f"{bound:.9e}": index for index, bound in enumerate(names.REUSE_BUCKET_BOUNDS)} | {"inf": BUCKETS - 1}


class Target(NamedTuple):
    """What was scraped: `labels` are all that service discovery and Prometheus itself gave to its series."""

    namespace: str
    pod: str
    container: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """What a target showed. `at` is None where these are the last values of an interval; `fault` says what is wrong
    with what cannot be said in samples."""

    target: Target
    at: float | None
    samples: list[PageSample]
    fault: str | None = None


@dataclass
class _Sheet:
    samples: list[PageSample] = field(default_factory=list)
    buckets: dict[str, array[float]] = field(default_factory=dict)
    histograms: set[str] = field(default_factory=set)
    fault: str | None = None


class Pages:
    """Collects series; `pages` are what they make. Labels that service discovery writes are named by `settings`."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings
        self._targets: dict[tuple[tuple[str, str], ...], Target] = {}
        self._of_pod: dict[tuple[str, str], list[Target]] = {}
        self._sheets: dict[tuple[Target, float | None], _Sheet] = {}
        self._infos: list[PromSeries] = []
        self._indices: dict[str, int | None] = {}

    def take(self, series: PromSeries, moments: bool = False) -> None:
        """Put a series where it belongs; with `moments`, each of its samples on the page of its moment."""
        labels = series.labels
        name = labels.get("__name__", "")
        if name in _INFOS:
            self._infos.append(series if moments else PromSeries(labels, ()))
            return
        target = self.target(labels)
        if target is None:
            return
        for at, value in series.samples:
            key = (target, at if moments else None)
            sheet = self._sheets.get(key)
            if sheet is None:
                sheet = self._sheets[key] = _Sheet()
            self._write(sheet, name, series, value)

    def target(self, labels_of_series: Mapping[str, str]) -> Target | None:
        """Whose series this is; None where service discovery says no pod."""
        labels = tuple(sorted(item for item in labels_of_series.items() if item[0] not in _OF_THE_PAGE))
        known = self._targets.get(labels)
        if known is None:
            named = dict(labels)
            settings = self._settings
            namespace, pod = named.get(settings.namespace_label), named.get(settings.pod_label)
            if not namespace or not pod:
                return None
            known = self._targets[labels] = Target(namespace, pod, named.get(settings.container_label, ""), labels)
            self._of_pod.setdefault((namespace, pod), []).append(known)
        return known

    def engines_without_histogram(self) -> bool:
        """Whether the last values of an engine are there, and no native histogram of it."""
        return any(
            name == names.KV_FLOOR_BYTES and labels.get(names.LABEL_ENGINE, "") not in sheet.histograms
            for (_, at), sheet in self._sheets.items()
            if at is None
            for name, labels, _ in sheet.samples
        )

    def pages(self) -> Iterator[Page]:
        """All pages, each target's in order of time."""
        infos = self._page_labels_of_infos()
        order = sorted(self._sheets, key=lambda key: (key[0], -math.inf if key[1] is None else key[1]))
        for target, at in order:
            sheet = self._sheets[target, at]
            samples = [*sheet.samples, *infos.get((target, at), ())]
            for engine, counts in sheet.buckets.items():
                if engine not in sheet.histograms:
                    samples += _classic(engine, counts)
            yield Page(target, at, samples, sheet.fault)

    def _write(self, sheet: _Sheet, name: str, series: PromSeries, value: Value) -> None:
        of_page = {label: text for label, text in series.labels.items() if label in _OF_THE_PAGE}
        of_page.pop("__name__", None)
        engine = of_page.get(names.LABEL_ENGINE, "")
        if isinstance(value, tuple):
            sheet.histograms.add(engine)
            sheet.samples.append((name, of_page, value))
        elif isinstance(value, Exception):
            sheet.fault = str(value)
        elif name != BUCKET:
            sheet.samples.append((name, of_page, value))
        else:
            index = self._index(of_page.get(_LE, ""))
            if index is None:
                # The page is refused, and why is said there.
                sheet.samples.append((name, of_page, value))
                return
            counts = sheet.buckets.get(engine)
            if counts is None:
                counts = sheet.buckets[engine] = array("d", (math.nan,)) * BUCKETS
            counts[index] = value

    def _index(self, bound: str) -> int | None:
        if bound not in self._indices:
            try:
                number = float(bound)
            except ValueError:
                number = math.nan
            self._indices[bound] = _INDEX_OF.get("inf" if number == math.inf else f"{number:.9e}")
        return self._indices[bound]

    def _page_labels_of_infos(self) -> dict[tuple[Target, float | None], list[PageSample]]:
        found: dict[tuple[Target, float | None], list[PageSample]] = {}
        for series in self._infos:
            settings = self._settings
            place = (series.labels.get(settings.namespace_label, ""), series.labels.get(settings.pod_label, ""))
            items = series.labels.items()
            for target in self._of_pod.get(place, ()):
                if not all(label in items for label in target.labels):
                    continue
                of_target = {label for label, _ in target.labels} | {"__name__"}
                of_page = {label: text for label, text in items if label not in of_target}
                sample: PageSample = (series.labels["__name__"], of_page, 1.0)
                moments: list[float | None] = [at for at, _ in series.samples]
                for at in moments or [None]:
                    found.setdefault((target, at), []).append(sample)
        return found


def _classic(engine: str, counts: array[float]) -> list[PageSample]:
    """The histogram as a whole where it is one; else bucket by bucket, to have said what is wrong."""
    whole = counts[0] >= 0 and counts[-1] <= LARGEST_COUNT
    if whole and all(map(float.__le__, counts, counts[1:])):
        return [(names.KV_REUSE_DISTANCE_BYTES, {names.LABEL_ENGINE: engine}, tuple(map(round, counts)))]
    return [
        (BUCKET, {names.LABEL_ENGINE: engine, _LE: bound}, count)
        for bound, count in zip(_WRITTEN_BOUNDS, counts, strict=True)
        if not math.isnan(count)
    ]
