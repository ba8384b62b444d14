"""The definitions that are shipped are those of the types, and say of every field what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from recommender.api.crds import definitions
from vllm_rightsizer.definitions import as_yaml, files

SHIPPED = Path(__file__).parents[3] / "deploy" / "crds"


def test_shipped_as_they_are_made() -> None:
    assert {path.name: path.read_text() for path in SHIPPED.iterdir()} == files(), "run make crds"


def test_printed_as_they_are_made() -> None:
    assert list(YAML(typ="safe", pure=True).load_all(as_yaml())) == definitions()


def test_kubectl_shows_more_where_it_is_wide() -> None:
    """Columns of priority 0 come always; every one shows a field that there is."""
    for definition in definitions():
        version = definition["spec"]["versions"][0]
        columns = version["additionalPrinterColumns"]
        wide = [column["name"] for column in columns if column.get("priority")]
        assert wide == (["Replicas", "Model"] if definition["spec"]["names"]["kind"] == "VLLMRecommendation" else [])
        fields = {path for path, _ in _fields(version["schema"]["openAPIV3Schema"])} | {".metadata.creationTimestamp"}
        assert {column["jsonPath"].partition("[")[0] for column in columns} <= fields


def test_kubectl_shows_by_which_policy() -> None:
    [found] = [one for one in definitions() if one["spec"]["names"]["kind"] == "VLLMRecommendation"]
    columns = {one["name"]: one for one in found["spec"]["versions"][0]["additionalPrinterColumns"]}
    assert columns["Policy"] == {"name": "Policy", "type": "string", "jsonPath": ".status.policy.value"}


@pytest.mark.parametrize("definition", definitions(), ids=lambda found: found["spec"]["names"]["kind"])
def test_every_field_has_a_description_in_plain_words(definition: dict[str, Any]) -> None:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = {path: field for path, field in _fields(schema) if path not in (".apiVersion", ".kind", ".metadata")}
    assert fields
    for path, field in fields.items():
        assert field.get("description"), path
        assert "`" not in field["description"], path
        assert "_" not in field["description"], path


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _fields(field, f"{path}.{name}")
        yield from _fields(field.get("items", {}), f"{path}.{name}[]")
