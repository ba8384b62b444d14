"""Native histograms as the API's JSON shows them, as the cumulative counts of our own buckets. Pure.

Bounds of schema 3 are the powers of 2^(1/8), which ours are. A lower resolution, to which a server may reduce a
histogram, has other bounds: its curve would be another one.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from vllm_plugin.names import REUSE_BUCKET_BOUNDS

_INDEX_OF = {f"{bound:.9e}": index for index, bound in enumerate(REUSE_BUCKET_BOUNDS)}
"""Bounds by nine digits, as in `exposition`."""
_TOP = len(REUSE_BUCKET_BOUNDS)
_FINEST_STEP = 2 ** (1 / 8)


class NotOurHistogramError(ValueError):
    """A histogram whose buckets are not the plugin's."""


def cumulative_of(shown: Any) -> tuple[int, ...]:
    """Cumulative counts by `names.REUSE_BUCKET_BOUNDS`, +Inf last, of `{"count", "sum", "buckets": [[rule, left, right,
    count], …]}`. What lies beyond the last bound counts in +Inf alone. Raises `NotOurHistogramError`."""
    counts = [0] * (_TOP + 1)
    beyond = 0
    total = _whole(shown["count"])
    for _, left, right, count in shown.get("buckets") or ():
        low, high, number = float(left), float(right), _whole(count)
        if high <= REUSE_BUCKET_BOUNDS[0]:
            # The zero bucket, and whatever is below the smallest bound.
            counts[0] += number
        elif low >= REUSE_BUCKET_BOUNDS[-1] * (1 - 1e-9):
            beyond += number
        else:
            index = _INDEX_OF.get(f"{high:.9e}")
            if index is None or not math.isclose(low * _FINEST_STEP, high, rel_tol=1e-9):
                raise NotOurHistogramError(
                    f"a native histogram has a bucket from {left} to {right}: not of schema 3, the plugin's; does the "
                    "server limit its buckets?"
                )
            counts[index] += number
    cumulative = list(itertools.accumulate(counts[:_TOP]))
    if cumulative[-1] + beyond > total:
        raise NotOurHistogramError(f"a native histogram counts {total}, and its buckets {cumulative[-1] + beyond}")
    # Of those in the bucket of infinity some servers show no bucket.
    return (*cumulative, total)


def _whole(text: Any) -> int:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise NotOurHistogramError(f"a native histogram counts {text}")
    return round(value)
