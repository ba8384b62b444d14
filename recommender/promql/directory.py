"""Which pod is which: those that live are known from the API server, those that are gone from what was said of them.

A series says a pod's name alone. Pods of a StatefulSet bear one name after the other, and with hostNetwork one pod's
page may stand at another's address: the page's own `pod_uid` decides, where it has one, among the pods that are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recommender.api.workloads import WorkloadRef
from recommender.discovery import Pod
from recommender.keys import WorkloadKey
from recommender.promql.pages import Target
from recommender.samples import RefusedSampleError


@dataclass(frozen=True)
class KnownPod:
    """A container of a pod that had the plugin, whether it is still there or not."""

    key: WorkloadKey
    name: str
    uid: str
    fingerprint: str
    created_at: float = 0.0
    """In seconds since the epoch; 0 where nobody knows."""

    @classmethod
    def of(cls, pod: Pod) -> KnownPod:
        return cls(pod.key, pod.name, pod.uid, pod.fingerprint, pod.created_at)


class Directory:
    """All pods known at one time."""

    def __init__(self, living: Iterable[KnownPod], gone: Iterable[KnownPod] = ()) -> None:
        """Where both tell of a pod, `living` holds: it comes from the API server."""
        self._of_name: dict[tuple[str, str], dict[tuple[str, str], KnownPod]] = {}
        self._living: set[tuple[str, str]] = set()
        for pod in living:
            self._add(pod)
            self._living.add((pod.uid, pod.key.container))
        for pod in gone:
            if (pod.uid, pod.key.container) not in self._living:
                self._add(pod)

    def find(self, target: Target, page_uid: str, before: float) -> KnownPod | None:
        """The pod that showed a page with that UID, empty where it has none, at some time before that moment; None
        where nobody knows the pod.

        Raises `RefusedSampleError` where the page is another pod's, or may be one of several.
        """
        of_name = self._of_name.get((target.namespace, target.pod))
        found = [pod for pod in (of_name or {}).values() if pod.created_at < before]
        if not found:
            return None
        if page_uid:
            found = [pod for pod in found if pod.uid == page_uid]
            if not found:
                raise RefusedSampleError(
                    f"the series of pod {target.namespace}/{target.pod} are those of another pod (UID {page_uid}): "
                    "with hostNetwork, pods of one node need a port each"
                )
        if len(found) > 1:
            living = [pod for pod in found if (pod.uid, pod.key.container) in self._living]
            found = living or found
        if len(found) > 1:
            found = [pod for pod in found if pod.key.container == target.container]
        if len(found) != 1:
            raise RefusedSampleError(
                f"the series of {target.namespace}/{target.pod} may be those of several containers or pods: "
                "service discovery should write the container's name, and the plugin its pod's UID"
            )
        return found[0]

    def _add(self, pod: KnownPod) -> None:
        of_name = self._of_name.setdefault((pod.key.namespace, pod.name), {})
        of_name[pod.uid, pod.key.container] = pod


_NAMESPACE, _POD, _UID = "target_namespace", "target_pod", "target_uid"
_WORKLOAD = ("owner_group", "owner_kind", "owner_name", "target_container", "fingerprint")
POD_LABELS = (_NAMESPACE, _POD, _UID, *_WORKLOAD)
"""None of them is one that service discovery writes: whoever scrapes the recommender, they stay as they are."""


def labels_of(pod: KnownPod) -> tuple[str, ...]:
    """The values of `POD_LABELS`."""
    owner = pod.key.workload
    return (
        pod.key.namespace,
        pod.name,
        pod.uid,
        owner.group,
        owner.kind,
        owner.name,
        pod.key.container,
        pod.fingerprint,
    )


def pod_of(labels: Mapping[str, str]) -> KnownPod | None:
    """What `labels_of` told; None where it is no such series."""
    namespace, name, uid, group, kind, owner, container, fingerprint = (labels.get(one, "") for one in POD_LABELS)
    if not (namespace and name and kind and owner and fingerprint):
        return None
    return KnownPod(WorkloadKey(namespace, WorkloadRef(group, kind, owner), container), name, uid, fingerprint)
