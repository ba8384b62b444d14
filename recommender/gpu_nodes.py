"""What the labels of a Node say of its GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from recommender.api.object_store import Raw
from recommender.api.sharing import WHOLE_GPU

PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
COUNT_LABEL = "nvidia.com/gpu.count"
GKE_LABEL = "cloud.google.com/gke-accelerator"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
REGION_LABEL = "topology.kubernetes.io/region"

_MEBIBYTE = 1 << 20
_SHARED = re.compile(r"-SHARED$")
_SLICED = re.compile(r"-MIG-[^-]+$")


@dataclass(frozen=True)
class GpuNode:
    """A Node with GPUs of one product. `memory_bytes` of a GPU is 0 where no label tells it."""

    name: str
    product: str = ""
    gpus: int = 0
    memory_bytes: int = 0
    instance_type: str = ""
    region: str = ""
    is_sliced: bool = False
    """MIG has cut its GPUs: what the labels count are slices."""


def gpu_node(raw: Raw) -> GpuNode:
    """By the labels that NVIDIA's feature discovery and the clouds set; GPUs also by what the Node can hold."""
    metadata = raw["metadata"]
    labels: dict[str, str] = metadata.get("labels") or {}
    product = labels.get(PRODUCT_LABEL) or labels.get(GKE_LABEL) or ""
    capacity = ((raw.get("status") or {}).get("capacity") or {}).get(WHOLE_GPU)
    bare = _SHARED.sub("", product)
    return GpuNode(
        name=metadata["name"],
        product=_SLICED.sub("", bare),
        # Shared in time, a Node holds more of the resource than it has cards.
        gpus=_whole(labels.get(COUNT_LABEL)) or _whole(capacity),
        memory_bytes=_whole(labels.get(MEMORY_LABEL)) * _MEBIBYTE,
        instance_type=labels.get(INSTANCE_TYPE_LABEL) or "",
        region=labels.get(REGION_LABEL) or "",
        is_sliced=bool(_SLICED.search(bare)),
    )


def gpu_nodes(raws: Iterable[Raw]) -> dict[str, GpuNode]:
    """All Nodes by name."""
    return {node.name: node for node in map(gpu_node, raws)}


def _whole(text: object) -> int:
    return int(str(text)) if str(text).isdecimal() else 0
