"""Whole numbers of the chart's values are rendered as such, however large.

To Helm every number of a file is a float, which a template prints as 1e+06 from a million on.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab.chart import SCHEMA, Helm
from bench.lab.programs import folder_with

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]
Place = tuple[str, ...]

WHOLE: Raw = json.loads(SCHEMA.read_text())
ITEM, ANY_NAME = "[]", "one"
LARGE = 3_000_000
SWITCHED_ON: Raw = {
    "image": {"registry": "registry.example/team"},
    "vllm": {"injection": {"way": "init-container"}},
    "prices": {"date": "2026-11-01"},
    "networkPolicy": {"enabled": True},
}
SEVERAL: Raw = {"persistence": {"enabled": False}, "prometheus": {"url": "http://prometheus:9090"}}
ONE_WITH_A_VOLUME: Place = ("recommender", "persistence", "size")
"""It is of one recommender, and the number of recommenders of several."""


def _resolved(schema: Raw) -> Raw:
    while "$ref" in schema:
        schema = WHOLE["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return schema


def _numbers(schema: Raw, path: Place = ()) -> Iterator[tuple[Place, Raw]]:
    """Each place where a number may stand, and its schema."""
    schema = _resolved(schema)
    if {"integer", "number"} & set(kind if isinstance(kind := schema.get("type", []), list) else [kind]):
        yield path, schema
    for one in schema.get("anyOf", ()):
        yield from _numbers(one, path)
    for name, inner in schema.get("properties", {}).items():
        yield from _numbers(inner, (*path, name))
    for name, key in ((ANY_NAME, "additionalProperties"), (ITEM, "items")):
        if isinstance(inner := schema.get(key), dict):
            yield from _numbers(inner, (*path, name))


NUMBERS = dict(_numbers(WHOLE))


def _chosen(counter: Iterator[int], schema: Raw) -> int:
    """A large number of its own, or the largest that may be."""
    if "enum" in schema:
        return int(max(schema["enum"]))
    return int(schema.get("maximum", LARGE + next(counter)))


def _put(at: Raw, path: Place, value: int) -> None:
    for index, part in enumerate(path):
        if path[index + 1 :] == (ITEM,):
            at[part] = [value]
            return
        if index == len(path) - 1:
            at[part] = value
        at = at.setdefault(part, {})


def _values(numbers: dict[Place, int]) -> Raw:
    values = copy.deepcopy(SWITCHED_ON)
    for path, number in numbers.items():
        _put(values, path, number)
    return values


@pytest.mark.parametrize("version", [4, 3])
def test_every_whole_number_is_written_out(request: pytest.FixtureRequest, tmp_path: Path, version: int) -> None:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm", "helm3")
    counter = itertools.count()
    numbers = {path: _chosen(counter, schema) for path, schema in NUMBERS.items()}
    assert {("revisionHistoryLimit",), ("webhook", "drainSeconds"), ("networkPolicy", "apiServerPorts", ITEM)} <= set(
        numbers
    )
    assert sum(number >= LARGE for number in numbers.values()) > len(numbers) / 2
    helm = Helm(tmp_path, version=version)
    one = {path: number for path, number in numbers.items() if path != ("recommender", "replicas")}
    several = {path: number for path, number in numbers.items() if path != ONE_WITH_A_VOLUME}
    text = ""
    for chosen, more in ((one, {}), (several, SEVERAL)):
        values = _values(chosen)
        values["recommender"] |= more
        text += helm.render(values)
    assert re.findall(r".*[0-9]e\+?[0-9].*", text) == []
    assert [".".join(path) for path, number in numbers.items() if not re.search(rf"(?<!\d){number}(?!\d)", text)] == []
