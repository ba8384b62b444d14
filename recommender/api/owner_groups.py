"""Workloads that only the user knows of: pods that belong together by an owner or by labels that the user names."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from recommender.api.objects import ApiModel, rules


class OwnerKind(ApiModel):
    """A kind of owner, of any version."""

    group: str = ""
    """API group, without its version; empty for the core group."""
    kind: str
    """Kind of the owner."""


class CustomOwnerGroup(ApiModel):
    """Pods that are one workload. Of several groups that fit, the first one holds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.owner) || has(self.matchLabels) || has(self.byLabels)",
                "an owner group names an owner or labels",
            )
        )
    )

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    """Name of the group."""
    owner: OwnerKind | None = None
    """Pods below one owner of this kind, however far above them, are one workload, named as the owner."""
    match_labels: dict[str, str] | None = None
    """Pods that carry all of these labels are one workload, named as the group."""
    by_labels: list[str] | None = None
    """Pods with the same values of all of these labels are one workload each, named by the group and the values."""
