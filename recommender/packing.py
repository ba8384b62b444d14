"""Which engines fit together on which GPUs: vector bin packing by best fit decreasing. Pure.

A GPU has room for so much of several things at once, memory and places; the ranks of one engine lie on different GPUs
of one node. Several orders are tried, and whatever assignment stands already: the best one is taken, so that a plan
never needs more GPUs than are in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Vector = tuple[int, ...]
"""An amount of each thing that a GPU has, always in one order."""

CardKey = tuple[str, int]
"""Node, and number of the GPU on it."""


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
    """What is left of each GPU while tenants are placed one after the other."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._free: dict[str, list[Vector]] = {host.name: [host.room] * host.cards for host in hosts}
        self._largest = {name: [room[0] for room in free] for name, free in self._free.items()}
        """What is left of the first thing on each GPU of a node, the most first."""
        self._used: Counter[str] = Counter()
        self._placed: dict[str, tuple[CardKey, ...]] = {}

    @property
    def packing(self) -> Packing:
        return Packing(dict(self._placed))

    def place(self, tenant: Tenant, only: str | None = None) -> bool:
        """Put `tenant` where it opens the fewest GPUs and fills best; False where it fits nowhere."""
        best: tuple[tuple[float, ...], str, list[int]] | None = None
        for name in self._candidates(tenant) if only is None else [only] if only in self._hosts else []:
            chosen = self._best_cards(name, tenant)
            if chosen is None:
                continue
            opened = sum(self._is_empty(name, index) for index in chosen)
            slack = sum(self._slack(name, index, tenant.need) for index in chosen)
            cost = (opened, not self._used[name], slack, name != tenant.home)
            if best is None or cost < best[0]:
                best = (cost, name, chosen)
        if best is None:
            return False
        _, name, chosen = best
        for index in chosen:
            self._free[name][index] = _less(self._free[name][index], tenant.need)
        self._largest[name] = sorted((room[0] for room in self._free[name]), reverse=True)
        self._used[name] += 1
        self._placed[tenant.name] = tuple((name, index) for index in chosen)
        return True

    def _candidates(self, tenant: Tenant) -> Iterator[str]:
        """Nodes that may have room. Of nodes that are empty and alike one is as good as all: the own one, or the first
        one."""
        met: set[tuple[int, Vector]] = set()
        home = self._hosts.get(tenant.home)
        if home is not None and not self._used[home.name]:
            met.add((home.cards, home.room))
            yield home.name
        for name, host in self._hosts.items():
            largest = self._largest[name]
            if len(largest) < tenant.ranks or largest[tenant.ranks - 1] < tenant.need[0]:
                continue
            if not self._used[name]:
                if (host.cards, host.room) in met:
                    continue
                met.add((host.cards, host.room))
            yield name

    def _best_cards(self, name: str, tenant: Tenant) -> list[int] | None:
        free = self._free[name]
        fitting = [index for index in range(len(free)) if _within(tenant.need, free[index])]
        if len(fitting) < tenant.ranks:
            return None
        fitting.sort(key=lambda index: (self._is_empty(name, index), self._slack(name, index, tenant.need), index))
        return sorted(fitting[: tenant.ranks])

    def _is_empty(self, name: str, index: int) -> bool:
        return self._free[name][index] == self._hosts[name].room

    def _slack(self, name: str, index: int, need: Vector) -> float:
        """What would be left of the GPU, as a share of all things that it has."""
        room = self._hosts[name].room
        left = _less(self._free[name][index], need)
        return sum(rest / most for rest, most in zip(left, room, strict=True) if most)


def _by_size(tenant: Tenant) -> tuple[int, ...]:
    return (*tenant.need, tenant.ranks)


def _by_ranks(tenant: Tenant) -> tuple[int, ...]:
    return (tenant.ranks, *tenant.need)


def _by_volume(tenant: Tenant) -> tuple[int, ...]:
    return tuple(tenant.ranks * need for need in tenant.need)


def _within(need: Vector, room: Vector) -> bool:
    return all(one <= most for one, most in zip(need, room, strict=True))


def _less(room: Vector, need: Vector) -> Vector:
    return tuple(most - one for one, most in zip(need, room, strict=True))
