"""docs/metrics.md lists what stands on the pages, and nothing else: names, types, units and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from metric_pages import PAGES, ROOT
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from recommender.keys import WORKLOAD_LABELS
from vllm_plugin.names import PREFIX

_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (\w*) ?\| (.*?) ?\| (.+) \|$", re.MULTILINE)
_TARGET = ("target_namespace", "owner_group", "owner_kind", "owner_name", "target_container", "fingerprint")
_GROUPS = {"*workload*": WORKLOAD_LABELS, "*target*": _TARGET}
_ENDINGS = {"counter": "_total", "info": "_info"}


class Listed(NamedTuple):
    kind: str
    unit: str
    labels: frozenset[str]


def listed() -> Iterator[tuple[str, Listed]]:
    for name, kind, unit, labels, _ in _ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        words = [word.strip() for word in labels.split(",") if word.strip()]
        named = {label for word in words for label in _GROUPS.get(word, (word.strip("`"),))}
        yield PREFIX + name, Listed(kind, unit, frozenset(named))


def shown() -> Iterator[tuple[str, Listed]]:
    for asked in PAGES.values():
        with asked() as page:
            text = page({"Accept": "application/openmetrics-text"}).text
        for family in text_string_to_metric_families(text):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            assert family.samples, family.name
            name = family.name + _ENDINGS.get(family.type, "")
            yield name, Listed(family.type, family.unit, frozenset(labels))


def test_the_list_has_what_the_pages_have() -> None:
    rows, families = list(listed()), list(shown())
    assert len(dict(rows)) == len(rows), "a metric is listed twice"
    assert len(dict(families)) == len(families), "two pages have a metric of one name"
    assert len(families) > 75
    assert dict(rows) == dict(families)
