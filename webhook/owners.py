"""Owners of pods: what the webhook keeps of them, which is only what says something."""

from __future__ import annotations

from dataclasses import replace

from recommender.api.apiserver.resources import Resource
from recommender.api.owners import Owner, OwnerKey, Raw, read_owner


def owner_of(raw: Raw, kind: Resource | None = None) -> tuple[OwnerKey, Owner] | None:
    """What is kept of an object that may own pods, as `read_owner` says; None where it says nothing, as most do."""
    found = read_owner(raw, kind)
    if found is None:
        return None
    key, owner = found
    if not owner.annotations and not owner.owners:
        return None
    # Nobody refers to it: there is no need for what identifies it.
    return key, replace(owner, api_version="", uid="")
