"""Work that is put off is done in its order, once, by whoever comes first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from vllm_plugin import backlog
from vllm_plugin.backlog import Backlog
from vllm_plugin.guard import Hook, hooks


@pytest.fixture
def of() -> Iterator[Hook]:
    yield Hook("put off")
    del hooks["put off"]


def test_calls_are_made_in_their_order_when_there_are_enough(of: Hook) -> None:
    done: list[int] = []
    waiting = Backlog(of)
    for number in range(backlog._MOST_CALLS - 1):
        waiting.add(0, done.append, number)
    assert done == []
    waiting.add(0, done.append, backlog._MOST_CALLS - 1)
    assert done == list(range(backlog._MOST_CALLS))


def test_calls_that_keep_many_hashes_alive_do_not_wait(of: Hook) -> None:
    done: list[int] = []
    waiting = Backlog(of)
    waiting.add(backlog._MOST_BLOCKS // 2, done.append, 1)
    assert done == []
    waiting.add(backlog._MOST_BLOCKS // 2, done.append, 2)
    assert done == [1, 2]
    waiting.add(backlog._MOST_BLOCKS // 2, done.append, 3)
    assert done == [1, 2]


def test_a_call_that_fails_is_counted_and_the_others_are_made(of: Hook) -> None:
    done: list[int] = []
    waiting = Backlog(of)
    waiting.add(0, int, "no number")
    waiting.add(0, done.append, 1)
    waiting.clear()
    assert (done, of.errors) == ([1], 1)


def test_calls_that_fail_now_and_then_do_not_end_it(of: Hook) -> None:
    waiting = Backlog(of)
    for number in range(300):
        waiting.add(0, int, "no number" if number % 15 == 0 else "1")
    waiting.clear()
    assert (of.errors, of.active) == (20, True)


def test_where_the_hook_is_off_nothing_is_called_and_nothing_is_kept(of: Hook) -> None:
    done: list[int] = []
    waiting = Backlog(of)
    waiting.add(0, done.append, 0)
    of.switch_off("a test")
    waiting.add(0, done.append, 1)
    assert len(waiting._calls) == 1
    waiting.clear()
    assert done == []
    assert not waiting._calls


def test_nobody_waits_for_another_thread(of: Hook) -> None:
    """The scheduler's thread goes on while the exporter's is at it, and what it adds is done by that."""
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(60)
        done.append("slow")

    waiting = Backlog(of)
    waiting.add(0, slow)
    exporter = threading.Thread(target=waiting.clear)
    exporter.start()
    assert begun.wait(60)
    for _ in range(backlog._MOST_CALLS):
        waiting.add(0, done.append, "quick")
    assert done == []
    go_on.set()
    exporter.join(60)
    assert done == ["slow"] + ["quick"] * backlog._MOST_CALLS


def test_who_looks_waits_for_another_thread(of: Hook) -> None:
    """A page that is read while the exporter's thread is at it has all that was told, too."""
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    seen: list[list[str]] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(60)
        done.append("slow")

    def look() -> None:
        waiting.clear(60)
        seen.append(list(done))

    waiting = Backlog(of)
    waiting.add(0, slow)
    exporter, reader = threading.Thread(target=waiting.clear), threading.Thread(target=look)
    exporter.start()
    assert begun.wait(60)
    reader.start()
    # One that does not wait has looked by now.
    reader.join(0.1)
    go_on.set()
    for thread in (exporter, reader):
        thread.join(60)
    assert seen == [["slow"]]


def test_a_call_that_forks_ends_in_both(of: Hook) -> None:
    children: list[int] = []
    waiting = Backlog(of)
    waiting.add(0, lambda: children.append(os.fork()))
    code = 1
    try:
        waiting.clear()
        code = 0
    finally:
        if children == [0]:
            os._exit(code)
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_forked_in_the_middle_can_go_on(of: Hook) -> None:
    begun, go_on = threading.Event(), threading.Event()
    waiting = Backlog(of)
    waiting.add(0, lambda: (begun.set(), go_on.wait(60)))
    exporter = threading.Thread(target=waiting.clear)
    exporter.start()
    assert begun.wait(60)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        waiting.add(0, done.append, 1)
        waiting.clear()
        os._exit(0 if done == [1] else 1)
    _, status = os.waitpid(child, 0)
    go_on.set()
    exporter.join(60)
    assert os.waitstatus_to_exitcode(status) == 0
