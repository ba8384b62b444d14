"""Answers of a PromQL API, in pieces of any length, and everything that may be wrong with them."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from recommender.promql.answers import AnswerError, AnswerReader, PromSeries
from recommender.promql.native import NotOurHistogramError, cumulative_of
from recommender.promql.queries import LE_GROUPS, Queries, grouped
from recommender.promql.settings import PrometheusSettings, PrometheusSettingsError, headers_of
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

SERIES = [
    {"metric": {"pod": "a", "path": 'with "quotes" and ] and é'}, "value": [1700000000.125, "5"]},
    {"metric": {"pod": "b"}, "values": [[1, "1"], [2.5, "NaN"]]},
    {"metric": {}, "histogram": [3, {"count": "7", "sum": "1", "buckets": [[0, "-1.048576e+06", "1048576", "7"]]}]},
]


def read(body: bytes, size: int) -> tuple[list[PromSeries], AnswerReader]:
    reader, found = AnswerReader(), []
    for at in range(0, len(body), size):
        found += reader.feed(body[at : at + size])
    reader.finish()
    return found, reader


def body(**more: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": SERIES}, **more}).encode()


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_series_are_the_same_in_pieces_of_any_length(size: int) -> None:
    found, reader = read(body(), size)
    assert [one.labels for one in found] == [one["metric"] for one in SERIES]
    assert found[0].samples == [(1700000000.125, 5.0)]
    assert found[1].samples[0] == (1.0, 1.0)
    assert math.isnan(found[1].samples[1][1])  # type: ignore[arg-type]  # a number, as the answer has it
    assert found[2].samples == [(3.0, (7,) * (len(REUSE_BUCKET_BOUNDS) + 1))]
    assert reader.warnings == ()


@pytest.mark.parametrize(
    ("more", "warnings"),
    [
        ({"warnings": ["receive series from Addr: dead"]}, ("receive series from Addr: dead",)),
        ({"isPartial": True}, ("the answer is partial",)),
        ({"isPartial": False, "infos": ["PromQL info: metric might not be a counter"]}, ()),
        ({"warnings": ["PromQL warning: encountered a mix of histograms and floats"]}, ()),
    ],
)
def test_a_part_is_told_from_the_whole(more: dict[str, Any], warnings: tuple[str, ...]) -> None:
    assert read(body(**more), 100)[1].warnings == warnings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"<html>It works!</html>", "no JSON"),
        (b"x" * 5000, "no result"),
        (b'{"status":"success","data":{}}', "no result"),
        (b'{"status":"success","data":{"resultType":"scalar","result":5},"x":[]}', "no list"),
        (body()[:-40], "ends in the middle"),
        (body()[:200], "ends in the middle"),
        (b'{"status":"error","error":"query timed out"}', "query timed out"),
        (b'{"status":"success","data":{"result":[{"metric":{},"value":[1]}]}}', "not as it should be"),
        (b'{"status":"success","data":{"result":[{"value":[1,"1"]}]}}', "not as it should be"),
        (b'{"status":"success","data":{"result":[5]}}', "not as it should be"),
        (b"\xff\xfe", "no text"),
    ],
)
def test_what_is_wrong_is_said(wrong: bytes, said: str) -> None:
    with pytest.raises(AnswerError, match=said):
        read(wrong, 64)


def shown(counts: dict[int, int], beyond: int = 0) -> dict[str, Any]:
    """A native histogram of schema 3 as the API shows it."""
    buckets = []
    for index, count in sorted(counts.items()):
        high = REUSE_BUCKET_BOUNDS[index]
        low = REUSE_BUCKET_BOUNDS[index - 1] if index else -high
        buckets.append([0 if index else 3, repr(low), repr(high), str(count)])
    if beyond:
        buckets.append([0, "1.7976931348623157e+308", "+Inf", str(beyond)])
    return {"count": str(sum(counts.values()) + beyond), "sum": "0", "buckets": buckets}


def test_a_native_histogram_has_the_curve_of_the_classic_one() -> None:
    counts = {0: 5, 1: 7, 60: 100, 144: 3}
    classic = list(accumulate(counts.get(index, 0) for index in range(len(REUSE_BUCKET_BOUNDS))))
    assert cumulative_of(shown(counts, beyond=9)) == (*classic, classic[-1] + 9)
    # Where the bucket of infinity is not shown.
    without = shown(counts)
    without["count"] = "124"
    assert cumulative_of(without)[-2:] == (115, 124)


def test_a_coarser_native_histogram_is_none() -> None:
    coarse = {"count": "4", "sum": "0", "buckets": [[0, repr(2.0**20), repr(2.0**20 * 2**0.25), "4"]]}
    with pytest.raises(NotOurHistogramError, match="schema 3"):
        cumulative_of(coarse)
    # One pod's is not the others' trouble.
    answer = {"status": "success", "data": {"result": [{"metric": {}, "histogram": [1, coarse]}, SERIES[0]]}}
    [first, second], _ = read(json.dumps(answer).encode(), 1000)
    assert isinstance(first.samples[0][1], NotOurHistogramError)
    assert second.samples[0][1] == 5.0


def test_bounds_are_asked_for_in_a_few_groups_whatever_their_spelling() -> None:
    spelled = [repr(bound) for bound in REUSE_BUCKET_BOUNDS] + [f"{bound:.17e}" for bound in REUSE_BUCKET_BOUNDS]
    groups = grouped([*spelled, "+Inf"])
    assert len(groups) <= LE_GROUPS
    assert sorted(bound for group in groups for bound in group) == sorted([*spelled, "+Inf"])
    for group in groups:
        assert len({float(bound) for bound in group}) <= 10
    asked = Queries(PrometheusSettings("http://p:9090", matchers=('cluster="eu"',))).buckets(["1.5e+06", "+Inf"], 1800)
    assert asked == (
        'last_over_time(vllm_rightsizer_kv_reuse_distance_bytes_bucket{cluster="eu",le=~"1\\\\.5e\\\\+06|\\\\+Inf"}'
        "[1800000ms])"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"url": "prometheus:9090"}, "no URL"),
        ({"url": "http://user:secret@p:9090"}, "token file"),
        ({"url": "http://p:9090/?x=1"}, "no URL"),
        ({"matchers": ('cluster="eu"} or vector(1',)}, "no label matcher"),
        ({"recommender_matchers": ()}, "any pod could"),
        ({"pod_label": "a-b"}, "no name of a label"),
        ({"token_file": "/nowhere/token"}, "no file"),
        ({"ca_file": __file__}, "no certificates"),
    ],
)
def test_settings_that_cannot_be_used(more: dict[str, Any], said: str) -> None:
    files = {name: Path(value) for name, value in more.items() if name.endswith("_file")}
    with pytest.raises(PrometheusSettingsError, match=said):
        PrometheusSettings(**{"url": "http://p:9090", **more, **files})


def test_a_header_that_is_none_is_not_repeated() -> None:
    assert headers_of(["X-Scope-OrgID: a|b"]) == (("X-Scope-OrgID", "a|b"),)
    for wrong in ("Bearer secret", "X: a\r\nY: b"):
        with pytest.raises(PrometheusSettingsError) as error:
            headers_of([wrong])
        assert "Y: b" not in str(error.value)
