"""Durations, quantities and percentages as Kubernetes users write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$"
"""What `parse_duration` reads, less the durations of no length."""
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
QUANTITY_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
"""What `parse_quantity` reads."""
_QUANTITY = re.compile(QUANTITY_PATTERN)
_MULTIPLIER = {
    "": 1,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "Pi": 1 << 50,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
}
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> float:
    """Seconds of a duration such as `48h`, `90s`, `1h30m` or `2d`.

    Raises ValueError that shows the text and what would be right.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write for example 48h, 1h30m or 90s")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"{text!r} is no duration: it must be longer than nothing")
    return seconds


def parse_quantity(text: str | int) -> int:
    """Bytes of a Kubernetes quantity such as `4Gi`, `512Mi`, `1.5Gi` or a plain number; rounded up to a byte."""
    match = _QUANTITY.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity of bytes; write for example 4Gi or 512Mi")
    exact = Decimal(match[1]) * _MULTIPLIER[match[2] or ""]
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def format_bytes(count: float) -> str:
    """`count` bytes with a binary unit, three figures or so: `1.25 GiB`."""
    size = float(count)
    for unit in _BINARY_UNITS:
        if abs(size) < 1024 or unit == _BINARY_UNITS[-1]:
            break
        size /= 1024
    if unit == "B":
        return f"{size:.0f} B"
    return f"{size:.2f} {unit}" if abs(size) < 100 else f"{size:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` in the largest units that show it without loss, `2m 30s`; fractions of a second are left out."""
    rest = round(seconds)
    shown: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not shown):
            shown.append(f"{count}{unit}")
    return " ".join(shown)


def format_micro_time(seconds: float) -> str:
    """`seconds` since the epoch as Kubernetes' MicroTime, `2026-11-01T12:00:00.000000Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
