"""The free events against a plain list of them: depths, what is dropped, and what is kept of empty ones."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_plugin.stack import Event, FreeStack

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 20), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 300), st.integers(0, 20)),
        st.tuples(st.just("drop"), st.just(0), st.just(0)),
    ),
    max_size=300,
)


@settings(max_examples=70, deadline=None)
@given(STEPS, st.sampled_from([64, 128]))
def test_depths_are_those_of_a_list(steps: list[tuple[str, int, int]], slots: int) -> None:
    """Exact while every event has a slot of its own; with shared ones off by at most half of what shares."""
    stack = FreeStack(slots)
    events: list[Event] = []
    dropped = 0
    for what, which, stop in steps:
        if what == "push":
            event = Event(0, which)
            stack.push(event)
            events.append(event)
        elif what == "take" and events:
            event = events[which % len(events)]
            before = event.start
            assert stack.take(event, stop) == event.start - before == max(min(stop, event.end) - before, 0)
        elif what == "drop" and stack:
            oldest = stack.drop_oldest()
            alive = [event for event in events[dropped:] if event is oldest or event.start < event.end]
            assert alive[0] is oldest
            dropped = events.index(oldest) + 1
    depth = 0
    for event in reversed(events):
        for index in range(event.start, event.end):
            depth += 1
            assert abs(stack.depth(event, index) - depth) <= (0 if len(events) <= slots else 0.1 * depth)
    assert stack.total == depth


def test_empty_events_do_not_pile_up() -> None:
    """One chat for ever, beside a hundred that nobody continues."""
    stack = FreeStack(64)
    for _ in range(100):
        stack.push(Event(0, 10))
    for _ in range(20_000):
        event = Event(0, 10)
        stack.push(event)
        stack.take(event, 10)
        assert len(stack) <= 400
    assert stack.total == 1000


def test_a_slot_for_each_while_there_are_enough_and_fewer_for_the_oldest_then() -> None:
    stack = FreeStack(128)
    events = [Event(0, 5) for _ in range(20_000)]
    for event in events:
        stack.push(event)
    for at in (0, 100, 10_000, 19_000, 19_900, 19_995):
        depth = 5 * (len(events) - at)
        assert abs(stack.depth(events[at], 4) - depth) <= 0.08 * depth
