"""The page in protobuf, the only form in which Prometheus takes native histograms: one series instead of 148.

Messages and field numbers are those of `io.prometheus.client.MetricFamily`
(github.com/prometheus/client_model, io/prometheus/client/metrics.proto), each message after its length.

The reuse histogram's bounds, 2^(k/8) bytes, are those of schema 3, and upper bounds belong to their buckets in both
forms: bucket k of the one is bucket k of the other. What lies up to the lowest bound is the zero bucket. Blocks that no
pool of the histogram's range would have kept stand in the bucket of infinity: they count, and lie below no finite
bound, so that `histogram_fraction` over the native form and the classic buckets say the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate

from vllm_plugin import names
from vllm_plugin.page import Family, Histogram, Labels

_KINDS = {"counter": 0, "gauge": 1, "info": 1, "histogram": 4}
_GAUGE, _COUNTER, _HISTOGRAM = 2, 3, 7
_VALUE_FIELD = {"counter": _COUNTER, "gauge": _GAUGE, "info": _GAUGE}

_SCHEMA = 3
_FIRST = names.BUCKET_LOW_EXPONENT * names.BUCKETS_PER_OCTAVE + 1
"""Index of the first bucket above the zero bucket; a bucket's upper bound is 2^(index/8)."""
_INFINITY = 1024 * names.BUCKETS_PER_OCTAVE + 1
"""Index of the bucket above the largest double."""


def encode(families: Sequence[Family]) -> bytes:
    """All metrics, each a delimited `MetricFamily`."""
    return b"".join(_delimited(_family(family)) for family in families)


def _family(family: Family) -> bytes:
    return (
        _bytes(1, family.name.encode())
        + _bytes(2, family.text.encode())
        + _integer(3, _KINDS[family.kind])
        + b"".join(_bytes(4, _metric(family.kind, labels, value)) for labels, value in family.samples)
    )


def _metric(kind: str, labels: Labels, value: float | Histogram) -> bytes:
    pairs = b"".join(_bytes(1, _bytes(1, name.encode()) + _bytes(2, text.encode())) for name, text in labels.items())
    if isinstance(value, Histogram):
        return pairs + _bytes(_HISTOGRAM, _histogram(value))
    return pairs + _bytes(_VALUE_FIELD[kind], _double(1, float(value)))


def _histogram(histogram: Histogram) -> bytes:
    """Both forms in one message: who wants the classic buckets too can have them."""
    counts = histogram.counts
    buckets = [(_FIRST + at, count) for at, count in enumerate(counts[1:-1]) if count]
    if counts[-1]:
        buckets.append((_INFINITY, counts[-1]))
    return (
        _integer(1, sum(counts))
        + _double(2, float(histogram.total))
        + b"".join(_bytes(3, _integer(1, count) + bound) for bound, count in zip(_BOUNDS, accumulate(counts)))
        + _integer(5, _zigzag(_SCHEMA))
        + _double(6, names.REUSE_BUCKET_BOUNDS[0])
        + _integer(7, counts[0])
        + b"".join(_bytes(12, span) for span in _spans([index for index, _ in buckets]))
        + _bytes(13, b"".join(_varint(_zigzag(delta)) for delta in _deltas(count for _, count in buckets)))
    )


def _spans(indices: Sequence[int]) -> Iterable[bytes]:
    """Runs of consecutive buckets: the first one's distance from the end of the run before, and how many they are."""
    end = start = 0
    for at, index in enumerate(indices):
        last = at + 1 == len(indices)
        if at == 0 or index != indices[at - 1] + 1:
            start = index
        if last or indices[at + 1] != index + 1:
            yield _integer(1, _zigzag(start - end)) + _integer(2, index + 1 - start)
            end = index + 1


def _deltas(counts: Iterable[int]) -> Iterable[int]:
    before = 0
    for count in counts:
        yield count - before
        before = count


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _delimited(value)


def _zigzag(value: int) -> int:
    """Signed integers, so that small negative ones stay short."""
    return value * 2 if value >= 0 else -value * 2 - 1


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


_BOUNDS = [_double(2, bound) for bound in (*names.REUSE_BUCKET_BOUNDS, float("inf"))]
"""Upper bounds of the classic buckets, written."""
