"""Which engines fit together on which GPUs: vector bin packing by best fit decreasing. Pure.

A GPU has room for so much of several things at once, memory and places; the ranks of one engine lie on different GPUs
of one node. Several orders are tried, and whatever assignment stands already: the best one is taken, so that a plan
never needs more GPUs than are in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = tuple[int, ...]
"""An amount of each thing that a GPU has, always in one order."""

CardKey = tuple[str, int]
"""Node, and number of the GPU on it."""

_Numbers = NDArray[np.intp]
_Shares = NDArray[np.float64]
_FIRST, _SECOND = 1e6, 1e3
"""Weights of what is decided first: of the slack, ranks times things at the most, there is less."""


@dataclass(frozen=True)
class Tenant:
    """A pod: `ranks` GPUs of one node, and `need` of each."""

    name: str
    ranks: int
    need: Vector
    home: str
    """Its node."""
    stays: bool = False
    """Whether it keeps to its node."""


@dataclass(frozen=True)
class Host:
    """A node with `cards` GPUs of one kind, each with `room`."""

    name: str
    cards: int
    room: Vector


@dataclass(frozen=True)
class Packing:
    """The GPUs of each tenant."""

    cards: Mapping[str, tuple[CardKey, ...]]

    @cached_property
    def tenants(self) -> Mapping[CardKey, tuple[str, ...]]:
        """The tenants of each GPU in use, by name."""
        found: dict[CardKey, list[str]] = {}
        for name, cards in sorted(self.cards.items()):
            for card in cards:
                found.setdefault(card, []).append(name)
        return {card: tuple(names) for card, names in found.items()}

    @property
    def used(self) -> set[CardKey]:
        return set(self.tenants)

    @property
    def hosts(self) -> set[str]:
        return {host for host, _ in self.tenants}


def stay(tenants: Sequence[Tenant], hosts: Sequence[Host]) -> tuple[Packing, tuple[str, ...]]:
    """Everybody on the own node, and who does not fit there."""
    state = _State(hosts)
    left = [
        tenant.name
        for tenant in sorted(tenants, key=_by_size, reverse=True)
        if not state.place(tenant, only=tenant.home)
    ]
    return state.packing, tuple(left)


def pack(tenants: Sequence[Tenant], hosts: Sequence[Host], standing: Packing) -> Packing | None:
    """The assignment with the fewest GPUs, then the fewest nodes, then the fewest moves that was found.

    `standing`: the one that holds now; it is taken where nothing better is found and it still fits. None where nobody
    found room for all.
    """
    found = [_greedy(tenants, hosts, order) for order in (_by_size, _by_ranks, _by_volume)]
    if fits(standing, tenants, hosts):
        found.append(standing)
    homes = {tenant.name: tenant.home for tenant in tenants}

    def cost(packing: Packing) -> tuple[int, int, int]:
        moved = sum(cards[0][0] != homes[name] for name, cards in packing.cards.items() if cards)
        return len(packing.used), len(packing.hosts), moved

    return min((packing for packing in found if packing is not None), key=cost, default=None)


def fits(packing: Packing, tenants: Iterable[Tenant], hosts: Iterable[Host]) -> bool:
    """Whether `packing` is one of exactly these tenants, and no GPU holds more than it has."""
    rooms = {host.name: host for host in hosts}
    taken: dict[CardKey, Vector] = {}
    by_name = {tenant.name: tenant for tenant in tenants}
    if by_name.keys() != packing.cards.keys():
        return False
    for name, cards in packing.cards.items():
        tenant = by_name[name]
        if len(set(cards)) != tenant.ranks or len({host for host, _ in cards}) > 1:
            return False
        if tenant.stays and any(host != tenant.home for host, _ in cards):
            return False
        for card in cards:
            if card[0] not in rooms or not 0 <= card[1] < rooms[card[0]].cards:
                return False
            taken[card] = tuple(map(sum, zip(taken.get(card, (0,) * len(tenant.need)), tenant.need, strict=True)))
    return all(_within(need, rooms[host].room) for (host, _), need in taken.items())


def least_cards(tenants: Sequence[Tenant], hosts: Sequence[Host]) -> int:
    """No assignment has fewer GPUs: the ranks of the widest engine, and the sum of each thing over the most that a GPU
    has of it."""
    if not tenants or not hosts:
        return 0
    bounds = [max(tenant.ranks for tenant in tenants)]
    for thing in range(len(hosts[0].room)):
        total = sum(tenant.ranks * tenant.need[thing] for tenant in tenants)
        most = max(host.room[thing] for host in hosts)
        bounds.append(-(-total // most) if most else 0)
    return max(bounds)


def _greedy(
    tenants: Sequence[Tenant], hosts: Sequence[Host], order: Callable[[Tenant], tuple[int, ...]]
) -> Packing | None:
    state = _State(hosts)
    # Who stays takes its place before anybody comes to it.
    for tenant in sorted(tenants, key=lambda one: (one.stays, *order(one)), reverse=True):
        if not state.place(tenant, only=tenant.home if tenant.stays else None):
            return None
    return state.packing


class _State:
    """What is left of each GPU while tenants are placed one after the other: all nodes are looked at in one sweep."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._names = [host.name for host in hosts]
        self._index = {name: number for number, name in enumerate(self._names)}
        widest = max((host.cards for host in hosts), default=0)
        things = len(hosts[0].room) if hosts else 0
        self._room = np.array([host.room for host in hosts], dtype=np.int64).reshape(len(hosts), 1, things)
        # GPUs that a node lacks have room for nothing.
        self._free = np.full((len(hosts), widest, things), -1, dtype=np.int64)
        for number, host in enumerate(hosts):
            self._free[number, : host.cards] = host.room
        self._empty = self._free[:, :, 0] >= 0
        self._largest = -np.sort(-self._free[:, :, 0], axis=1)
        """What is left of the first thing on each GPU of a node, the most first."""
        self._used = np.zeros(len(hosts), dtype=bool)
        alike: dict[tuple[int, Vector], list[int]] = {}
        for number, host in enumerate(hosts):
            alike.setdefault((host.cards, host.room), []).append(number)
        self._alike = [np.array(numbers) for numbers in alike.values()]
        """Nodes that are the same as long as they are empty."""
        self._placed: dict[str, tuple[CardKey, ...]] = {}

    @property
    def packing(self) -> Packing:
        return Packing(dict(self._placed))

    def place(self, tenant: Tenant, only: str | None = None) -> bool:
        """Put `tenant` where it opens the fewest GPUs and fills best; False where it fits nowhere."""
        home = self._index.get(tenant.home, -1)
        if tenant.ranks > self._free.shape[1]:
            return False
        nodes = self._candidates(tenant, home) if only is None else np.array([self._index[only]])
        fits = (self._free[nodes] >= tenant.need).all(axis=2)
        enough = fits.sum(axis=1) >= tenant.ranks
        nodes, fits = nodes[enough], fits[enough]
        if not len(nodes):
            return False
        empty = self._empty[nodes]
        slack = self._slack(nodes, tenant.need)
        # Of a node's GPUs those in use come first, then the fullest.
        worth = np.where(fits, empty * _FIRST + slack, np.inf)
        chosen = np.argsort(worth, axis=1, kind="stable")[:, : tenant.ranks]
        rows = np.arange(len(nodes))[:, np.newaxis]
        opened = empty[rows, chosen].sum(axis=1)
        cost = opened * _FIRST + ~self._used[nodes] * _SECOND + slack[rows, chosen].sum(axis=1)
        least = np.flatnonzero(cost == cost.min())
        at_home = least[nodes[least] == home]
        best = int(at_home[0] if len(at_home) else least[0])
        self._take(tenant, int(nodes[best]), sorted(chosen[best].tolist()))
        return True

    def _take(self, tenant: Tenant, node: int, cards: list[int]) -> None:
        self._free[node, cards] -= tenant.need
        self._empty[node, cards] = False
        self._largest[node] = -np.sort(-self._free[node, :, 0])
        self._used[node] = True
        self._placed[tenant.name] = tuple((self._names[node], card) for card in cards)

    def _candidates(self, tenant: Tenant, home: int) -> _Numbers:
        """Nodes that may have room. Of nodes that are empty and alike one is as good as all: the own one, or the first
        one."""
        roomy = self._largest[:, tenant.ranks - 1] >= tenant.need[0]
        found = roomy & self._used
        for numbers in self._alike:
            empty = numbers[~self._used[numbers]]
            if len(empty):
                found[home if home in empty else empty[0]] = True
        return np.flatnonzero(found & roomy)

    def _slack(self, nodes: _Numbers, need: Vector) -> _Shares:
        """What would be left of each GPU of these nodes, as a share of all things that it has."""
        room = self._room[nodes]
        left = self._free[nodes] - need
        shares: _Shares = np.divide(left, room, out=np.zeros(left.shape), where=room > 0)
        return np.asarray(shares.sum(axis=2))


def _by_size(tenant: Tenant) -> tuple[int, ...]:
    return (*tenant.need, tenant.ranks)


def _by_ranks(tenant: Tenant) -> tuple[int, ...]:
    return (tenant.ranks, *tenant.need)


def _by_volume(tenant: Tenant) -> tuple[int, ...]:
    return tuple(tenant.ranks * need for need in tenant.need)


def _within(need: Vector, room: Vector) -> bool:
    return all(one <= most for one, most in zip(need, room, strict=True))
