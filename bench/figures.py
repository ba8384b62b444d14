"""One measured figure, with what it should be; and intervals for those that were measured several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Figure:
    """`n`: of how many observations. `low` and `high`: 95 % interval, where it was measured repeatedly."""

    name: str
    value: float
    unit: str
    n: int
    target: float | None = None
    better: Literal["at most", "at least"] = "at most"
    low: float | None = None
    high: float | None = None
    notes: str | None = None

    @property
    def ok(self) -> bool | None:
        """Does it reach its target? With an interval: it does not, if the whole of that lies beyond the target."""
        if self.target is None:
            return None
        if self.better == "at most":
            return (self.value if self.low is None else self.low) <= self.target
        return (self.value if self.high is None else self.high) >= self.target

    def as_json(self) -> dict[str, Any]:
        """Without what it does not have."""
        found = {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "target": self.target,
            "ok": self.ok,
            "n": self.n,
            "low": None if self.low is None else _rounded(self.low),
            "high": None if self.high is None else _rounded(self.high),
            "notes": self.notes,
        }
        return {name: value for name, value in found.items() if value is not None}


def bootstrapped(
    pairs: Sequence[tuple[Any, Any]], statistic: Callable[[Any, Any], float]
) -> tuple[float, float, float]:
    """`statistic` of the first and second members of the pairs; its value, and the ends of its 95 % interval.

    Members are numbers, or lists of one length: the statistic gets them as arrays, a row for each pair.
    Pairs are drawn again with repetition, as measured together: what changed between them does not count.
    """
    first, second = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    random = np.random.default_rng(0)
    draws = []
    for _ in range(_RESAMPLES):
        drawn = random.integers(0, len(pairs), len(pairs))
        draws.append(statistic(first[drawn], second[drawn]))
    low, high = np.percentile(draws, _INTERVAL)
    return float(statistic(first, second)), float(low), float(high)


def ratio_of_means(first: Any, second: Any) -> float:
    """For `bootstrapped`."""
    return float(first.mean() / second.mean())


def ratio_of_99th_percentiles(first: Any, second: Any) -> float:
    """For `bootstrapped`: of all values of all pairs."""
    return float(np.percentile(first, 99) / np.percentile(second, 99))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
