"""`make` on a fresh checkout: the environment that every target needs, whatever stands in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.programs import CACHE

from .checkouts import Checkout, of_working_tree

pytestmark = pytest.mark.processes


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """With nothing to install but this project itself, and every package that was downloaded once."""
    made = of_working_tree(tmp_path / "checkout", tmp_path / "home")
    (made.folder / "requirements-dev.txt").write_text("")
    made.environment.setdefault("UV_CACHE_DIR", str(CACHE.parent / "uv"))
    return made


def test_the_first_command_on_a_machine_without_uv(checkout: Checkout, tmp_path: Path) -> None:
    """Tests keep their bytecode; pip, which gets uv for them, writes some before there is an environment."""
    told = checkout.attempt("make", "unit", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert "installing uv" in told.stderr
    assert (checkout.folder / ".venv" / ".ready").is_file(), told.stderr
    # What an environment of this project alone lacks is the first thing that fails.
    assert ".venv/bin/pytest" in told.stderr


def test_half_an_environment_is_made_anew(checkout: Checkout) -> None:
    (checkout.folder / ".venv" / "bin").mkdir(parents=True)
    checkout.run("make", "venv")
    assert (checkout.folder / ".venv" / "bin" / "vllm-rightsizer").is_file()
