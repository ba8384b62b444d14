"""`vllm-rightsizer list`: every workload with a recommendation, as a table and as documents; and where there is none,
what to do next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from recommender.api.object_store import ObjectReader, Raw
from recommender.api.objects import InvalidObjectError
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.scopes import ENABLED
from recommender.discovery import Pod, census_of, discover, opted_in
from recommender.resolution import Resolver
from vllm_plugin.names import LABEL_INJECT, LABEL_INJECTED
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.output import write_document, write_out
from vllm_rightsizer.reading import Source, read_namespaces, read_workloads
from vllm_rightsizer.reading_options import ListOutput, SortColumn
from vllm_rightsizer.tables import drawn
from vllm_rightsizer.workload_rows import Row, rows_of, sorted_by, total_of
from vllm_rightsizer.workload_tables import csv_of, table_of

_UNLIMITED = 100_000
"""Characters of a line that no terminal bounds."""
_MOST_NAMES = 5


def print_list(source: Source, namespace: str | None, sort: SortColumn, output: ListOutput) -> None:
    """Print the workloads of `namespace`, None for all. What is empty is no error: standard error says what to do."""
    objects = read_workloads(source, namespace)
    rows = sorted_by(rows_in(objects, namespace), sort)
    if not rows:
        print(hint_of(_namespaces(source), namespace), file=sys.stderr)
    if output is ListOutput.CSV:
        write_out(csv_of(rows))
    elif output in (ListOutput.JSON, ListOutput.YAML):
        document = {"workloads": [row.to_json() for row in rows], "total": total_of(rows).to_json()}
        write_document(document, as_yaml=output is ListOutput.YAML)
    elif rows:
        write_out(_shown(rows, wide=output is ListOutput.WIDE))


def rows_in(objects: ObjectReader, namespace: str | None = None) -> list[Row]:
    """Those of `namespace`, None for all; what cannot be understood is named on standard error."""
    return rows_of(_recommendations(objects, namespace), _pods(objects))


def hint_of(namespaces: Sequence[Raw] | None, namespace: str | None) -> str:
    """What to do where nothing is recommended, in `namespace` or at all; `namespaces`: all, None where they may not be
    seen."""
    label = f"{LABEL_INJECT}={ENABLED}"
    begin = f"`kubectl label namespace {namespace or 'NAME'} {label}`, then restart its vLLM workloads"
    where = f" in namespace {namespace}" if namespace else ""
    if namespaces is None:
        return f"nothing is recommended{where}: vLLM pods are measured once their namespace opted in, with {begin}"
    found = sorted(filter(None, map(opted_in, namespaces)))
    if namespace is not None and all(raw["metadata"]["name"] != namespace for raw in namespaces):
        return f"there is no namespace {namespace}: see `kubectl get namespaces`"
    if namespace is not None and namespace not in found:
        return f"nothing is recommended{where}, which does not carry the label {label}: {begin}"
    if not found:
        return f"nothing is recommended, and no namespace carries the label {label}: {begin}"
    names = ", ".join(found[:_MOST_NAMES]) + (", …" if len(found) > _MOST_NAMES else "")
    return (
        f"nothing is recommended yet in {namespace or names}: the recommender begins with the first vLLM pod that "
        f"started since the namespace opted in. `kubectl get pods -A -l {LABEL_INJECTED}` shows pods with the plugin; "
        "where there are some, `vllm-rightsizer doctor` says why they are not measured"
    )


def _recommendations(objects: ObjectReader, namespace: str | None) -> list[VLLMRecommendation]:
    found: list[VLLMRecommendation] = []
    for raw in objects.list(VLLMRecommendation.KIND, namespace):
        try:
            found.append(VLLMRecommendation.from_json(raw))
        except InvalidObjectError as error:
            print(f"passed over: {error}", file=sys.stderr)
    return found


def _pods(objects: ObjectReader) -> tuple[Pod, ...]:
    """Whatever their namespaces say by now: those that nothing is recommended for count nowhere."""
    census = census_of(objects)
    everywhere = replace(census, opted_in=frozenset(seen.namespace for seen in census.pods))
    found = discover(everywhere, Resolver(objects, {}).owner_groups())
    return (*found.injected, *found.bare)


def _namespaces(source: Source) -> list[Raw] | None:
    try:
        return read_namespaces(source).list("Namespace")
    except UserError:
        # Whoever may see one namespace alone is helped without.
        return None


def _shown(rows: Sequence[Row], *, wide: bool) -> str:
    console = Console()
    room = console.width if console.is_terminal else None
    rows_drawn = table_of(rows, room, wide=wide)
    width = _UNLIMITED if wide or room is None else room
    return drawn(lambda wanted: wanted.print(rows_drawn), width, console)
