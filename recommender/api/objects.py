"""What all objects of the API group have in common: metadata, conditions, how they are read and written."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.types import JsonValue

from recommender.api.units import DURATION_PATTERN, QUANTITY_PATTERN, parse_duration, parse_quantity
from vllm_plugin.names import API_VERSION


class InvalidObjectError(ValueError):
    """An object that does not fit its type; the message names the object, the field and what is wrong with it."""


class ApiModel(BaseModel):
    """A value of the API: immutable, camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
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


def rules(*texts: tuple[str, str]) -> dict[str, JsonValue]:
    """CEL rules that the API server holds a value to, each with what it says where the rule is broken."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in texts]}


def listed_by(key: str) -> dict[str, JsonValue]:
    """Says that no two items of a list have the same `key`: so several writers can own an item each."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


Duration = Annotated[
    str,
    BeforeValidator(_checked_duration),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": 32,
            "pattern": DURATION_PATTERN,
            **rules(("self.matches('[1-9]')", "must be longer than nothing")),
        }
    ),
]
"""Text as the user wrote it (`48h`); `parse_duration` gives seconds."""

Quantity = Annotated[
    str,
    BeforeValidator(_checked_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
            **rules(("type(self) == string || self >= 0", "must not be negative")),
        }
    ),
]
"""Text as the user wrote it (`4Gi`); `parse_quantity` gives bytes."""

_SECONDS = len("2026-01-31T23:59:59")
Time = Annotated[
    datetime,
    # Ten times faster than strftime(), and a status has eight of them.
    PlainSerializer(lambda at: f"{at.isoformat()[:_SECONDS]}Z", return_type=str, when_used="json"),
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
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: str
    """Why, in a word for programs."""
    message: str
    """Why, in a sentence."""
    last_transition_time: Time
    """When the status changed last."""
    observed_generation: int | None = None
    """The generation of the spec that this is about."""


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
