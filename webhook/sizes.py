"""Which sizes an engine is to start with, in what form, and why not where it is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recommender.api.automation import Automation, flag
from recommender.api.diffs import size_diff
from recommender.api.fingerprints import fingerprint, product_of
from recommender.api.shares import utilization_seen
from recommender.api.sizing_flags import FIRST_VERSION_WITH_KV_BYTES, parse_version
from vllm_plugin.names import (
    ANNOTATION_AUTO,
    ENV_ALLOCATION_BYTES,
    ENV_GPU_MEMORY_UTILIZATION,
    ENV_KV_BYTES,
)
from webhook.accelerators import other_meaning
from webhook.argv import NUM_GPU_BLOCKS_OVERRIDE, TERMINATOR, explicit_kv_option, sizing_flags, without
from webhook.detection import Engine, variable
from webhook.emitters.requests import Emission
from webhook.knowledge import Recommended
from webhook.launches import Form
from webhook.patches import Raw

OVERRIDES = (ENV_KV_BYTES, ENV_GPU_MEMORY_UTILIZATION, ENV_ALLOCATION_BYTES)
"""The variables by which the plugin sets sizes in process."""


@dataclass(frozen=True)
class Sizes:
    """What is written into a container: flags at the end of vLLM's arguments, or variables that the plugin applies."""

    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> list[str]:
        """As people and the annotation read it."""
        return [*self.flags, *(f"{name}={value}" for name, value in self.environment)]

    def diff(self, engine: Engine, previous: Sequence[str], shares: Sequence[str] = ()) -> list[str]:
        """What changes in `engine`, which an earlier pass of ours gave `previous`."""
        return size_diff(without(engine.arguments.vector, previous), self.flags, self.environment, shares)


@dataclass(frozen=True)
class Skipped:
    """The engine's arguments are left alone. `warns`: somebody can do something about it."""

    reason: str
    warns: bool = False


def why_not(
    pod: Raw, engine: Engine, recommended: Recommended, automation: Automation, previous: Sequence[str]
) -> Skipped | None:
    """Why `engine` is not to start with what is recommended; None where it is.

    `previous`: what an earlier pass of ours appended to its arguments.
    """
    unfit = unfit_reason(recommended)
    if unfit is not None:
        return Skipped(unfit)
    if recommended.fingerprint != fingerprint(pod, engine.name):
        return Skipped("image, arguments or GPUs differ from those that the recommendation was made for")
    kvcached = variable(engine.container, "ENABLE_KVCACHED")
    if kvcached is not None and flag(str(kvcached.get("value"))):
        return Skipped("kvcached sizes this container's KV cache while it runs")
    meaning = other_meaning(engine.container)
    if meaning is not None:
        return Skipped(f"{engine.name} runs on the CPU, where {meaning}")
    fixed = fixed_by_user(engine, previous)
    if fixed is not None and automation.enabled_source not in ("pod", "workload"):
        return Skipped(
            f'{engine.name} sets {fixed} itself; {ANNOTATION_AUTO}: "true" on the workload overrides it', True
        )
    return None


def unfit_reason(recommended: Recommended) -> str | None:
    """Why nobody's pods are to start with this recommendation, whatever they are; None where some may."""
    if recommended.paused:
        return f"recommendation {recommended.name} is paused"
    if recommended.degraded is not None:
        return f"recommendation {recommended.name} is withdrawn: Degraded ({recommended.degraded})"
    if not recommended.has_target:
        return f"recommendation {recommended.name} has no target yet"
    return None


def sizes_for(
    pod: Raw, engine: Engine, recommended: Recommended, previous: Sequence[str], emission: Emission | None
) -> Sizes:
    """The recommended sizes in the form that reaches `engine`; `emission` says how much of its GPUs it is given."""
    version = parse_version(recommended.vllm_version or "")
    takes_bytes = version is not None and version >= FIRST_VERSION_WITH_KV_BYTES
    kv_bytes = recommended.kv_bytes if takes_bytes and recommended.kv_bytes > 0 else None
    utilization = _utilization(pod, engine, recommended, emission)
    if _takes_flags(engine, fixed_by_user(engine, previous)) and utilization is not None:
        return Sizes(flags=_flags(engine, kv_bytes, utilization, previous))
    return Sizes(environment=_environment(kv_bytes, utilization, recommended.allocation_bytes))


def given(engine: Engine, kv_bytes: int | None, utilization: str | None) -> Sizes:
    """Sizes that a person asks for by hand, in the form that reaches `engine`."""
    if _takes_flags(engine, fixed_by_user(engine, ())):
        return Sizes(flags=_flags(engine, kv_bytes, utilization, ()))
    return Sizes(environment=_environment(kv_bytes, utilization, None))


def fixed_by_user(engine: Engine, previous: Sequence[str]) -> str | None:
    """The option or variable by which the author of the pod fixed the KV cache; None where that is left to vLLM.

    `previous`: what an earlier pass of ours wrote, which does not count.
    """
    option = explicit_kv_option(without(engine.arguments.vector, previous))
    if option is not None or previous:
        return option
    return ENV_KV_BYTES if variable(engine.container, ENV_KV_BYTES) is not None else None


def _utilization(pod: Raw, engine: Engine, recommended: Recommended, emission: Emission | None) -> str | None:
    """The fraction of what the process will see as its device's total; None where that is not known beforehand."""
    # A fraction of a card means the same on every node only where all GPUs have one size and the pod keeps to them.
    of_card = recommended.utilization if recommended.one_gpu_size and product_of(pod) else None
    if emission is None:
        return of_card
    request = emission.request_bytes(engine.name)
    return utilization_seen(emission.sees, recommended.allocation_bytes, request, of_card)


def _flags(engine: Engine, kv_bytes: int | None, utilization: str | None, previous: Sequence[str]) -> tuple[str, ...]:
    flags = sizing_flags(kv_bytes, utilization)
    if flags and engine.launch.behind_separator and TERMINATOR not in without(engine.arguments.vector, previous):
        return (TERMINATOR, *flags)
    return flags


def _takes_flags(engine: Engine, fixed: str | None) -> bool:
    """vLLM sets both flags aside where it is told a number of blocks; only the plugin can undo that, in process."""
    return engine.launch.form is Form.ARGUMENTS and fixed != NUM_GPU_BLOCKS_OVERRIDE


def _environment(
    kv_bytes: int | None, utilization: str | None, allocation_bytes: int | None
) -> tuple[tuple[str, str], ...]:
    pairs = []
    if kv_bytes is not None:
        pairs.append((ENV_KV_BYTES, str(kv_bytes)))
    if utilization is not None:
        pairs.append((ENV_GPU_MEMORY_UTILIZATION, utilization))
    elif allocation_bytes is not None:
        pairs.append((ENV_ALLOCATION_BYTES, str(allocation_bytes)))
    return tuple(pairs)
