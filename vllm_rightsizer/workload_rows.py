"""One row for each recommendation, and their sum: the figures of `vllm-rightsizer list`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recommender.api.recommendations import VLLMRecommendation
from recommender.keys import WorkloadKey
from vllm_rightsizer.reading_options import SortColumn
from vllm_rightsizer.workload_states import State, state_of


@dataclass(frozen=True)
class Row:
    """A workload's container. Bytes are those of all GPUs of all pods together; None: not known.

    `replicas`: its pods, and `gpus`: theirs, as the recommender counts them.
    `used_bytes`: weights, overhead, and the most that running requests held, in the worst pod, for each GPU.
    `saved_bytes`: against what the author's arguments claim, also after that was applied; below 0 where it is to grow.
    Hit rates from 0 to 1: `hit_rate` of the window, `predicted_hit_rate` at the recommended size.
    """

    key: WorkloadKey
    state: State
    replicas: int | None
    gpus: int | None
    model: str | None
    policy: str | None
    """The VLLMPolicy that it is sized by."""
    allocated_bytes: int | None
    used_bytes: int | None
    recommended_bytes: int | None
    saved_bytes: int | None
    hit_rate: float | None
    predicted_hit_rate: float | None
    kv_bytes: int | None
    """The KV cache of a GPU today."""
    recommended_kv_bytes: int | None
    """The same as recommended."""
    bound_by: str | None
    bankable_per_month: float | None
    """Worth of what others can be placed on."""
    currency: str | None

    @property
    def name(self) -> str:
        return f"{self.key.namespace}/{self.key.workload.name}"

    @property
    def saved_share(self) -> float | None:
        """Of what the author's arguments claim."""
        return _share(self.saved_bytes, self.recommended_bytes)

    def to_json(self) -> dict[str, Any]:
        """camelCase, as in the API; also the columns of CSV."""
        return {
            "namespace": self.key.namespace,
            "kind": self.key.workload.kind,
            "name": self.key.workload.name,
            "container": self.key.container,
            "replicas": self.replicas,
            "gpus": self.gpus,
            "model": self.model,
            "policy": self.policy,
            "allocatedBytes": self.allocated_bytes,
            "usedBytes": self.used_bytes,
            "recommendedBytes": self.recommended_bytes,
            "savedBytes": self.saved_bytes,
            "hitRate": self.hit_rate,
            "predictedHitRate": self.predicted_hit_rate,
            "kvBytes": self.kv_bytes,
            "recommendedKVBytes": self.recommended_kv_bytes,
            "boundBy": self.bound_by,
            "bankablePerMonth": self.bankable_per_month,
            "currency": self.currency,
            "state": self.state.words,
            "reason": self.state.reason,
            "message": self.state.message,
        }


@dataclass(frozen=True)
class Total:
    """Sums over the rows that know, None where none does; where nothing is recommended, what is allocated stays."""

    workloads: int
    replicas: int
    gpus: int
    allocated_bytes: int | None
    used_bytes: int | None
    recommended_bytes: int | None
    saved_bytes: int | None
    bankable_per_month: float | None = None
    """None also where prices are in several currencies."""
    currency: str | None = None

    @property
    def saved_share(self) -> float | None:
        """Of what the authors' arguments claim, where it is known."""
        return _share(self.saved_bytes, self.recommended_bytes)

    def to_json(self) -> dict[str, Any]:
        """camelCase, as in the API."""
        return {
            "workloads": self.workloads,
            "replicas": self.replicas,
            "gpus": self.gpus,
            "allocatedBytes": self.allocated_bytes,
            "usedBytes": self.used_bytes,
            "recommendedBytes": self.recommended_bytes,
            "savedBytes": self.saved_bytes,
            "bankablePerMonth": self.bankable_per_month,
            "currency": self.currency,
        }


_LAST = "\uffff"
_AMOUNTS: Mapping[SortColumn, Callable[[Row], float | None]] = {
    SortColumn.REPLICAS: lambda row: row.replicas,
    SortColumn.ALLOCATED: lambda row: row.allocated_bytes,
    SortColumn.USED: lambda row: row.used_bytes,
    SortColumn.RECOMMENDED: lambda row: row.recommended_bytes,
    SortColumn.SAVING: lambda row: row.saved_bytes,
    SortColumn.HIT_RATE: lambda row: row.hit_rate,
}
_TEXTS: Mapping[SortColumn, Callable[[Row], str]] = {
    SortColumn.WORKLOAD: lambda row: row.name,
    SortColumn.MODEL: lambda row: row.model or _LAST,
    SortColumn.POLICY: lambda row: row.policy or _LAST,
    SortColumn.STATE: lambda row: row.state.words,
}


def total_of(rows: Sequence[Row]) -> Total:
    """Their sum."""
    recommended = (row.allocated_bytes if row.recommended_bytes is None else row.recommended_bytes for row in rows)
    currencies = {row.currency for row in rows if row.currency is not None}
    currency = currencies.pop() if len(currencies) == 1 else None
    worths = [row.bankable_per_month for row in rows if row.bankable_per_month is not None]
    return Total(
        workloads=len(rows),
        replicas=_sum(row.replicas for row in rows) or 0,
        gpus=_sum(row.gpus for row in rows) or 0,
        allocated_bytes=_sum(row.allocated_bytes for row in rows),
        used_bytes=_sum(row.used_bytes for row in rows),
        recommended_bytes=_sum(recommended),
        saved_bytes=_sum(row.saved_bytes for row in rows),
        bankable_per_month=None if currency is None else round(sum(worths), 2),
        currency=currency,
    )


def sorted_by(rows: Iterable[Row], column: SortColumn) -> list[Row]:
    """Texts from A to Z, amounts from the largest down, what is not known last; equal ones by workload."""
    by_name = sorted(rows, key=lambda row: (row.name, str(row.key)))
    if column in _TEXTS:
        return sorted(by_name, key=_TEXTS[column])
    amount = _AMOUNTS[column]

    def place(row: Row) -> tuple[bool, float]:
        found = amount(row)
        return found is None, -(found or 0.0)

    return sorted(by_name, key=place)


def row_of(recommendation: VLLMRecommendation) -> Row:
    """What its status says, over all of its pods."""
    reference, status = recommendation.spec.target_ref, recommendation.status
    key = WorkloadKey(recommendation.metadata.namespace or "", reference.workload, reference.container)
    gpus = status.gpus

    def together(of_each_gpu: int | None) -> int | None:
        return gpus * of_each_gpu if gpus and of_each_gpu is not None else None

    measured, estimated, target, savings = status.measured, status.estimated, status.target, status.savings
    money = savings.money if savings is not None else None
    used = None
    if measured is not None:
        used = measured.weights_bytes + measured.overhead_bytes + measured.kv_active_peak_bytes
    hit_rate = measured.hit_rate if measured is not None else estimated.hit_rate if estimated is not None else None
    return Row(
        key=key,
        state=state_of(recommendation),
        replicas=status.replicas,
        gpus=gpus,
        model=measured.model if measured is not None else None,
        policy=status.policy.value if status.policy is not None else None,
        allocated_bytes=together(measured.allocated_bytes if measured is not None else None),
        used_bytes=together(used),
        recommended_bytes=together(target.allocation_bytes if target is not None else None),
        saved_bytes=together(savings.bytes if savings is not None else None),
        hit_rate=hit_rate,
        predicted_hit_rate=target.predicted_hit_rate if target is not None else None,
        kv_bytes=measured.kv_capacity_bytes if measured is not None else None,
        recommended_kv_bytes=target.kv_bytes if target is not None else None,
        bound_by=target.bound_by if target is not None else None,
        bankable_per_month=money.bankable_per_month if money is not None else None,
        currency=money.currency if money is not None else None,
    )


def _sum(amounts: Iterable[int | None]) -> int | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def _share(saved: int | None, recommended: int | None) -> float | None:
    if saved is None or recommended is None or saved + recommended <= 0:
        return None
    return saved / (saved + recommended)
