"""A patch, applied as the API server applies it, gives what was asked for and touches nothing else."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.patches import Patch, pointer


def _applied(obj: dict[str, Any], patch: Patch) -> Any:
    return jsonpatch.apply_patch(copy.deepcopy(obj), patch.operations)


def test_pointer_escapes() -> None:
    assert pointer(("metadata", "annotations", "a.io/b~c", 0)) == "/metadata/annotations/a.io~1b~0c/0"


@pytest.mark.parametrize("obj", [{}, {"metadata": None}, {"metadata": {}}, {"metadata": {"labels": None, "x": 1}}])
def test_missing_parents_are_made(obj: dict[str, Any]) -> None:
    patch = Patch(obj)
    patch.put(("metadata", "labels", "a/b"), "1")
    patch.put(("metadata", "labels", "c"), "2")
    result = _applied(obj, patch)
    assert result["metadata"]["labels"] == {"a/b": "1", "c": "2"}
    assert len(patch.operations) == 1


def test_what_is_there_already_is_no_operation() -> None:
    obj = {"metadata": {"labels": {"a": "1"}}}
    patch = Patch(obj)
    patch.put(("metadata", "labels", "a"), "1")
    assert patch.operations == []


def test_lists_grow_at_both_ends() -> None:
    obj = {"spec": {"volumes": [{"name": "a"}]}}
    patch = Patch(obj)
    patch.append(("spec", "volumes"), {"name": "b"})
    patch.prepend(("spec", "volumes"), {"name": "0"})
    patch.append(("spec", "new"), 1)
    patch.prepend(("spec", "new"), 0)
    assert _applied(obj, patch) == {"spec": {"volumes": [{"name": "0"}, {"name": "a"}, {"name": "b"}], "new": [0, 1]}}


def test_an_index_is_guarded_by_the_name_expected_there() -> None:
    obj = {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}
    patch = Patch(obj)
    patch.put(("spec", "containers", 1, "image"), "i")
    patch.put(("spec", "containers", 1, "tty"), True)
    guard = {"op": "test", "path": "/spec/containers/1/name", "value": "b"}
    assert patch.operations[0] == guard
    assert patch.operations.count(guard) == 1
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        jsonpatch.apply_patch({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}, patch.operations)


def test_another_type_than_expected_is_an_error() -> None:
    with pytest.raises(TypeError, match="/spec/env is no list"):
        Patch({"spec": {"env": {}}}).append(("spec", "env"), {})


_words = st.lists(st.sampled_from("abcd"), max_size=5)


@given(before=st.one_of(st.none(), _words), wanted=_words)
def test_splice_makes_one_list_the_other(before: list[str] | None, wanted: list[str]) -> None:
    obj: dict[str, Any] = {"args": before}
    patch = Patch(obj)
    patch.splice(("args",), wanted)
    assert (_applied(obj, patch)["args"] or []) == wanted
    if before == wanted:
        assert patch.operations == []
