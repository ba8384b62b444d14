"""What the emitters have in common: what they are asked, what they answer, and the words for both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recommender.api.shares import Sees, Share, share_of
from recommender.api.sharing import WHOLE_GPU, Edit, Place, amounts_of, value_at
from webhook.detection import Engine
from webhook.patches import Raw


@dataclass(frozen=True)
class Asked:
    """What one engine is to get on each of its GPUs."""

    engine: Engine
    allocation_bytes: int
    """What vLLM claims of a GPU."""
    largest_bytes: int
    """The largest GPU on which the workload was seen; 0 where nobody knows."""
    recommendation: str
    is_first: bool
    """Whether it is the first container of the pod."""
    claim_template: str | None
    """The ResourceClaimTemplate that is there for the recommendation."""

    @property
    def gpus(self) -> int:
        """Whole GPUs that the container asks for."""
        amount = str(amounts_of(self.engine.container).get(WHOLE_GPU, "0"))
        return int(amount) if amount.isdecimal() else 0

    def share(self, emitter: str) -> Share:
        """What is asked of each GPU in the words of `emitter`, which must be one."""
        share = share_of(
            emitter,
            self.allocation_bytes,
            self.gpus,
            container=self.engine.name,
            is_first=self.is_first,
            recommendation=self.recommendation,
        )
        if share is None:
            raise ValueError(f"{emitter} is no emitter")
        return share


@dataclass(frozen=True)
class Emission:
    """The edits that put it in the scheduler's words."""

    edits: tuple[Edit, ...]
    requests: tuple[tuple[str, int], ...]
    """Container and bytes of each of its GPUs."""
    sees: Sees
    shown: tuple[str, ...]
    """As people read it."""

    @property
    def largest_bytes(self) -> int:
        return max(amount for _, amount in self.requests)

    def request_bytes(self, container: str) -> int:
        return dict(self.requests)[container]


@dataclass(frozen=True)
class Declined:
    """Why nothing is asked of the scheduler: it would refuse the pod, or let it wait for ever.

    `mistaken`: somebody wrote something that is none.
    """

    reason: str
    mistaken: bool = False


def resource_edits(pod: Raw, engine: Engine, amounts: dict[str, str | None]) -> list[Edit]:
    """Edits that set extended resources of `engine`, or take them out; limits and requests alike."""
    return [
        edit(pod, engine.name, ("resources", kind, name), amount)
        for name, amount in amounts.items()
        for kind in ("limits", "requests")
        if amount is not None or value_at(pod, engine.name, ("resources", kind, name)) is not None
    ]


def edit(pod: Raw, container: str | None, place: Place, now: Any) -> Edit:
    """`now` at `place`, with what stands there."""
    return Edit(container, place, now, value_at(pod, container, place))


def scheduler_edits(pod: Raw, scheduler: str) -> list[Edit] | Declined:
    """Edits that hand `pod` to `scheduler`; declined where it has another one already."""
    present = pod["spec"].get("schedulerName")
    if present == scheduler:
        return []
    if present not in (None, "", "default-scheduler"):
        return Declined(f"the pod's scheduler is {present}, not {scheduler}")
    return [edit(pod, None, ("spec", "schedulerName"), scheduler)]


def only_one(asked: Sequence[Asked], scheduler: str) -> Asked | Declined:
    """The pod's only engine; these schedulers share GPUs out to one container of a pod."""
    if len(asked) > 1:
        return Declined(f"{scheduler} shares GPUs out to one container of a pod, and {len(asked)} of this one run vLLM")
    return asked[0]


def is_sidecar(asked: Asked) -> bool:
    return asked.engine.path[1] == "initContainers"


def containers_of(pod: Raw) -> Iterable[Raw]:
    spec = pod["spec"]
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
