"""Which workload is meant: by its name, with its kind as kubectl takes it, or by its VLLMRecommendation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

from recommender.api.object_store import Raw
from recommender.api.workloads import WorkloadRef
from recommender.keys import WorkloadKey
from vllm_rightsizer.errors import UsageError

_SHORT = {
    "CronJob": "cj",
    "DaemonSet": "ds",
    "Deployment": "deploy",
    "InferenceService": "isvc",
    "LeaderWorkerSet": "lws",
    "Pod": "po",
    "ReplicaSet": "rs",
    "Rollout": "ro",
    "StatefulSet": "sts",
}
_RECOMMENDATIONS = ("vllmrecommendation", "vllmrecommendations", "vllmrec")


@dataclass(frozen=True)
class Known:
    """A workload that could be meant, and the name of its VLLMRecommendation, None where it has none."""

    key: WorkloadKey
    recommendation: str | None = None

    @property
    def title(self) -> str:
        """As it can be typed; a namespace goes with `-n`."""
        return f"{self.key.workload.kind}/{self.key.workload.name}/{self.key.container}"


def known_of(recommendations: Iterable[Raw]) -> list[Known]:
    """The workloads of VLLMRecommendations, whether these can be understood or not."""
    found = []
    for raw in recommendations:
        target, metadata = (raw.get("spec") or {}).get("targetRef") or {}, raw["metadata"]
        group, kind, name, container = (str(target.get(part, "")) for part in ("group", "kind", "name", "container"))
        key = WorkloadKey(metadata.get("namespace") or "", WorkloadRef(group, kind, name), container)
        found.append(Known(key, metadata["name"]))
    return found


@dataclass(frozen=True)
class Wanted:
    """`NAME`, `KIND/NAME` or `KIND/NAME/CONTAINER`, as it was typed."""

    name: str
    kind: str | None = None
    container: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `UsageError`."""
        parts = text.split("/")
        if not all(parts) or len(parts) > 3:
            raise UsageError(f"{text} names no workload: give NAME, KIND/NAME or KIND/NAME/CONTAINER")
        if len(parts) == 1:
            return cls(parts[0])
        return cls(parts[1], parts[0], parts[2] if len(parts) == 3 else None)

    def means(self, known: Known) -> bool:
        """Whether it could be that one."""
        own_object = self.kind is None or self.kind.lower().partition(".")[0] in _RECOMMENDATIONS
        if own_object and self.container is None and self.name == known.recommendation:
            return True
        return (
            self.name == known.key.workload.name
            and (self.kind is None or is_of(self.kind, known))
            and self.container in (None, known.key.container)
        )


def is_of(kind: str, known: Known) -> bool:
    """Whether `kind`, as kubectl takes it, is the workload's: the name, the plural or the short name, in any case, with
    the group or without."""
    own = known.key.workload.kind
    return kind.lower().partition(".")[0] in (own.lower(), f"{own.lower()}s", _SHORT.get(own))


def chosen(text: str, known: Sequence[Known], namespace: str | None) -> list[Known]:
    """Those of `known`, which are all of `namespace` (None: of all), that are meant: one at least. Raises
    `UsageError`, which names similar ones."""
    wanted = Wanted.parse(text)
    found = [one for one in known if wanted.means(one)]
    if found:
        return found
    where = f" in namespace {namespace}" if namespace else ""
    listing = f"`vllm-rightsizer list{f' -n {namespace}' if namespace else ''}`"
    if not known:
        raise UsageError(
            f"there is no workload {text}{where}, nor any other with a recommendation: {listing} says what to do, and "
            "`vllm-rightsizer list -A` shows those of all namespaces"
        )
    similar = _similar(wanted, known)
    meant = f"did you mean {' or '.join(similar)}? " if similar else ""
    raise UsageError(f"no workload {text}{where} has a recommendation: {meant}{listing} shows all that have one")


def one_of(text: str, known: Sequence[Known], namespace: str) -> Known:
    """The one of `namespace` that is meant. Raises `UsageError`, also where it could be several."""
    found = chosen(text, known, namespace)
    if len(found) > 1:
        titles = " or ".join(sorted(one.title for one in found))
        raise UsageError(f"{text} could be several workloads of namespace {namespace}: say {titles}")
    return found[0]


def _similar(wanted: Wanted, known: Iterable[Known]) -> list[str]:
    """Names that look alike; of one that is there under another kind, that one."""
    by_name: dict[str, set[str]] = {}
    for one in known:
        workload = one.key.workload
        title = f"{workload.kind}/{workload.name}" if wanted.kind is not None else workload.name
        by_name.setdefault(workload.name, set()).add(title)
    close = get_close_matches(wanted.name, list(by_name), n=3, cutoff=0.6)
    parts = [name for name in by_name if wanted.name in name and name not in close]
    return sorted(title for name in (*close, *parts)[:3] for title in by_name[name])
