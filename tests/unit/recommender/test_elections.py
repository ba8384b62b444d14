"""Nobody leads while another may, whatever becomes of requests, processes and clocks; and somebody leads soon."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from recommender.elections import Claim, Election, Lease, Look, Timing, Wait, claimed, released

TIMING = Timing()
FREED = 17.0
"""After a leader is killed, seconds until another leads: the lease, and two looks at it."""


def lease(holder: str, renewed: str = "1", seconds: float = 12, transitions: int = 0) -> Lease:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": renewed}
    raw = {"metadata": {"name": "l", "resourceVersion": "7"}, "spec": {**spec, "leaseTransitions": transitions}}
    return Lease.of(raw)


def candidate(name: str = "me") -> Election:
    return Election(name, TIMING, draw=lambda: 0.5)


def test_a_lease_that_is_held_is_looked_at_until_it_is_not_renewed_for_its_length() -> None:
    one = candidate()
    assert one.step(100, able=True) == Look()
    one.seen(lease("other", "1"), 100)
    assert one.step(100, able=True) == Wait(1.5)
    assert one.step(101.5, able=True) == Look()
    one.seen(lease("other", "2"), 101.5)
    one.seen(lease("other", "2"), 113)
    assert one.step(113, able=True) == Wait(0.5)
    assert one.step(113.5, able=True) == Claim(lease("other", "2"))
    assert one.holder == "other"
    assert one.age_seconds(113.5) == 12


@pytest.mark.parametrize(("said", "waits"), [(1, 12), (30, 30), (1e9, 60)])
def test_the_length_is_the_holders_within_reason(said: float, waits: float) -> None:
    one = candidate()
    one.seen(lease("other", seconds=said), 0)
    assert one.step(waits - 0.01, able=True) != Claim(lease("other", seconds=said))
    assert one.step(waits, able=True) == Claim(lease("other", seconds=said))


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    one = candidate()
    one.seen(lease(""), 0)
    assert one.step(0, able=True) == Claim(lease(""))


def test_a_lease_that_is_not_there_may_have_been_held_a_moment_ago() -> None:
    """Whoever makes it renews it, and leads once nobody else can."""
    one = candidate()
    one.seen(None, 0)
    assert one.step(0, able=True) == Claim(None)
    one.granted(Claim(None), lease("me"), asked=0)
    assert one.step(1, able=True) == Wait(0.5)
    for now in (1.5, 3, 6, 9, 11):
        assert one.held_seconds(now) == 0
        assert one.step(now, able=True) == Claim(lease("me"))
        one.granted(Claim(lease("me")), lease("me"), asked=now)
    assert one.step(11.6, able=True) == Wait(pytest.approx(0.4))
    assert one.held_seconds(12) == 7


def test_who_finds_a_lease_that_it_may_have_made_waits_too() -> None:
    """The answer was lost, or the request came late."""
    one = candidate()
    one.seen(None, 0)
    one.unanswered(Claim(None), 3)
    one.seen(lease("me"), 5)
    assert one.step(5, able=True) == Claim(lease("me"))
    one.granted(Claim(lease("me")), lease("me"), asked=5)
    assert one.held_seconds(16.9) == 0


def test_who_is_not_able_leaves_it_alone() -> None:
    one = candidate()
    one.seen(lease(""), 0)
    assert one.step(0, able=False) == Wait(0.1)
    assert one.step(1.5, able=False) == Look()


def test_a_leader_renews_and_leads_until_its_deadline_counted_from_asking() -> None:
    one = candidate()
    one.seen(lease(""), 0)
    one.granted(Claim(lease("")), lease("me"), asked=10)
    assert one.held_seconds(10) == 8
    assert one.step(11, able=False) == Wait(0.5)
    assert one.step(11.5, able=False) == Claim(lease("me"))
    one.unanswered(Claim(lease("me")), 14.5)
    # It may have been done: the version is read anew.
    assert one.step(16, able=True) == Look()
    one.seen(lease("me", "2"), 17)
    assert one.step(17, able=True) == Claim(lease("me", "2"))
    assert one.held_seconds(17.9) == pytest.approx(0.1)
    assert one.held_seconds(18) == 0
    assert one.step(18, able=False) != Claim(lease("me", "2"))
    # Nobody else has taken it: it goes on, in another term.
    assert one.step(18, able=True) == Claim(lease("me", "2"))


def test_a_leader_whose_requests_hang_wakes_up_at_its_deadline() -> None:
    one = candidate()
    one.granted(Claim(lease("")), lease("me"), asked=0)
    one.unanswered(Claim(lease("me")), 7)
    assert one.step(7, able=True) == Wait(1)


@pytest.mark.parametrize("found", [lease("other"), lease("")])
def test_a_leader_that_finds_itself_replaced_stops_at_once(found: Lease) -> None:
    one = candidate()
    one.granted(Claim(lease("")), lease("me"), asked=0)
    one.overtaken()
    assert one.step(1.5, able=True) == Look()
    one.seen(found, 1.5)
    assert one.held_seconds(1.5) == 0


def test_a_leader_whose_lease_was_deleted_is_as_anybody() -> None:
    one = candidate()
    one.granted(Claim(lease("")), lease("me"), asked=0)
    one.overtaken()
    one.seen(None, 2)
    assert one.held_seconds(2) == 6
    assert one.step(2, able=False) == Claim(None)
    one.granted(Claim(None), lease("me"), asked=2)
    assert one.held_seconds(2) == 0
    assert one.held_seconds(14) == 0


def test_what_is_written() -> None:
    """Times for people; the version that was read; and how often it changed hands."""
    former = lease("other", transitions=4)
    taken = claimed(Claim(former), "me", TIMING, "l", 1.5)
    assert taken["metadata"]["resourceVersion"] == "7"
    assert taken["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 12,
        "acquireTime": "1970-01-01T00:00:01.500000Z",
        "renewTime": "1970-01-01T00:00:01.500000Z",
        "leaseTransitions": 5,
    }
    renewed = claimed(Claim(Lease.of(taken)), "me", TIMING, "l", 3)["spec"]
    assert (renewed["acquireTime"], renewed["leaseTransitions"]) == (taken["spec"]["acquireTime"], 5)
    assert renewed["renewTime"] == "1970-01-01T00:00:03.000000Z"
    assert claimed(Claim(None), "me", TIMING, "l", 1)["spec"]["leaseTransitions"] == 0
    given_back = Lease.of(released(Lease.of(taken), "l", 2))
    assert (given_back.holder, given_back.transitions) == ("", 5)


@dataclass
class Process:
    """A candidate with a clock of its own. While it is frozen nothing of it moves but that clock."""

    name: str
    rate: float
    offset: float
    election: Election
    frozen_until: float = 0.0
    dead: bool = False

    def clock(self, now: float) -> float:
        return now * self.rate + self.offset


@dataclass
class World:
    """An API server with its lease, processes, and a network that loses requests and answers, or takes its time."""

    draw: random.Random
    loss: float = 0.1
    slowest: float = 5.0
    stored: dict[str, Any] | None = None
    version: int = 0
    now: float = 0.0
    processes: list[Process] = field(default_factory=list)
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.numbers), what))

    def start(self, name: str) -> Process:
        made = Process(name, self.draw.uniform(0.97, 1.03), self.draw.uniform(-1e6, 1e6), Election(name, TIMING))
        self.processes.append(made)
        self.at(self.now, lambda: self.step(made))
        return made

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self.queue)
            what()
            self.look()
        self.now = until
        self.look()

    def look(self) -> None:
        leaders = self.leaders()
        assert len(leaders) <= 1, f"at {self.now}: {leaders}"

    def leaders(self) -> list[str]:
        return [one.name for one in self.processes if one.election.held_seconds(one.clock(self.now)) and not one.dead]

    def step(self, one: Process) -> None:
        if one.dead:
            return
        if self.now < one.frozen_until:
            self.at(one.frozen_until, lambda: self.step(one))
            return
        step = one.election.step(one.clock(self.now), able=True)
        if isinstance(step, Wait):
            self.at(self.now + max(step.seconds / one.rate, 1e-6), lambda: self.step(one))
            return
        asked = one.clock(self.now)
        there, back = (min(self.slowest, self.draw.choice([0.01, 0.2, self.draw.uniform(0, 5)])) for _ in range(2))
        answer: list[Any] = []

        def arrives() -> None:
            answer.append(self.serve(one, step))

        if self.draw.random() >= self.loss:
            self.at(self.now + there, arrives)
        lost = self.draw.random() < self.loss
        wait = min(TIMING.request, one.election.held_seconds(asked) or TIMING.request) / one.rate
        back_at = self.now + there + back
        self.at(min(back_at, self.now + wait), lambda: self.answered(one, step, asked, [] if lost else answer))

    def serve(self, one: Process, step: Look | Claim) -> Any:
        if isinstance(step, Look):
            return self.stored
        known = None if step.lease is None else step.lease.raw["metadata"]["resourceVersion"]
        there = None if self.stored is None else self.stored["metadata"]["resourceVersion"]
        if known != there:
            return "conflict"
        return self.put(claimed(step, one.name, TIMING, "l", self.now))

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.stored = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.stored

    def answered(self, one: Process, step: Look | Claim, asked: float, answer: list[Any]) -> None:
        if one.dead:
            return
        if self.now < one.frozen_until:
            self.at(one.frozen_until, lambda: self.answered(one, step, asked, answer))
            return
        if not answer:
            one.election.unanswered(step, one.clock(self.now))
        elif answer[0] == "conflict":
            one.election.overtaken()
        elif isinstance(step, Look):
            one.election.seen(None if answer[0] is None else Lease.of(answer[0]), one.clock(self.now))
        else:
            one.election.granted(step, Lease.of(answer[0]), asked)
        self.step(one)


@pytest.mark.parametrize("seed", range(60))
def test_never_two_whatever_happens(seed: int) -> None:
    draw = random.Random(seed)
    world = World(draw)
    for number in range(3):
        world.start(f"p{number}")
    for _ in range(12):
        world.run(world.now + draw.uniform(1, 25))
        one = draw.choice(world.processes)
        what = draw.randrange(4)
        if what == 0:
            one.frozen_until = world.now + draw.uniform(1, 40)
        elif what == 1:
            one.dead = True
            world.start(f"p{len(world.processes)}")
        elif what == 2:
            # Somebody deletes it.
            world.stored = None
        else:
            world.loss = draw.choice([0.0, 0.1, 0.9])
    # Once all is quiet, somebody leads, and goes on to.
    world.loss, world.slowest = 0.0, 0.2
    world.run(world.now + 60)
    [leader] = world.leaders()
    for _ in range(50):
        world.run(world.now + 1)
        assert world.leaders() == [leader]


@pytest.mark.parametrize("seed", range(20))
def test_after_a_leader_was_killed(seed: int) -> None:
    world = World(random.Random(seed), loss=0.0, slowest=0.01)
    for number in range(2):
        world.start(f"p{number}")
    world.run(30 + 3 * seed / 20)
    [leader] = world.leaders()
    next(one for one in world.processes if one.name == leader).dead = True
    world.run(world.now + FREED)
    [other] = world.leaders()
    assert other != leader
