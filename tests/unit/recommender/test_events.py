"""What people are told in Kubernetes Events, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from recommender.events import KEPT_SECONDS, Happening, Told, event, happenings, told_again

GIB = 1 << 30


def condition(type_: str, status: str, reason: str = "Why", message: str = "because") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def status(*conditions: dict[str, str], kv_bytes: int | None = None) -> dict[str, Any]:
    target = {"target": {"kvBytes": kv_bytes}} if kv_bytes else {}
    return {"conditions": list(conditions), **target}


YES = condition("Recommended", "True", "HitRate", "4.00 GiB of KV cache: the knee")
NO = condition("Recommended", "False", "InsufficientData", "too few requests")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (status(NO), status(YES, kv_bytes=4 * GIB), [("Normal", "Recommended", YES["message"])]),
        (
            status(YES, kv_bytes=2 * GIB),
            status(YES, kv_bytes=4 * GIB),
            [("Normal", "RecommendationChanged", "from 2.00 GiB to 4.00 GiB of KV cache: the knee")],
        ),
        (
            status(YES, kv_bytes=2 * GIB),
            status(condition("Recommended", "False", "Withdrawn", "it failed")),
            [("Warning", "RecommendationWithdrawn", "no more 2.00 GiB: it failed")],
        ),
        # Other arguments begin anew: nobody need look at that.
        (
            status(YES, kv_bytes=2 * GIB),
            status(NO),
            [("Normal", "RecommendationWithdrawn", "no more 2.00 GiB: too few requests")],
        ),
        (status(YES, kv_bytes=GIB), status(YES, kv_bytes=GIB), []),
        # Another sentence is no change, another reason is one.
        (status(NO), status({**NO, "message": "fewer"}), []),
        (
            status(NO),
            status(condition("Recommended", "False", "PolicyInvalid", "two days")),
            [("Warning", "PolicyInvalid", "Recommended is False: two days")],
        ),
        (
            status(condition("Degraded", "False")),
            status(condition("Degraded", "True", "NotReady", "it fell")),
            [("Warning", "NotReady", "Degraded is True: it fell")],
        ),
        (
            status(condition("Degraded", "True")),
            status(condition("Degraded", "False", "NoFailure", "all is well")),
            [("Normal", "NoFailure", "Degraded is False: all is well")],
        ),
        # At the beginning only what somebody should look at.
        ({}, status(NO, condition("Applied", "False"), condition("Verified", "Unknown")), []),
        (
            {},
            status(condition("PluginReporting", "False", "PluginMissing", "no room")),
            [("Warning", "PluginMissing", "PluginReporting is False: no room")],
        ),
        ({}, status(condition("PluginReporting", "False", "PodsNotRunning")), []),
        (
            status(condition("Valid", "True")),
            status(condition("Valid", "False", "LastValidGoesOn", "two days")),
            [("Warning", "LastValidGoesOn", "Valid is False: two days")],
        ),
    ],
)
def test_what_is_told(before: dict[str, Any], after: dict[str, Any], told: list[tuple[str, str, str]]) -> None:
    assert [(one.type, one.reason, one.note) for one in happenings(before, after)] == told


RECOMMENDATION = {
    "apiVersion": "vllm-rightsizer.io/v1alpha1",
    "kind": "VLLMRecommendation",
    "metadata": {"name": "deployment-llama", "namespace": "chat", "uid": "u-1"},
}


def test_an_event() -> None:
    told = event(Happening("Normal", "Recommended", "x" * 2000), RECOMMENDATION, 1.5, "host")
    assert told["metadata"]["namespace"] == "chat"
    assert told["regarding"] == {
        "apiVersion": "vllm-rightsizer.io/v1alpha1",
        "kind": "VLLMRecommendation",
        "name": "deployment-llama",
        "namespace": "chat",
        "uid": "u-1",
    }
    assert told["eventTime"] == "1970-01-01T00:00:01.500000Z"
    assert len(told["note"]) <= 1024
    several_bytes_each = event(Happening("Normal", "Recommended", "€" * 500), RECOMMENDATION, 1.5, "host")["note"]
    assert 1000 < len(several_bytes_each.encode()) <= 1024
    assert several_bytes_each.lstrip("€") == "…"
    policy = {"apiVersion": "v", "kind": "VLLMPolicy", "metadata": {"name": "p", "uid": "u"}}
    assert event(Happening("Normal", "R", "n"), policy, 0, "host")["metadata"]["namespace"] == "default"


def test_the_same_event_has_the_same_name() -> None:
    names = [
        event(Happening("Normal", reason, note), {**RECOMMENDATION, "metadata": {"name": "r", "uid": uid}}, at, "h")[
            "metadata"
        ]["name"]
        for reason, note, uid, at in [("A", "n", "u", 1), ("A", "n", "u", 2), ("B", "n", "u", 1), ("A", "n", "v", 1)]
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_the_name_of_an_event_of_an_object_with_a_long_one() -> None:
    policy = {"apiVersion": "v", "kind": "VLLMPolicy", "metadata": {"name": "a" * 199 + ".b" * 20, "uid": "u"}}
    name = event(Happening("Normal", "R", "n"), policy, 0, "host")["metadata"]["name"]
    assert len(name) <= 253
    assert all(name.split("."))


def test_what_is_told_again_is_counted() -> None:
    told = Told()
    assert [told.count("a", at) for at in (0, 10, KEPT_SECONDS)] == [1, 2, 3]
    assert told.count("b", KEPT_SECONDS) == 1
    assert told.count("a", 3 * KEPT_SECONDS) == 1
    # After a restart the number before is not known, and the API server takes none below 2.
    assert told_again(1, 0.0)["series"]["count"] == 2
