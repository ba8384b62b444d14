"""Rules less one right of them, and what is said of the one that is missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.lab.control_plane import ControlPlane
from recommender.api.owners import CUSTOM_OWNERS
from recommender.autoscaling import AUTOSCALERS

Raw = dict[str, Any]
Right = tuple[str, str]
"""Verb and resource."""

FOREIGN = [resource for resource in (*CUSTOM_OWNERS, *AUTOSCALERS) if "." in resource.group]
"""Kinds that others define."""
_REFUSAL = re.compile(r'cannot (\w+) resource "([^"]+)"')


def rights_of(rules: list[Raw]) -> Iterator[Right]:
    for rule in rules:
        for resource in rule["resources"]:
            yield from ((verb, resource) for verb in rule["verbs"])


def without(rules: list[Raw], right: Right) -> list[Raw]:
    verb, resource = right
    kept = []
    for rule in rules:
        others = [one for one in rule["resources"] if one != resource]
        verbs = [one for one in rule["verbs"] if one != verb]
        kept.append(rule | {"resources": others})
        kept.append(rule | {"resources": [one for one in rule["resources"] if one == resource], "verbs": verbs})
    return [rule for rule in kept if rule["resources"] and rule["verbs"]]


def said(trouble: str | None) -> set[Right]:
    """The rights that an API server misses, by its own words."""
    return {(verb, resource) for verb, resource in _REFUSAL.findall(trouble or "")}


async def until(condition: Callable[[], bool], now: Callable[[], object]) -> None:
    """Until it holds; otherwise it is told how it stands `now`."""
    try:
        async with asyncio.timeout(180):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"at last: {now()}")


def holds(plane: ControlPlane, name: str, rules: list[Raw]) -> bool:
    """Whether the API server knows of all these rights of the user of that name."""
    for rule in rules:
        for verb, resource in rights_of([rule]):
            plural, _, subresource = resource.partition("/")
            for named in rule.get("resourceNames", [""]):
                attributes = {"group": rule["apiGroups"][0], "resource": plural, "verb": verb, "name": named}
                review = {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": {"user": name, "resourceAttributes": attributes | {"subresource": subresource}},
                }
                answer = plane.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
                if not answer["status"]["allowed"]:
                    return False
    return True


def define(plane: ControlPlane) -> None:
    """Definitions of the kinds of others: any object is one."""
    definitions = []
    for resource in FOREIGN:
        version = {
            "name": resource.version,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }
        names = {"plural": resource.plural, "kind": resource.kind, "singular": resource.kind.lower()}
        metadata: Raw = {"name": f"{resource.plural}.{resource.group}"}
        if resource.group.endswith("x-k8s.io"):
            metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, of a test"}
        definitions.append(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": metadata,
                "spec": {"group": resource.group, "scope": "Namespaced", "names": names, "versions": [version]},
            }
        )
    plane.define(*definitions)
