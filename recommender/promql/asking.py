"""Everything that is asked about one interval: the same few queries, however many pods there are."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from recommender.promql.answers import PromSeries
from recommender.promql.client import PrometheusClient
from recommender.promql.conversion import Evidence, PodName
from recommender.promql.directory import KnownPod, pod_of
from recommender.promql.pages import Page, Pages
from recommender.promql.queries import BUCKET, PEAKS, POD_INFO, Queries, at_end, grouped
from recommender.promql.settings import PrometheusSettings
from vllm_plugin import names

_PODS_A_QUERY = 32
"""All samples of so many pods in half an hour are some ten megabytes, with classic buckets."""
_LONGER_THAN_KNOWN = 4
"""Who was who is looked up in so many intervals: a pod may have come and gone while the recommender was away."""


@dataclass
class Answers:
    """About one interval. `warnings`: why it may be a part of what there is."""

    evidence: Evidence = field(default_factory=Evidence)
    gone: list[KnownPod] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


class Asking:
    """Asks about intervals. Its methods raise `QueryError`."""

    def __init__(self, client: PrometheusClient, settings: PrometheusSettings) -> None:
        self._client = client
        self._settings = settings
        self.queries = Queries(settings)

    async def interval(self, end: float, seconds: float) -> Answers:
        """About the interval that ends at `end`."""
        answers, pages, at = Answers(), Pages(self._settings), at_end(end)
        evidence = answers.evidence

        def take_lookups(series: PromSeries) -> None:
            target = pages.target(series.labels)
            if target is not None:
                moments = [(moment, value) for moment, value in series.samples if isinstance(value, float)]
                evidence.moments.setdefault(target, {})[series.labels.get(names.LABEL_ENGINE, "")] = moments
                # Of a counter that went down its last value is on the last page all the same.
                pages.take(PromSeries({**series.labels, "__name__": names.LOOKUP_TOKENS}, series.samples[-1:]))

        def take_peaks(metric: str) -> Callable[[PromSeries], None]:
            def take(series: PromSeries) -> None:
                target, value = pages.target(series.labels), series.samples[-1][1]
                if target is not None and isinstance(value, float):
                    evidence.peaks[metric, target, series.labels.get(names.LABEL_ENGINE, "")] = value

            return take

        def take_histogram(name: str) -> Callable[[PromSeries], None]:
            return lambda series: pages.take(PromSeries({**series.labels, "__name__": name}, series.samples))

        def take_pod(series: PromSeries) -> None:
            pod = pod_of(series.labels)
            if pod is not None:
                answers.gone.append(pod)

        asked = [
            (self.queries.lookups(seconds), take_lookups),
            (self.queries.last(seconds), pages.take),
            *((self.queries.peak(metric, seconds), take_peaks(metric)) for metric in PEAKS),
            (self.queries.native(seconds), take_histogram(names.KV_REUSE_DISTANCE_BYTES)),
            (self.queries.own(POD_INFO, _LONGER_THAN_KNOWN * seconds), take_pod),
        ]
        warnings = [await self._client.query(expression, at, take) for expression, take in asked]
        if pages.engines_without_histogram():
            bounds = await self._client.label_values("le", self.queries.of_buckets(), end - seconds, at)
            for group in grouped(bounds):
                expression = self.queries.buckets(group, seconds)
                warnings.append(await self._client.query(expression, at, take_histogram(BUCKET)))
        answers.warnings = tuple(dict.fromkeys(itertools.chain.from_iterable(warnings)))
        evidence.pages = pages.pages()
        return answers

    async def own(
        self, metric: str, at: float, seconds: float, function: str, take: Callable[[PromSeries], None]
    ) -> None:
        """What the recommender itself said in the `seconds` before `at`."""
        await self._client.query(self.queries.own(metric, seconds, function), at_end(at), take)

    async def every_page(
        self, pods: Sequence[PodName], end: float, seconds: float
    ) -> AsyncIterator[tuple[list[Page], tuple[str, ...]]]:
        """All pages of some pods in an interval, of a few pods at a time, and why these may be a part of them."""
        for first in range(0, len(pods), _PODS_A_QUERY):
            some = pods[first : first + _PODS_A_QUERY]
            pages = Pages(self._settings)

            def take(series: PromSeries, pages: Pages = pages) -> None:
                pages.take(series, moments=True)

            warnings = await self._client.query(self.queries.everything_of(some, seconds), at_end(end), take)
            yield [page for page in pages.pages() if page.target[:2] in some], warnings
