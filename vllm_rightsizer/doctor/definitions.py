"""Does the API server know our kinds, as this version has them? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from recommender.api.crds import definitions
from vllm_rightsizer.doctor.facts import Facts, Raw, condition
from vllm_rightsizer.doctor.findings import Finding, Severity

_KIND = "CustomResourceDefinition"
_FIX = "vllm-rightsizer crds --apply"
_SHOWN = 3


def definitions_missing(facts: Facts) -> Iterator[Finding]:
    if _KIND in facts.unseen:
        return
    for ours in _ours():
        name = ours["metadata"]["name"]
        found = facts.one(_KIND, name)
        established = condition(found, "Established") if found is not None else None
        if found is not None and (established is None or established["status"] == "True"):
            continue
        seen = (
            "it is not there"
            if found is None
            else f"the API server does not serve it: {(established or {})['message']}"
        )
        why = f"{ours['spec']['names']['kind']} objects cannot be stored, so that nothing is recommended or followed"
        yield Finding("DefinitionMissing", Severity.CRITICAL, f"{_KIND} {name}", seen, why, _FIX)


def definitions_old(facts: Facts) -> Iterator[Finding]:
    for ours in _ours():
        name = ours["metadata"]["name"]
        found = facts.one(_KIND, name)
        if found is None:
            continue
        lacking = sorted(_fields(ours) - _fields(found))
        if lacking:
            shown = ", ".join(lacking[:_SHOWN]) + (f" and {len(lacking) - _SHOWN} more" if lacking[_SHOWN:] else "")
            why = "what is written of these fields is lost, without a word; Helm never upgrades CRDs"
            yield Finding("DefinitionOld", Severity.WARNING, f"{_KIND} {name}", f"it lacks {shown}", why, _FIX)


@cache
def _ours() -> list[Raw]:
    return definitions()


def _fields(definition: Raw) -> set[str]:
    """The paths of all fields of its versions, as `v1alpha1.spec.mode`."""
    found: set[str] = set()
    for version in definition["spec"]["versions"]:
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        found |= {f"{version['name']}.{path}" for path in _paths(schema)} | {version["name"]}
    return found


def _paths(schema: Raw) -> Iterator[str]:
    for name, inner in (schema.get("properties") or {}).items():
        yield name
        yield from (f"{name}.{path}" for path in _paths(inner))
    if isinstance(schema.get("items"), dict):
        yield from (f"[].{path}" for path in _paths(schema["items"]))
