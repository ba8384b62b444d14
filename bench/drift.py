"""Traffic that changes: the judge's workloads put together, and how soon a watched size is back within the SLO.

A quarter into the judged part of a workload
- `x2`, `x3`: comes as much again, or twice as much, from other users: what came one or two days (half the observed
  part) before, under other names, so that no block is shared;
- `new`: another workload's requests come besides, as from a new application;
- `half`: half the replicas go: until then the pod saw every other request, from then on it sees all.

The recommender watches as with `--controller`. Recovered is when the SLO holds over all the rest of the judged part,
the requests that came since taken together, against a pool of the default size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases import Case, Caution
from bench.controller import Judged, control
from bench.referee import BLOCK_TOKENS

AFTER = 0.25
"""When the traffic changes, as a share of the judged part."""
RECOVERY_SECONDS = 2 * 3600.0
"""How long it may take to be back within the SLO."""
_STEP_SECONDS = 1800.0


@dataclass(frozen=True)
class Drift:
    """A workload whose traffic changes at `moment`, in seconds."""

    case: Case
    moment: float


@dataclass(frozen=True)
class Recovery:
    """How a watched size followed. `hours` from the change until the SLO holds; None where it never does."""

    judged: Judged
    hours: float | None
    restarts_after: int


def drifts(case: Case, others: Sequence[Case]) -> Iterator[Drift]:
    """All changes for one workload; `others` are those that a new application may come from."""
    work, end = case.referee.workload, case.end_seconds
    moment = case.observe_seconds + AFTER * (end - case.observe_seconds)
    own, day = _of(work), case.observe_seconds / 2
    again = [own.between(moment - days * day, end - days * day).later(days * day) for days in (1, 2)]
    yield _drift(case, "x2", moment, _together([own, again[0]]))
    yield _drift(case, "x3", moment, _together([own, *again]))
    other = _another(case, others)
    if other is not None:
        added = _of(other).between(moment, end)
        yield _drift(case, "new", moment, _together([own, added]), int(other.max_model_len))
    seen = (own.t >= moment) | (np.arange(len(own.t)) % 2 == 0)
    yield _drift(case, "half", moment, own.taken(np.flatnonzero(seen)))


def recovery(drift: Drift, caution: Caution, loss_budget: float) -> Recovery:
    """Watch the workload while its traffic changes."""
    case, end = drift.case, drift.case.end_seconds
    judged = control(case.referee, case.policy(caution, loss_budget))
    starts = np.arange(drift.moment, end, _STEP_SECONDS).tolist()
    held = (start for start in starts if not case.referee.breaches_between(judged.pieces, start, end))
    since = next(held, None)
    return Recovery(
        judged,
        hours=None if since is None else (since - drift.moment) / 3600,
        restarts_after=sum(at > drift.moment for at, _ in judged.changes),
    )


@dataclass(frozen=True)
class _Requests:
    """Requests in order of arrival, as a workload of the judge has them; numbers of blocks are below `contents`."""

    t: NDArray[Any]
    inl: NDArray[Any]
    outl: NDArray[Any]
    off: NDArray[Any]
    ids: NDArray[Any]
    contents: int

    def between(self, start: float, end: float) -> _Requests:
        """Those that come in [start, end)."""
        return self.taken(np.flatnonzero((self.t >= start) & (self.t < end)))

    def later(self, seconds: float) -> _Requests:
        return replace(self, t=self.t + seconds)

    def taken(self, places: NDArray[Any]) -> _Requests:
        """These of them, in this order."""
        lengths = np.diff(self.off)[places]
        ends = lengths.cumsum()
        blocks = np.arange(int(lengths.sum())) + np.repeat(self.off[places] - (ends - lengths), lengths)
        off = np.concatenate(([0], ends)).astype(self.off.dtype)
        return _Requests(self.t[places], self.inl[places], self.outl[places], off, self.ids[blocks], self.contents)


def _of(work: Any) -> _Requests:
    return _Requests(work.t, work.inl, work.outl, work.off, work.ids, int(work.n_content))


def _together(parts: Sequence[_Requests]) -> _Requests:
    """All of them by the time of their arrival; blocks of different parts are different blocks."""
    contents = np.cumsum([0, *(part.contents for part in parts)]).tolist()
    blocks = np.cumsum([0, *(len(part.ids) for part in parts)]).tolist()
    joined = _Requests(
        t=np.concatenate([part.t for part in parts]),
        inl=np.concatenate([part.inl for part in parts]),
        outl=np.concatenate([part.outl for part in parts]),
        off=np.concatenate([[0], *(part.off[1:] + before for part, before in zip(parts, blocks, strict=False))]),
        ids=np.concatenate([part.ids + first for part, first in zip(parts, contents, strict=False)]),
        contents=contents[-1],
    )
    return joined.taken(np.argsort(joined.t, kind="stable"))


def _drift(case: Case, name: str, moment: float, requests: _Requests, max_model_len: int = 0) -> Drift:
    before = case.referee.workload
    work = copy.copy(before)
    work.name = f"{case.name}+{name}"
    work.t, work.inl, work.outl, work.n_content = requests.t, requests.inl, requests.outl, requests.contents
    # As the judge's compiled simulator was given them before.
    work.off, work.ids = requests.off.astype(before.off.dtype), requests.ids.astype(before.ids.dtype)
    work.max_model_len = max(int(before.max_model_len), max_model_len)
    work.floor = work.max_model_len // BLOCK_TOKENS + 1
    return Drift(Case(work.name, case.referee.of(work)), moment)


def _another(case: Case, others: Sequence[Case]) -> Any:
    """A workload of another kind, the next one in the folder's order; None where there is none."""
    places = [place for place, other in enumerate(others) if other.name == case.name]
    first = places[0] + 1 if places else 0
    for other in (*others[first:], *others[:first]):
        work = other.referee.workload
        if _kind(other.name) != _kind(case.name) and work.t[-1] > case.observe_seconds:
            return work
    return None


def _kind(name: str) -> str:
    """`conv32k-8b-s201` is of the kind `conv32k-8b`."""
    return name.rpartition("-")[0]
