"""Every page of ours is OpenMetrics for those who ask for it, by the strict reader, and says the same as the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx
import pytest
from metric_pages import ODD, PAGES, Page
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

OPENMETRICS = "application/openmetrics-text"
UNITS = ("seconds", "bytes", "ratio")
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    with PAGES[request.param]() as asked:
        yield asked


def of(answer: httpx.Response, media: str) -> str:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == media
    return answer.text


def series(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [
        ((one.name, tuple(sorted(one.labels.items()))), one.value) for family in families for one in family.samples
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_the_strict_reader_takes_the_whole_page(page: Page) -> None:
    text = of(page({"Accept": PROMETHEUS}), OPENMETRICS)
    assert text.endswith("\n# EOF\n")
    families = list(read_openmetrics(text))
    assert len(families) > 5
    for family in families:
        assert family.type in {"counter", "gauge", "histogram", "info"}, family.name
        assert family.documentation, family.name
        # The reader holds names to their units; it does not miss a unit that a name has.
        assert family.unit == next((unit for unit in UNITS if family.name.endswith(f"_{unit}")), ""), family.name
    assert any(ODD in one.labels.values() for family in families for one in family.samples) == (
        "vllm_rightsizer_webhook_ready" not in text
    ), "odd names are on all pages but the webhook's, whose labels are its own words"


def test_both_forms_have_the_same_series(page: Page) -> None:
    strict = series(read_openmetrics(of(page({"Accept": OPENMETRICS}), OPENMETRICS)))
    plain = series(read_text(of(page({"Accept": "text/plain"}), "text/plain")))
    assert strict.keys() == plain.keys()
    moving = ("_age_seconds", "_hook_seconds_total")
    steady = [key for key in strict if not key[0].endswith(moving)]
    assert len(steady) > 5
    for key in steady:
        assert strict[key] == pytest.approx(plain[key], nan_ok=True), key


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("text/html", "text/plain"),
        ("text/plain;version=0.0.4;q=0.9, application/openmetrics-text;q=0.1", "text/plain"),
        ("text/plain;q=0.1, application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1, text/plain;q=0.1", "text/plain"),
        ("application/openmetrics-text;version=banana", "text/plain"),
        ("application/openmetrics-text;q=0, */*;q=0.1", "text/plain"),
        ("application/openmetrics-text;q=high", "text/plain"),
        ("text/plain;version=1.0.0, Application/OpenMetrics-Text; version=1.0.0; q=0.5", OPENMETRICS),
        (", ;;", "text/plain"),
        (PROMETHEUS, OPENMETRICS),
    ],
)
def test_the_scraper_chooses(page: Page, accept: str | None, media: str) -> None:
    # httpx itself would say that it takes all.
    answer = page({} if accept is None else {"Accept": accept})
    of(answer, media)
    assert "version=" in answer.headers["content-type"]


def test_the_servers_compress_for_those_who_can_read_it() -> None:
    for name in ("recommender", "webhook"):
        with PAGES[name]() as page:
            packed = page({"Accept-Encoding": "gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert "vllm_rightsizer_" in packed.text
            assert int(packed.headers["content-length"]) * 2 < len(packed.content)
            for plain in ("identity", "gzip;q=0, identity", "br"):
                assert "content-encoding" not in page({"Accept-Encoding": plain}).headers


def test_a_page_in_the_middle_of_which_something_is_wrong_is_refused() -> None:
    """The reader that the other tests lean on."""
    for wrong in ("# TYPE a counter\na 1\n# EOF\n", "# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n", "a 1\n"):
        with pytest.raises(ValueError, match=r"."):
            list(read_openmetrics(wrong))
