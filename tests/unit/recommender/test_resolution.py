"""What the objects say about workloads, read once while they do not change, and no longer than they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, policy_object

from recommender.api.object_store import FileObjectStore
from recommender.api.objects import InvalidObjectError
from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.readings import Readings
from recommender.resolution import Resolver
from vllm_plugin.names import API_VERSION

ODD = {"observationWindow": "two days"}


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path)


def automated(**spec: Any) -> dict[str, Any]:
    metadata = {"name": KEY.namespace}
    return {"apiVersion": API_VERSION, "kind": "AutomatedNamespace", "metadata": metadata, "spec": spec}


def test_an_invalid_object_goes_on_with_what_it_said_itself(store: FileObjectStore) -> None:
    resolver = Resolver(store, {})

    def policy() -> str:
        return resolver.automation(KEY.namespace, {}, {}).policy

    assert policy() == "default"
    store.apply(automated(vllmOptimize=True, defaultVllmPolicy="own"))
    assert policy() == "own"
    store.apply(automated(vllmOptimize="perhaps"))
    assert policy() == "own"
    store.delete("AutomatedNamespace", None, KEY.namespace)
    assert policy() == "default"
    store.apply(automated(vllmOptimize="perhaps"))
    assert policy() == "default"


def test_a_policy_is_read_once_while_it_stands(store: FileObjectStore) -> None:
    resolver = Resolver(store, {"default": PolicySpec(percentile=90).model_dump_json()})
    for spec, fault, percentile in (({"percentile": 95}, False, 95), (ODD, True, 95), ({"percentile": 80}, False, 80)):
        store.apply(policy_object(**spec))
        found = resolver.policy("default")
        assert (found.fault is not None, found.spec and found.spec.percentile) == (fault, percentile)
        assert resolver.policy("default") is found


def test_the_last_valid_spec_of_an_earlier_life(store: FileObjectStore) -> None:
    known = PolicySpec(percentile=90).model_dump_json()
    resolver = Resolver(store, {"default": known, "of-another-release": '{"unheardOf": 1}'})
    store.apply(policy_object(**ODD))
    store.apply(policy_object("of-another-release", **ODD))
    assert resolver.policy("default").spec == PolicySpec(percentile=90)
    assert resolver.policy("of-another-release").spec is None
    assert resolver.policy("nobody").missing


def test_readings() -> None:
    readings = Readings()
    first = readings.read(VLLMPolicy, policy_object())
    assert readings.read(VLLMPolicy, policy_object()) is first
    assert readings.read(VLLMPolicy, policy_object(percentile=95)).spec.percentile == 95
    for _ in range(2):
        with pytest.raises(InvalidObjectError, match="two days"):
            readings.read(VLLMPolicy, policy_object(**ODD))
    other = readings.read(VLLMPolicy, policy_object("other"))
    readings.forget_unread()
    assert readings.read(VLLMPolicy, policy_object("other")) is other
    readings.forget_unread()
    readings.forget_unread()
    assert readings.read(VLLMPolicy, policy_object("other")) is not other
