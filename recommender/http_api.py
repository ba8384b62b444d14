"""The HTTP API: what is recommended and why, what another policy would do, what was and what could be packed.

Everything is read-only JSON under `/api/v1`. Errors are those of RFC 9457: `status`, `title`, and as `detail` a
sentence that says what was wrong and what to do. Objects are copied on the event loop, in whose memory they lie;
whatever takes longer is done at a desk, by a reader of the history of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from recommender.api.object_store import ObjectReader, Raw
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.recommendations import VLLMRecommendation
from recommender.desks import BusyError, Desk, Leave, StoppedError
from recommender.discovery import Census, census_of
from recommender.explanations import (
    NothingToExplainError,
    SeveralToExplainError,
    explanation_of,
    find_recommendation,
    key_of,
)
from recommender.history import HistoryReader
from recommender.history_files import HistoryError
from recommender.listed_objects import ListedObjects
from recommender.packing_plans import plan_of
from recommender.plan_documents import plan_json
from recommender.policy_changes import PolicyChangeError, policy_change
from recommender.prices import Prices
from recommender.trends import KEPT_SECONDS, SLOT_SECONDS, Point
from recommender.what_ifs import comparisons
from vllm_plugin.names import VERSION

ROOT = "/api/v1"
_SIZES = (VLLMRecommendation.KIND, VLLMPolicy.KIND)
_FLEET = (*_SIZES, AutomatedNamespace.KIND, ClusterAutomation.KIND, "Node")
_AGAIN_SECONDS = 5
_SHOWN = (
    *("fingerprint", "replicas", "gpus", "automation", "policy", "measured", "estimated", "target", "savings"),
    *("coverage", "conditions"),
)
_MOST_SETTINGS = 64

Work = Callable[[Leave], Any]


@dataclass(frozen=True)
class ApiSources:
    """From where is answered. `objects` and `look` are called on the event loop; `look` is None where the pods lie in
    `objects`. `closed` tells why there is no answer now, None where there is one."""

    objects: ObjectReader
    history: Path
    prices: Callable[[], Prices] = Prices
    look: Callable[[], Census] | None = None
    closed: Callable[[], str | None] = lambda: None


class _Parameters(BaseModel):
    """What is not known is refused: a filter that is misspelt would show too much."""

    model_config = ConfigDict(extra="forbid")


class _InNamespace(_Parameters):
    namespace: str | None = Field(default=None, description="Only there; without it, everywhere.")


class _Since(_Parameters):
    days: float = Field(default=30, gt=0, le=30, description="How far back.")


class _WhatIf(_InNamespace):
    workload: str | None = Field(
        default=None, description="Name of a workload, or of its VLLMRecommendation; without it, all."
    )
    policy: str | None = Field(default=None, description="VLLMPolicy to try; without it, each workload's own.")
    settings: list[str] = Field(
        default=[], alias="set", max_length=_MOST_SETTINGS, description="FIELD=VALUE to change in it; repeatable."
    )


class _ProblemError(Exception):
    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HttpApi:
    """The application, to be mounted at `ROOT`."""

    def __init__(self, sources: ApiSources, quick: Desk | None = None, slow: Desk | None = None) -> None:
        """`quick` looks at one workload, `slow` at many."""
        self._sources = sources
        self._quick = quick or Desk("api-quick", waiting=8, seconds=10)
        self._slow = slow or Desk("api-slow", waiting=0, seconds=120)
        self.application = FastAPI(
            title="vllm-rightsizer", version=VERSION, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
        )
        routes = APIRouter(responses=_PROBLEMS)
        routes.add_api_route("/workloads", self.workloads)
        routes.add_api_route("/namespaces/{namespace}/workloads/{name}", self.explanation)
        routes.add_api_route("/namespaces/{namespace}/workloads/{name}/trend", self.trend)
        routes.add_api_route("/trend", self.cluster_trend)
        routes.add_api_route("/what-if", self.what_if)
        routes.add_api_route("/plan", self.plan)
        self.application.include_router(routes)
        self.application.add_exception_handler(_ProblemError, _said)
        self.application.add_exception_handler(HTTPException, _said_by_the_framework)
        self.application.add_exception_handler(RequestValidationError, _misread)
        self.application.add_exception_handler(Exception, _failed)

    def close(self) -> None:
        """Nothing more is begun, and what is asked is given up."""
        self._quick.close()
        self._slow.close()

    async def workloads(self, query: Annotated[_InNamespace, Query()]) -> Response:
        """Every workload with its size: what was measured, what is recommended, what that saves, and the conditions."""
        raws = self._copy((VLLMRecommendation.KIND,), query.namespace).list(VLLMRecommendation.KIND)
        return _json({"workloads": [_workload(raw) for raw in raws]})

    async def explanation(self, request: Request, namespace: str, name: str) -> Response:
        """Where a workload's size comes from, as `vllm-rightsizer explain -o json` prints it. `name` is the workload's
        or that of its VLLMRecommendation."""
        objects = self._copy(_SIZES, namespace)

        def work(_: Leave) -> Any:
            recommendation = find_recommendation(objects, namespace, name)
            with self._history() as history:
                return explanation_of(objects, history, recommendation).to_json()

        return await self._done(request, self._quick, work)

    async def trend(self, request: Request, namespace: str, name: str, query: Annotated[_Since, Query()]) -> Response:
        """A workload's GPU memory by half hours: what is used, recommended, claimed, and claimed by its author."""
        objects = self._copy((VLLMRecommendation.KIND,), namespace)

        def work(_: Leave) -> Any:
            subject = str(key_of(find_recommendation(objects, namespace, name)))
            with self._history() as history:
                return _trend(dict(history.trend(subject, _since(query))))

        return await self._done(request, self._quick, work)

    async def cluster_trend(self, request: Request, query: Annotated[_Since, Query()]) -> Response:
        """The same of all workloads together, and what the Nodes can give."""

        def work(leave: Leave) -> Any:
            with self._history() as history:
                return _trend(history.total_trend(_since(query), leave.check))

        self._copy((), None)
        return await self._done(request, self._slow, work)

    async def what_if(self, request: Request, query: Annotated[_WhatIf, Query()]) -> Response:
        """What another policy would recommend for a workload, a namespace or the cluster, and how the window that was
        seen would have gone with it, as `vllm-rightsizer what-if -o json` prints it."""
        if query.policy is None and not query.settings:
            raise _ProblemError(
                HTTPStatus.BAD_REQUEST, "say which policy to try: policy=NAME, or set=FIELD=VALUE, as set=percentile=95"
            )
        objects = self._copy(_SIZES, query.namespace)

        def work(leave: Leave) -> Any:
            change = policy_change(objects, query.policy, query.settings)
            found = []
            with self._history() as history:
                for one in comparisons(objects, history, change, query.namespace, query.workload):
                    leave.check()
                    found.append(one.to_json())
            if not found and query.workload is not None:
                where = f"namespace {query.namespace}" if query.namespace else "no namespace"
                raise NothingToExplainError(f"{where} has a VLLMRecommendation of a workload called {query.workload}")
            return found

        return await self._done(request, self._slow, work)

    async def plan(self, request: Request, query: Annotated[_Parameters, Query()]) -> Response:  # noqa: ARG002 it refuses what is not known
        """Which engines fit together on which GPUs after right-sizing, as `vllm-rightsizer plan -o json` prints it."""
        objects = self._copy(_FLEET, None)
        look = self._sources.look
        census = look() if look is not None else census_of(self._sources.objects)
        prices = self._sources.prices()
        return await self._done(request, self._slow, lambda _: plan_json(plan_of(objects, prices, census)))

    def _copy(self, kinds: tuple[str, ...], namespace: str | None) -> ListedObjects:
        """The objects of `kinds` as they are now; recommendations only of `namespace`, where one is given."""
        closed = self._sources.closed()
        if closed is not None:
            raise _ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, closed)
        of_namespace = {VLLMRecommendation.KIND: namespace}
        return ListedObjects({kind: self._sources.objects.list(kind, of_namespace.get(kind)) for kind in kinds})

    def _history(self) -> HistoryReader:
        return HistoryReader.open(self._sources.history)

    async def _done(self, request: Request, desk: Desk, work: Work) -> Response:
        """What `work` finds, as JSON; written at the desk, too."""

        async def wanted() -> bool:
            return not await request.is_disconnected()

        try:
            return await desk.do(lambda leave: _json(work(leave)), wanted)
        except BusyError:
            said = "others are answered at this moment: ask again later, one question at a time"
            raise _ProblemError(HTTPStatus.TOO_MANY_REQUESTS, said) from None
        except StoppedError as error:
            said = f"no answer within {desk.seconds:g} s: ask for less, such as one namespace or one workload"
            said = said if error.late else "this recommender ends: ask again later"
            raise _ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, said) from None
        except SeveralToExplainError as error:
            raise _ProblemError(HTTPStatus.CONFLICT, str(error)) from None
        except NothingToExplainError as error:
            raise _ProblemError(HTTPStatus.NOT_FOUND, str(error)) from None
        except PolicyChangeError as error:
            raise _ProblemError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except HistoryError as error:
            raise _ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None


def _workload(raw: Raw) -> dict[str, Any]:
    """What a list shows of a recommendation; one that cannot be understood is shown as it stands."""
    reference, status = (raw.get("spec") or {}).get("targetRef") or {}, raw.get("status") or {}
    return {
        "namespace": raw["metadata"].get("namespace"),
        **{part: reference.get(part) for part in ("group", "kind", "name", "container")},
        "recommendation": raw["metadata"]["name"],
        "paused": bool((raw.get("spec") or {}).get("paused")),
        **{part: status.get(part) for part in _SHOWN},
    }


def _since(query: _Since) -> float:
    return time.time() - min(query.days * 86_400, KEPT_SECONDS)


def _trend(points: Mapping[float, Point]) -> dict[str, Any]:
    shown = []
    for at, point in sorted(points.items()):
        sizes = {name.removesuffix("_bytes"): value for name, value in asdict(point).items()}
        shown.append({"at": at, **{f"{name}Bytes": value for name, value in sizes.items() if value is not None}})
    return {"slotSeconds": SLOT_SECONDS, "points": shown}


def _json(content: Any) -> Response:
    return Response(json.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"})


def _problem(status: HTTPStatus, detail: str) -> Response:
    waiting = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    return Response(
        json.dumps({"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}),
        status_code=status.value,
        media_type="application/problem+json",
        headers={"Retry-After": str(_AGAIN_SECONDS)} if waiting else None,
    )


async def _said(request: Request, error: Exception) -> Response:
    return _problem(error.status, error.detail) if isinstance(error, _ProblemError) else await _failed(request, error)


async def _failed(_: Request, __: Exception) -> Response:
    """An error of ours; uvicorn logs it."""
    return _problem(_FAULT, "an error of ours: the log of the recommender has it")


async def _said_by_the_framework(_: Request, error: Exception) -> Response:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else _FAULT
    said = {
        HTTPStatus.NOT_FOUND: f"there is nothing here: what there is stands in {ROOT}/openapi.json",
        HTTPStatus.METHOD_NOT_ALLOWED: "everything here is only read: use GET",
    }
    return _problem(status, said.get(status, status.description))


async def _misread(_: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else ()
    said = "; ".join(f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in faults)
    return _problem(HTTPStatus.BAD_REQUEST, f"the query cannot be understood: {said}")


_FAULT = HTTPStatus.INTERNAL_SERVER_ERROR
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status.value: {"description": status.phrase, "content": {"application/problem+json": {}}}
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}
