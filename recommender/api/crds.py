"""The CustomResourceDefinitions of our API group, made from its types."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from recommender.api.objects import ApiObject
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.recommendations import VLLMRecommendation
from vllm_plugin.names import API_VERSION, GROUP

Raw = dict[str, Any]

_VERSION = API_VERSION.removeprefix(f"{GROUP}/")
_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "maxLength",
    "minimum",
    "maximum",
    "anyOf",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
"""What means the same in JSON Schema and in a CRD, in the order in which it is written."""


@dataclass(frozen=True)
class _Listing:
    """How `kubectl get` calls and shows objects of a type: short names, and columns of name, type, JSONPath; `wide`:
    those that `-o wide` adds."""

    type: type[ApiObject]
    short_names: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    wide: tuple[tuple[str, str, str], ...] = ()


def _condition(name: str) -> tuple[str, str, str]:
    return name, "string", f'.status.conditions[?(@.type=="{name}")].status'


_LISTINGS = (
    _Listing(
        VLLMPolicy,
        ("vllmpol",),
        (
            ("Window", "string", ".spec.observationWindow"),
            ("Percentile", "integer", ".spec.percentile"),
            ("Caution", "string", ".spec.caution"),
            ("Strategy", "string", ".spec.strategy"),
            ("Mode", "string", ".spec.mode"),
            _condition("Valid"),
        ),
    ),
    _Listing(
        AutomatedNamespace,
        ("autons",),
        (
            ("Optimize", "boolean", ".spec.vllmOptimize"),
            ("Policy", "string", ".spec.defaultVllmPolicy"),
            _condition("Valid"),
        ),
    ),
    _Listing(
        ClusterAutomation,
        ("clauto",),
        (
            ("Optimize", "boolean", ".spec.vllmOptimize"),
            ("Policy", "string", ".spec.defaultVllmPolicy"),
            ("Mode", "string", ".spec.mode"),
            ("Emitter", "string", ".spec.emitter"),
            _condition("Valid"),
        ),
    ),
    _Listing(
        VLLMRecommendation,
        ("vllmrec",),
        (
            ("Kind", "string", ".spec.targetRef.kind"),
            ("Workload", "string", ".spec.targetRef.name"),
            ("Policy", "string", ".status.policy.value"),
            ("KV bytes", "integer", ".status.target.kvBytes"),
            ("Saved bytes", "integer", ".status.savings.bytes"),
            ("Bound by", "string", ".status.target.boundBy"),
            _condition("Recommended"),
            _condition("Applied"),
            _condition("Degraded"),
        ),
        (("Replicas", "integer", ".status.replicas"), ("Model", "string", ".status.measured.model")),
    ),
)
_AGE = ("Age", "date", ".metadata.creationTimestamp")


def definitions() -> list[Raw]:
    """One CustomResourceDefinition for each type, as it is applied to an API server."""
    return [_definition(listing) for listing in _LISTINGS]


def _definition(listing: _Listing) -> Raw:
    kind = listing.type
    version: Raw = {
        "name": _VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _object_schema(kind)},
        "additionalPrinterColumns": [
            *({"name": name, "type": type_, "jsonPath": path} for name, type_, path in (*listing.columns, _AGE)),
            *({"name": name, "type": type_, "jsonPath": path, "priority": 1} for name, type_, path in listing.wide),
        ],
    }
    if "status" in kind.model_fields:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.NAMESPACED else "Cluster",
            "names": {
                "kind": kind.KIND,
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                "shortNames": list(listing.short_names),
                "categories": ["vllm-rightsizer"],
            },
            "versions": [version],
        },
    }


def _object_schema(kind: type[ApiObject]) -> Raw:
    """The schema of a whole object; of its metadata only rules may speak, the rest is the API server's own."""
    schema = kind.model_json_schema(by_alias=True)
    properties = schema["properties"]
    whole = _structural(schema | {"properties": {}}, {})
    whole["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": _structural(properties["spec"], schema["$defs"]),
    }
    if "status" in properties:
        whole["properties"]["status"] = _structural(properties["status"], schema["$defs"], defaults=False)
    # The metadata is always there.
    if "spec" not in schema["required"]:
        del whole["required"]
    else:
        whole["required"] = ["spec"]
    return whole


def _structural(schema: Raw, definitions: Raw, *, defaults: bool = True) -> Raw:
    """A JSON Schema of pydantic as a structural schema: nothing is referred to, null is never a value.

    `defaults`: whether the API server is to write them into objects.
    """
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        schema = referred | {key: value for key, value in schema.items() if key != "$ref"}
        if "default" in schema:
            # Its own fields say the rest.
            schema = schema | {"default": {}}
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) < len(schema.get("anyOf", ())):
        [only] = options
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _structural(only | rest, definitions, defaults=defaults)
    found = {key: schema[key] for key in _KEPT if key in schema}
    if "description" in found:
        found["description"] = inspect.cleandoc(found["description"]).replace("`", "")
    if "const" in schema:
        found["enum"] = [schema["const"]]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in schema:
            found[bound] = schema[exclusive]
            found[exclusive] = True
    if found.get("type") == "integer" and "enum" not in found:
        found["format"] = "int64"
    if defaults and schema.get("default") is not None:
        found["default"] = schema["default"]
    if "items" in schema:
        found["items"] = _structural(schema["items"], definitions, defaults=defaults)
    if "properties" in schema:
        found["properties"] = {
            name: _structural(field, definitions, defaults=defaults) for name, field in schema["properties"].items()
        }
    elif found.get("type") == "object":
        found["x-kubernetes-preserve-unknown-fields"] = True
    return found
