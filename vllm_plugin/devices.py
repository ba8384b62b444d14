"""How much memory the first device has for this process, before vLLM touches it.

Asked of NVML, as vLLM's own platform does: the CUDA runtime would make a context, and a process that has one cannot
fork its engine. The worker goes by the CUDA runtime's total later, which NVML's differs from in two ways: it is that
of a MIG slice where the card is cut, and the driver's own share is not in it. Where HAMi gives a container a slice,
both answer with the slice.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_CARDS = "CUDA_VISIBLE_DEVICES"
_MIG = "MIG-"


def total_bytes() -> int:
    """Bytes in all, as this process sees the device."""
    platform = sys.modules["vllm.platforms"].current_platform
    if getattr(platform, "device_type", "") == "cpu":
        return int(platform.get_device_total_memory(_memory_node()))
    by_nvml = _bytes_by_nvml(platform)
    return int(platform.get_device_total_memory(0)) if by_nvml is None else by_nvml


def _memory_node() -> int:
    """There the device is the memory node of the first core that this process may use."""
    cpus = getattr(sys.modules.get("vllm.utils.cpu_resource_utils"), "get_allowed_cpu_list", None)
    return int(cpus()[0].numa_node) if cpus is not None else 0


def _bytes_by_nvml(platform: Any) -> int | None:
    """None where there is no NVML."""
    nvml = getattr(sys.modules.get("vllm.platforms.cuda"), "pynvml", None)
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        memory = _memory(nvml, _device(nvml, platform))
        return int(memory.free) + int(memory.used)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _device(nvml: Any, platform: Any) -> Any:
    """NVML's handle of the first device: a slice, where the card is cut."""
    name = os.environ.get(_CARDS, "").split(",")[0]
    if name.startswith(_MIG):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    card = nvml.nvmlDeviceGetHandleByIndex(getattr(platform, "device_id_to_physical_device_id", int)(0))
    try:
        cut = nvml.nvmlDeviceGetMigMode(card)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:
        # Cards that cannot be cut say so in this way.
        cut = False
    # CUDA uses one slice of a card, the first that this container may see.
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, 0) if cut else card


def _memory(nvml: Any, device: Any) -> Any:
    """Free and used bytes; with drivers since 510 without what the driver keeps for itself."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError, TypeError):
        return nvml.nvmlDeviceGetMemoryInfo(device)
