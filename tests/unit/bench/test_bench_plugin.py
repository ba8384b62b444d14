"""What a figure says of its target, and what the benchmarks bring into vLLM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest

from bench import in_vllm
from bench.figures import Figure, bootstrapped, ratio_of_means
from bench.plugin import main
from vllm_plugin import guard


@pytest.mark.parametrize(
    ("value", "better", "low", "high", "ok"),
    [
        (0.98, "at least", None, None, False),
        (0.99, "at least", None, None, True),
        (0.98, "at least", 0.97, 0.985, False),
        (0.98, "at least", 0.97, 0.995, True),
        (1.1, "at most", 0.98, 1.2, True),
        (1.1, "at most", 1.0, 1.2, False),
    ],
)
def test_a_figure_misses_its_target_where_its_whole_interval_does(
    value: float, better: str, low: float | None, high: float | None, ok: bool
) -> None:
    figure = Figure("ratio", value, "with / without", 8, 0.99, better, low, high)
    assert figure.ok is ok
    assert (figure.as_json()["target"], figure.as_json()["ok"]) == (0.99, ok)


def test_a_figure_without_a_target_reaches_and_misses_none() -> None:
    assert Figure("speed", 3.14159265, "1/s", 1).as_json() == {
        "name": "speed",
        "value": 3.1416,
        "unit": "1/s",
        "n": 1,
    }


def test_what_both_of_a_pair_share_does_not_widen_the_interval() -> None:
    drifting = [(1.1 * drift, drift) for drift in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert bootstrapped(drifting, ratio_of_means) == pytest.approx((1.1, 1.1, 1.1))
    value, low, high = bootstrapped([(1.0, 1.0), (3.0, 1.0), (2.0, 1.0), (2.0, 1.0)], ratio_of_means)
    assert value == 2
    assert 1 < low < 2 < high < 3


def test_an_unknown_part_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    assert "exactness, curve, cost, request, server" in capsys.readouterr().err


def test_a_judge_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curve", "--judge", str(tmp_path / "kvsim.py")]) == 2
    assert "no judge at" in capsys.readouterr().err


def test_vllm_finds_the_entry_point(tmp_path: Path) -> None:
    in_vllm.install(tmp_path)
    (found,) = distributions(path=[str(tmp_path)])
    (entry,) = found.entry_points
    assert (entry.group, entry.load()) == ("vllm.general_plugins", in_vllm.register)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_hooks_follow_the_file_and_those_that_are_off_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "hooks", {})
    working, broken = guard.Hook("working"), guard.Hook("broken")
    broken.active = False
    file = tmp_path / in_vllm.SWITCH
    file.write_text(in_vllm.OFF)
    stop = threading.Event()
    follower = threading.Thread(target=in_vllm.follow, args=(file, stop))
    follower.start()
    assert eventually(lambda: not working.active)
    file.write_text(in_vllm.ON)
    assert eventually(lambda: working.active)
    assert not broken.active
    stop.set()
    follower.join()
