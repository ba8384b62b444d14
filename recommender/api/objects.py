"""What all objects of the API group have in common: metadata, conditions, how they are read and written."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.alias_generators import to_camel

from recommender.api.units import parse_duration, parse_quantity
from vllm_plugin.names import API_VERSION


class InvalidObjectError(ValueError):
    """An object that does not fit its type; the message names the object, the field and what is wrong with it."""


class ApiModel(BaseModel):
    """A value of the API: immutable, camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    def to_json(self) -> dict[str, Any]:
        """The value as the API server stores it: no field that is None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _checked_duration(text: object) -> str:
    parse_duration(str(text))
    return str(text)


def _checked_quantity(text: object) -> str:
    parse_quantity(str(text))
    return str(text)


Duration = Annotated[str, BeforeValidator(_checked_duration)]
"""Text as the user wrote it (`48h`); `parse_duration` gives seconds."""

Quantity = Annotated[str, BeforeValidator(_checked_quantity)]
"""Text as the user wrote it (`4Gi`); `parse_quantity` gives bytes."""

Time = Annotated[
    datetime, PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str, when_used="json")
]


class OwnerReference(ApiModel):
    model_config = ConfigDict(extra="allow")

    api_version: str
    kind: str
    name: str
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiModel):
    """The metadata that we read or write; what else the API server keeps there is left alone."""

    model_config = ConfigDict(extra="allow")

    name: str
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class Condition(ApiModel):
    """A `metav1.Condition`."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: Time
    observed_generation: int | None = None


class ApiObject(ApiModel):
    """An object of our API group. Subclasses give `KIND`, `PLURAL`, `NAMESPACED`, and their `spec` and `status`."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    NAMESPACED: ClassVar[bool]

    api_version: str = Field(default=API_VERSION, pattern=f"^{API_VERSION}$")
    kind: str
    metadata: ObjectMeta

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Read one object; raises `InvalidObjectError` with a sentence a field."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            name = (raw.get("metadata") or {}).get("name", "without a name") if isinstance(raw, dict) else ""
            faults = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
            )
            raise InvalidObjectError(f"{cls.KIND} {name}: {faults}") from error
