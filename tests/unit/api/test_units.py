"""Durations, quantities and bytes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.api.units import format_bytes, format_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("48h", 172800), ("1h30m", 5400), ("90s", 90), ("2d", 172800), ("500ms", 0.5), ("1.5h", 5400), ("1w", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "48", "h", "-1h", "1h 30m", "two days", "0s", "1y", "1h!", "NaNh"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("4Gi", 4 << 30), ("512Mi", 512 << 20), ("1.5Gi", 3 << 29), ("1k", 1000), ("1G", 10**9), (7, 7), ("0.1Ki", 103)],
)
def test_quantities(text: str | int, count: int) -> None:
    assert parse_quantity(text) == count


@pytest.mark.parametrize("text", ["", "4 Gi", "Gi", "-1Gi", "4GiB", "1e9", "4gi", "nan"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 20, "1.00 MiB"),
        (5 << 29, "2.50 GiB"),
        (300 << 30, "300 GiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_bytes(count: int, shown: str) -> None:
    assert format_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59.6, "1m"), (5400, "1h 30m"), (172800, "2d"), (90061, "1d 1h 1m 1s")]
)
def test_shown_durations(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@given(st.integers(1, 10**7))
def test_whole_seconds_are_shown_without_loss(seconds: int) -> None:
    assert parse_duration(format_duration(seconds).replace(" ", "")) == seconds
