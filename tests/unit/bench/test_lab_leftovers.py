"""What a node writes down before it changes anything, so that another process can take away what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.leftovers import Leftovers


def test_the_next_one_knows_how_it_was_before_one_that_was_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert Leftovers.abandoned(state) is None
    made = Leftovers.looked(state, tmp_path / "node")
    assert made.folders == (state, tmp_path / "node")
    assert "net/ipv4/ip_forward" in made.sysctls
    assert Leftovers.abandoned(state) == made


def test_half_of_it_is_not_taken_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is killed while it is written has changed nothing yet."""

    def half(file: Path, text: str) -> None:
        with file.open("w") as opened:
            opened.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        Leftovers.looked(tmp_path)
    assert Leftovers.abandoned(tmp_path) is None
