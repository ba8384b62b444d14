"""The collections of the API server, as its addresses name them."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.api.objects import ApiObject
from vllm_plugin.names import API_VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection: the API group ("" for the core), its version, the plural of the address, and the kind."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As objects of the kind say it: group and version, of the core the version alone."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The address of the collection, of its part in `namespace`, or of the object `name`."""
        parts = ["api", self.version] if not self.group else ["apis", self.group, self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        return "/" + "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def resource_of(model: type[ApiObject]) -> Resource:
    """The collection of a type of ours."""
    group, _, version = API_VERSION.partition("/")
    return Resource(group, version, model.PLURAL, model.KIND)
