"""What an hour of a GPU costs: by the user's own map, by who knows the node's bill, or by a dated table that comes with
us; never a guess.

The table knows one cloud in one region. Whatever none of them names has no price, and the reason says what to write
into the map.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from recommender.api.objects import ApiModel
from recommender.gpu_nodes import GpuNode

logger = logging.getLogger(__name__)

MONTH_HOURS = 730

PerHour = Annotated[float, Field(ge=0)]


class PricesError(Exception):
    """A map of prices that cannot be read; the message says which, where and what is wrong with it."""


class PriceMap(ApiModel):
    """The user's own prices, each of one GPU for an hour."""

    currency: str = Field(default="USD", min_length=1)
    """As it is shown behind each amount."""
    date: date
    """When these prices held."""
    namespaces: dict[str, PerHour] = Field(default_factory=dict)
    """Of every GPU that pods of a namespace use; wins over the other two."""
    instance_types: dict[str, PerHour] = Field(default_factory=dict)
    """By the Node's label node.kubernetes.io/instance-type."""
    products: dict[str, PerHour] = Field(default_factory=dict)
    """By the Node's label nvidia.com/gpu.product, without -SHARED and -MIG-…."""


@dataclass(frozen=True)
class Price:
    """Of one GPU for an hour; `day` is that on which it held, `source` says who named it."""

    per_hour: float
    currency: str
    day: date
    source: str

    def month(self, gpus: float) -> float:
        """Of `gpus` GPUs for a month of 730 h, in whole cents."""
        return round(self.per_hour * gpus * MONTH_HOURS, 2)


@dataclass(frozen=True)
class Unpriced:
    """Why there is no price, and what to do about it."""

    reason: str


class _Instance(ApiModel):
    price_per_hour: PerHour
    gpus: int = Field(ge=1)


class _Table(ApiModel):
    date: date
    currency: str
    region: str
    source: str
    instances: dict[str, _Instance]


@functools.cache
def _table() -> _Table:
    """The table as it comes with us (`price_table.json`)."""
    return _Table.model_validate_json((resources.files("recommender") / "price_table.json").read_bytes())


@dataclass(frozen=True)
class NodePrices:
    """What somebody who knows the bills says that one GPU of a node costs an hour, by node; `source` is who."""

    per_hour: Mapping[str, float]
    day: date
    source: str


class Prices:
    """Prices of GPUs by where they are. `own`: what the user says, `nodes`: what is known of single nodes; None where
    nothing is. Those of nodes are taken to be in the currency of the user's map, or in the table's."""

    def __init__(self, own: PriceMap | None = None, nodes: NodePrices | None = None) -> None:
        self._own = own
        self._nodes = nodes

    def with_nodes(self, nodes: NodePrices | None) -> Prices:
        """The same, and what is known of single nodes."""
        return Prices(self._own, nodes)

    def price(self, namespace: str, node: GpuNode | None) -> Price | Unpriced:
        """Of one GPU on `node` that a pod of `namespace` uses; `node` is None where the pod runs on none that is known.

        The user's map comes first: namespace, instance type, product; then what is known of the node, then the table.
        """
        own = self._own
        if own is not None and namespace in own.namespaces:
            return _own_price(own, own.namespaces[namespace], f"namespace {namespace}")
        if node is None:
            return Unpriced("the pods run on no known node")
        if own is not None and node.instance_type in own.instance_types:
            return _own_price(own, own.instance_types[node.instance_type], f"instance type {node.instance_type}")
        if own is not None and node.product in own.products:
            return _own_price(own, own.products[node.product], f"product {node.product}")
        if self._nodes is not None and node.name in self._nodes.per_hour:
            currency = own.currency if own is not None else _table().currency
            return Price(self._nodes.per_hour[node.name], currency, self._nodes.day, self._nodes.source)
        return self._by_table(node)

    def _by_table(self, node: GpuNode) -> Price | Unpriced:
        table = _table()
        # Amounts in two currencies do not add up.
        if self._own is not None and self._own.currency != table.currency:
            return Unpriced(f"{_what(node)} is not in the map of prices, and the table is in {table.currency}")
        instance = table.instances.get(node.instance_type)
        if instance is None:
            return Unpriced(f"{_what(node)} is in no table: name its price in the map of prices")
        if node.region != table.region:
            where = node.region or "an unknown region"
            return Unpriced(
                f"{node.instance_type} is known in {table.region} only, and the node is in {where}: name its price in "
                "the map of prices"
            )
        return Price(
            instance.price_per_hour / instance.gpus, table.currency, table.date, f"{table.source}, {table.region}"
        )


def read_price_map(path: Path) -> PriceMap:
    """The map in the file `path`, YAML or JSON. Raises `PricesError`."""
    try:
        written = YAML(typ="safe", pure=True).load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise PricesError(f"the prices in {path} cannot be read: {error}") from error
    except (YAMLError, ValueError) as error:
        # A day that no month has is a ValueError.
        raise PricesError(f"the prices in {path} are no YAML: {' '.join(str(error).split())}") from error
    try:
        # Dates of YAML, too, are text in JSON.
        return PriceMap.model_validate_json(json.dumps(written, default=str))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        )
        raise PricesError(f"the prices in {path} cannot be understood: {faults}") from error
    except (TypeError, ValueError) as error:
        # YAML has keys that are lists, and values that hold themselves.
        raise PricesError(f"the prices in {path} cannot be understood: {error}") from error


class PriceFile:
    """The prices in a file that may change while we run, as a mounted ConfigMap does; what it said before goes on where
    it cannot be understood. Raises `PricesError` where that is so at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._prices = Prices(read_price_map(path))

    def __call__(self) -> Prices:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._prices = Prices(read_price_map(self._path))
            except PricesError as error:
                logger.error("%s; the prices before go on", error)
        return self._prices

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _own_price(own: PriceMap, per_hour: float, what: str) -> Price:
    return Price(per_hour, own.currency, own.date, f"own price of {what}")


def _what(node: GpuNode) -> str:
    known = [part for part in (node.instance_type, node.product) if part]
    return " with ".join(known) or f"node {node.name}, of which no label tells the instance type or the product,"
