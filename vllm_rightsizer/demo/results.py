"""What the demo found: the figures before and after, and whether they hold what the recommendation promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recommender.api.recommendations import Target
from recommender.api.units import format_bytes
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS
from vllm_rightsizer.demo.readings import PluginReading

_LEAST_LOOKUPS, _LARGEST_SHARE, _LEAST_RECLAIMED = 1.5, 0.6, 0.4
_LOSS_ALLOWED, _PREDICTION_ERROR_ALLOWED = 0.010, 0.005


@dataclass(frozen=True)
class Measurement:
    """One run of the load. Hit rate, preemptions and number of blocks are vLLM's own."""

    pool_blocks: int
    hit_rate: float
    lookup_tokens: float
    preemptions: int
    requests_per_second: float
    usage_p99: float
    plugin: PluginReading

    @property
    def pool_bytes(self) -> int:
        """The pool as vLLM has it: its blocks, times what a block of this model takes."""
        return self.pool_blocks * BLOCK_BYTES

    def to_json(self) -> dict[str, Any]:
        return {
            "kv_pool_blocks": self.pool_blocks,
            "kv_pool_bytes": self.pool_bytes,
            "hit_rate": self.hit_rate,
            "preemptions": self.preemptions,
            "requests_per_second": self.requests_per_second,
        }


@dataclass(frozen=True)
class Check:
    """Something that must hold, and the figures that show whether it does."""

    claim: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Result:
    """The whole demo."""

    before: Measurement
    after: Measurement
    target: Target
    predicted_hit_rate: float
    seconds: float

    @property
    def reclaimed_bytes(self) -> int:
        return self.before.pool_bytes - self.after.pool_bytes

    @property
    def reclaimed_share(self) -> float:
        return self.reclaimed_bytes / self.before.pool_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "predicted_hit_rate": self.predicted_hit_rate,
            "recommended_kv_bytes": self.target.kv_bytes,
            "reclaimed_bytes": self.reclaimed_bytes,
            "reclaimed_share": self.reclaimed_share,
            "seconds": self.seconds,
        }

    def checks(self) -> list[Check]:
        """What makes the demo a success."""
        before, after, target = self.before, self.after, self.target
        looked_up = before.lookup_tokens / (before.pool_blocks * BLOCK_TOKENS)
        share = target.kv_bytes / before.pool_bytes
        error = after.hit_rate - self.predicted_hit_rate
        loss = before.hit_rate - after.hit_rate
        return [
            Check(
                "the plugin's pool is vLLM's own, to the byte",
                all(one.plugin.pool_bytes == one.pool_bytes for one in (before, after)),
                ", ".join(f"{one.plugin.pool_bytes:,} = {one.pool_bytes:,}" for one in (before, after)),
            ),
            Check(
                "the second pool has the recommended number of blocks",
                after.pool_blocks == target.kv_blocks and after.pool_bytes == target.kv_bytes,
                f"{after.pool_blocks:,} = {target.kv_blocks:,}",
            ),
            Check(
                f"the load looks up at least {_LEAST_LOOKUPS} times the pool",
                looked_up >= _LEAST_LOOKUPS,
                f"{looked_up:.2f} times",
            ),
            Check(
                f"the right size lies between the floor and {_LARGEST_SHARE:.0%} of the pool",
                before.plugin.floor_bytes < target.kv_bytes <= _LARGEST_SHARE * before.pool_bytes,
                f"{format_bytes(before.plugin.floor_bytes)} < {format_bytes(target.kv_bytes)} = {share:.0%}",
            ),
            Check(
                "the hit rate after is within 1 point of the one before",
                abs(loss) <= _LOSS_ALLOWED,
                f"{-100 * loss:+.2f} points",
            ),
            Check(
                "the hit rate after is within 0.5 points of the prediction",
                abs(error) <= _PREDICTION_ERROR_ALLOWED,
                f"{100 * error:+.2f} points",
            ),
            Check(
                "no request was preempted",
                before.preemptions == after.preemptions == 0,
                f"{before.preemptions} before, {after.preemptions} after",
            ),
            Check(
                f"at least {_LEAST_RECLAIMED:.0%} of the pool is given back",
                self.reclaimed_share >= _LEAST_RECLAIMED,
                f"{self.reclaimed_share:.1%}",
            ),
        ]
