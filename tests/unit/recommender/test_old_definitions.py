"""What a definition in the cluster does not have is left out of what is applied, as the API server names it."""

from __future__ import annotations

from typing import Any

import pytest

from recommender.old_definitions import OldDefinitions

REFUSAL = "failed to create typed patch object (chat/a; example.org/v1, Kind=Thing): {}: field not declared in schema"
BODY: dict[str, Any] = {
    "metadata": {"name": "a"},
    "status": {"gpus": 4, "target": {"kvBytes": 1, "note": "x"}, "bounds": [{"name": "a", "why": "y"}, {"name": "b"}]},
}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        (".status.gpus", {"target": BODY["status"]["target"], "bounds": BODY["status"]["bounds"]}),
        (".status.target.note", BODY["status"] | {"target": {"kvBytes": 1}}),
        (".status.bounds[0].why", BODY["status"] | {"bounds": [{"name": "a"}, {"name": "b"}]}),
        ('.status.bounds[name="a"].why', BODY["status"] | {"bounds": [{"name": "a"}, {"name": "b"}]}),
        (".status.elsewhere", BODY["status"]),
    ],
)
def test_a_field_is_left_out_wherever_it_stands(path: str, left: dict[str, Any]) -> None:
    definitions = OldDefinitions()
    assert definitions.learn("Thing", REFUSAL.format(path), now=0.0)
    assert definitions.part("Thing", BODY, now=1.0) == {"metadata": {"name": "a"}, "status": left}
    assert definitions.part("Other", BODY, now=1.0) == BODY


def test_the_same_refusal_again_is_nothing_new() -> None:
    definitions = OldDefinitions()
    assert definitions.learn("Thing", REFUSAL.format(".status.gpus"), now=0.0) == {"status.gpus"}
    assert definitions.learn("Thing", REFUSAL.format(".status.target"), now=0.0) == {"status.target"}
    assert not definitions.learn("Thing", REFUSAL.format(".status.gpus"), now=0.0)
    assert not definitions.learn("Thing", "etcdserver: request timed out", now=0.0)
    assert definitions.part("Thing", BODY, now=0.0)["status"].keys() == {"bounds"}


def test_definitions_are_brought_up_to_date_some_day() -> None:
    definitions = OldDefinitions()
    definitions.learn("Thing", REFUSAL.format(".status.gpus"), now=0.0)
    assert definitions.part("Thing", BODY, now=3600.0) == BODY
    assert definitions.learn("Thing", REFUSAL.format(".status.gpus"), now=3600.0) == {"status.gpus"}
