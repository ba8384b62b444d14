"""The hit-rate curve as a picture: where today's pool lies, where the recommended one, and where usage would cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, PercentFormatter

from recommender.api.units import format_bytes
from vllm_rightsizer.demo.results import Result

_MIB = 1 << 20
_CURVE, _BEFORE, _AFTER, _USAGE = "#2563eb", "#64748b", "#059669", "#dc2626"
_INK, _PAPER, _GRID = "#1e293b", "#ffffff", "#e2e8f0"
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans", "sans-serif"],
    "font.size": 11,
    # Text stays text: sharp at any size, and searchable.
    "svg.fonttype": "none",
    "svg.hashsalt": "vllm-rightsizer",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def draw(result: Result, path: Path) -> None:
    """Write the picture as SVG. It has a white ground of its own, so that dark pages show it as well as light ones."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 5), facecolor=_PAPER, layout="constrained")
        _draw(axes, result)
        figure.savefig(path, facecolor=_PAPER, metadata={"Date": None})
        plt.close(figure)


def _draw(axes: Any, result: Result) -> None:
    before, after, curve = result.before, result.after, result.before.plugin.curve
    floor = float(before.plugin.floor_bytes)
    usage = max(before.usage_p99 * before.pool_bytes, floor)
    cut = "p99 of usage, at least\nwhat vLLM starts with" if usage == floor else "p99 of usage"
    left, right = usage / 2, before.pool_bytes * 4
    shown = [(size, rate) for size, rate in zip(curve.kv_bytes, curve.hit_rates, strict=True) if left <= size <= right]
    top = max(rate for _, rate in shown) * 1.22
    axes.plot(*zip(*shown, strict=True), color=_CURVE, linewidth=2.5, zorder=3, label="predicted from one run")
    axes.fill_between(*zip(*shown, strict=True), color=_CURVE, alpha=0.07, zorder=1)

    def mark(size: float, rate: float, color: str, text: str, align: str) -> None:
        axes.axvline(size, color=color, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
        shift = 5 if align == "left" else -5
        axes.annotate(
            text, (size, top), xytext=(shift, -4), textcoords="offset points", color=color, ha=align, va="top",
            fontsize=10, fontweight="bold", linespacing=1.4,
        )  # fmt: skip
        axes.plot([size], [rate], "o", markersize=9, color=color, markeredgecolor=_PAPER, markeredgewidth=1.5, zorder=4)

    mark(usage, curve.at(usage), _USAGE, f"{cut}\n{format_bytes(usage)}\n{curve.at(usage):.1%} (curve)", "left")
    mark(after.pool_bytes, after.hit_rate, _AFTER, _words("recommended", after.pool_bytes, after.hit_rate), "right")
    mark(before.pool_bytes, before.hit_rate, _BEFORE, _words("today", before.pool_bytes, before.hit_rate), "left")
    axes.axvspan(after.pool_bytes, before.pool_bytes, color=_AFTER, alpha=0.08, zorder=0)
    middle = (after.pool_bytes * before.pool_bytes) ** 0.5
    axes.annotate(
        f"given back\n{format_bytes(result.reclaimed_bytes)}",
        (middle, top * 0.12), color=_AFTER, ha="center", fontsize=11, fontweight="bold",
    )  # fmt: skip

    axes.set_xscale("log", base=2)
    axes.set_xlim(left, right)
    axes.set_ylim(0, top)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _round_size(size)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("KV cache pool")
    axes.set_ylabel("prefix-cache hit rate")
    axes.set_title("Hit rate by pool size: predicted from one run, measured in two", loc="left", fontweight="bold")
    axes.grid(color=_GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)


def _words(name: str, size: float, hit_rate: float) -> str:
    return f"{name}\n{format_bytes(size)}\n{hit_rate:.1%} (measured)"


def _round_size(size: float) -> str:
    return f"{size / _MIB:.0f} MiB" if size < 1024 * _MIB else f"{size / 1024 / _MIB:.0f} GiB"
