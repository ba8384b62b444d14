"""The protobuf form, read back with Google's own library: every sample, and the native histogram bucket by bucket."""

from __future__ import annotations

import itertools
import math
import random
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from vllm_plugin import formats, names, page
from vllm_plugin.native import encode

from .pages import MIB, engine, samples, snapshot, worker

# Name, number, type, and for messages which; as in io/prometheus/client/metrics.proto of prometheus/client_model.
MESSAGES: dict[str, list[tuple[str, int, str, str]]] = {
    "LabelPair": [("name", 1, "STRING", ""), ("value", 2, "STRING", "")],
    "Value": [("value", 1, "DOUBLE", "")],
    "Bucket": [("cumulative_count", 1, "UINT64", ""), ("upper_bound", 2, "DOUBLE", "")],
    "BucketSpan": [("offset", 1, "SINT32", ""), ("length", 2, "UINT32", "")],
    "Histogram": [
        ("sample_count", 1, "UINT64", ""),
        ("sample_sum", 2, "DOUBLE", ""),
        ("bucket", 3, "MESSAGE", "Bucket*"),
        ("schema", 5, "SINT32", ""),
        ("zero_threshold", 6, "DOUBLE", ""),
        ("zero_count", 7, "UINT64", ""),
        ("positive_span", 12, "MESSAGE", "BucketSpan*"),
        ("positive_delta", 13, "SINT64", "*"),
    ],
    "Metric": [
        ("label", 1, "MESSAGE", "LabelPair*"),
        ("gauge", 2, "MESSAGE", "Value"),
        ("counter", 3, "MESSAGE", "Value"),
        ("histogram", 7, "MESSAGE", "Histogram"),
    ],
    "MetricFamily": [
        ("name", 1, "STRING", ""),
        ("help", 2, "STRING", ""),
        ("type", 3, "UINT32", ""),
        ("metric", 4, "MESSAGE", "Metric*"),
    ],
}


def family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="client", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, number, kind, of in fields:
            message.field.add(
                name=label,
                number=number,
                type=getattr(field, f"TYPE_{kind}"),
                type_name=f".client.{of.rstrip('*')}" if of.rstrip("*") else None,
                label=field.LABEL_REPEATED if of.endswith("*") else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("client.MetricFamily"))


def read(body: bytes) -> dict[str, Any]:
    kind, found, at = family_class(), {}, 0
    while at < len(body):
        length, shift = 0, 0
        while True:
            length |= (body[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if body[at - 1] < 0x80:
                break
        family = kind.FromString(body[at : at + length])
        found[family.name] = family
        at += length
    return found


def labels(metric: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((pair.name, pair.value) for pair in metric.label))


def native(counts: list[int]) -> Any:
    families = page.families([snapshot(engines=[{**engine(), "reuse_counts": counts}])])
    return read(encode(families))[names.KV_REUSE_DISTANCE_BYTES].metric[0].histogram


def buckets(histogram: Any) -> dict[int, int]:
    """Index of a bucket and its count."""
    found, index, count = {}, 0, 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[index] = count
            index += 1
    assert next(deltas, None) is None
    return found


def test_every_sample_is_there() -> None:
    families = page.families([snapshot(engines=[engine(), engine(1)], workers=[worker(0, 0), worker(1, 0)])])
    read_back = read(encode(families))
    expected = samples(formats.text(families))
    found = {}
    for name, family in read_back.items():
        for metric in family.metric:
            key = labels(metric)
            if family.type == 4:
                for bucket in metric.histogram.bucket:
                    bound = "+Inf" if math.isinf(bucket.upper_bound) else repr(bucket.upper_bound)
                    found[f"{name}_bucket", tuple(sorted((*key, ("le", bound))))] = bucket.cumulative_count
                found[f"{name}_sum", key] = metric.histogram.sample_sum
                found[f"{name}_count", key] = metric.histogram.sample_count
            else:
                found[name, key] = (metric.counter if family.type == 0 else metric.gauge).value
    assert found == expected
    assert {family.type for family in read_back.values()} == {0, 1, 4}


@pytest.mark.parametrize("seed", range(5))
def test_the_native_buckets_are_the_classic_ones(seed: int) -> None:
    random_ = random.Random(seed)
    counts = [random_.choice((0, 0, 1, 7, 1 << 40)) for _ in range(146)]
    histogram = native(counts)
    by_index = buckets(histogram)
    assert (histogram.schema, histogram.zero_threshold, histogram.zero_count) == (3, MIB, counts[0])
    assert histogram.sample_count == sum(counts) == histogram.zero_count + sum(by_index.values())
    for bound, cumulative in zip(names.REUSE_BUCKET_BOUNDS, itertools.accumulate(counts), strict=False):
        # Bucket i of schema 3 reaches up to 2^(i/8), that included.
        below = sum(count for index, count in by_index.items() if index <= round(8 * math.log2(bound)))
        assert histogram.zero_count + below == cumulative


def test_blocks_that_no_pool_would_keep_lie_below_no_finite_bound() -> None:
    histogram = native([0] * 145 + [9])
    assert buckets(histogram) == {8193: 9}
    # The bucket before it, 8192 = 8 × 1024, is that of the largest doubles.
    assert math.frexp(sys.float_info.max)[1] == 1024


def test_one_without_observations_is_native_too() -> None:
    """Prometheus tells by the zero bucket's threshold."""
    histogram = native([0] * 146)
    assert (histogram.sample_count, histogram.zero_threshold, len(histogram.positive_span)) == (0, MIB, 0)
