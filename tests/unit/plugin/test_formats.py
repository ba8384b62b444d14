"""One page in four forms: each says the same to its reader, and the reader gets the one that it likes best."""

from __future__ import annotations

import json

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from recommender.exposition import parse_page
from recommender.samples import RefusedSampleError
from vllm_plugin import formats, names, page

from .pages import engine, samples, snapshot, worker

PROMETHEUS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PLAIN = PROMETHEUS.partition(",")[2]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, formats.TEXT_TYPE),
        ("", formats.TEXT_TYPE),
        ("*/*", formats.TEXT_TYPE),
        ("text/html, text/plain; version=9; q=0.9, */*; q=0.1", formats.TEXT_TYPE),
        ("text/plain; version=0.0.4", formats.TEXT_TYPE),
        ("text/plain; version=0.0.4, application/openmetrics-text; version=1.0.0", formats.TEXT_TYPE),
        ("application/openmetrics-text; version=1.0.0, text/plain; version=0.0.4", formats.OPENMETRICS_TYPE),
        ("text/plain;q=high, , ;", formats.TEXT_TYPE),
        (PROMETHEUS, formats.PROTOBUF_TYPE),
        (PLAIN, formats.OPENMETRICS_TYPE),
        ("application/openmetrics-text; version=0.0.1, text/plain;q=0.5", formats.TEXT_TYPE),
        ("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text", formats.TEXT_TYPE),
        (f"{names.COMPACT_TYPE}, text/plain; version=0.0.4; q=0.5", names.COMPACT_TYPE),
    ],
)
def test_the_reader_chooses(accept: str | None, content_type: str) -> None:
    assert formats.chosen(accept).content_type == content_type


def families() -> list[page.Family]:
    other = {**engine(1), "reuse_counts": list(range(146))}
    return page.families([snapshot(engines=[engine(), other], workers=[worker(0, 0), worker(0, 1), worker(1, 0)])])


def test_openmetrics_says_the_same() -> None:
    text = formats.openmetrics(families())
    assert text.endswith("# EOF\n")
    read = list(openmetrics_families(text))
    found = {(one.name, tuple(sorted(one.labels.items()))): one.value for family in read for one in family.samples}
    assert found == samples(formats.text(families()))
    kinds = {family.name: family.type for family in read}
    assert kinds[names.BUILD_INFO.removesuffix("_info")] == "info"
    assert kinds[names.REQUESTS.removesuffix("_total")] == "counter"


def test_the_recommender_reads_the_same_from_the_compact_page() -> None:
    compact = formats.compact(families())
    assert parse_page(compact.decode()) == parse_page(formats.text(families()))
    assert len(compact) * 3 < len(formats.text(families()))


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1]",
        '[["vllm_rightsizer_requests_total", {}]]',
        '[["vllm_rightsizer_x", [], 1]]',
        f'[["{names.KV_REUSE_DISTANCE_BYTES}", {{}}, [1, 2]]]',
        f'[["{names.REQUESTS}", {{}}, 1{"0" * 400}]]',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_compact_page_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RefusedSampleError, match="compact"):
        parse_page(text)


def test_what_is_not_ours_is_not_read_from_a_compact_page() -> None:
    rows = json.loads(formats.compact(families()))
    assert parse_page(json.dumps([*rows, ["another_bytes", {}, "x"]])) == parse_page(json.dumps(rows))
