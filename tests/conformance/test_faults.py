"""Whatever breaks in a hook, this release's vLLM does the same as without the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faults
import lives
import pytest
from engines import BLOCK_TOKENS, MAX_MODEL_LEN
from faults import Fault, functions


@pytest.fixture(autouse=True)
def hooks_as_they_were() -> Iterator[None]:
    """What is broken here is whole again for other tests."""
    yield
    faults.fresh()


def test_each_function_of_a_hook_may_break_for_good(model: Path, tmp_path: Path) -> None:
    """From its first call on; all of those that this release reaches, in every part of a life that reaches them."""
    parts = lives.parts(model, tmp_path)
    with faults.without_the_plugin():
        alone = {name: live() for name, live in parts.items()}
    reached = set()
    for name, live in parts.items():
        faults.fresh()
        with faults.counted(functions(faults.HOOKS)) as calls:
            sound = live()
        assert faults.errors() == 0, name
        # The one thing that the plugin is there to change: a size of its own that is too small keeps no vLLM from
        # starting. One request and a null block, which 0.7 has not got.
        mended = name == "plan"
        assert sound == ((MAX_MODEL_LEN // BLOCK_TOKENS + 1, MAX_MODEL_LEN) if mended else alone[name])
        assert (sound != alone[name]) == mended
        for function in [function for function, of in calls.items() if of.made]:
            reached.add(function.partition(":")[0])
            for outcome in (faults.RAISES, faults.RETURNS_NOTHING):
                faults.fresh()
                with faults.injected(Fault(function, outcome)) as of:
                    broken = live()
                assert of.struck, (function, name)
                assert broken == alone[name] or (mended and broken == sound), (function, name)
                assert outcome == faults.RETURNS_NOTHING or faults.errors() > 0, (function, name)
    assert reached == set(faults.HOOKS) - lives.absent()
