"""Whether two objects say the same, compared part by part, is what it would be of whole copies without empty parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.written_objects import same

VALUES = st.recursive(
    st.sampled_from([None, 0, 1, True, "", "a", 0.5, {}, []]),
    lambda parts: st.one_of(st.dictionaries(st.sampled_from("abc"), parts, max_size=3), st.lists(parts, max_size=3)),
    max_leaves=8,
)


@given(VALUES, VALUES)
@settings(max_examples=40, deadline=None)
def test_what_is_the_same(one: Any, other: Any) -> None:
    assert same(one, other) == (full(one) == full(other))
    assert same(one, full(one)) == (full(one) == full(full(one)))


def full(value: Any) -> Any:
    """Without empty parts."""
    if isinstance(value, dict):
        parts = {name: full(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part not in (None, {}, [])}
    if isinstance(value, list):
        return [full(part) for part in value]
    return value


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": {"b": {}}, "c": 1}, {"c": 1}, True),
        ({"a": [{"b": None}]}, {"a": [{}]}, True),
        ({"a": [None]}, {"a": []}, False),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
    ],
)
def test_empty_parts_are_as_absent_ones(one: Any, other: Any, expected: bool) -> None:
    assert same(one, other) is expected
