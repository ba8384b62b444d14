"""Malformed and mutated reviews through the webhook's whole HTTP side: `python -m bench.fuzz --reviews 100000 --json`.

Whatever comes, the answer is 200 with the pod allowed and the request's UID, or 400 where there is no review at all. A
patch applies, breaks none of the rules for names and values that the pod kept before, and is followed by no other one
where the patched pod comes back. Memory does not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import gc
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
from ruamel.yaml import YAML

from bench.fuzz_answers import fault_in, review_in
from bench.mutations import Raw, mutated_review
from bench.pods import pods_of
from recommender.api.claims import claim_template_name
from recommender.api.fingerprints import fingerprint
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.rounding import GIBIBYTE, MEBIBYTE, request_bytes
from recommender.api.sharing import EMITTERS
from recommender.api.workloads import workload_of
from webhook.app import create_app
from webhook.detection import detect
from webhook.knowledge import Knowledge, Recommended
from webhook.settings import InjectionSettings

EXAMPLES = Path(__file__).parent.parent / "deploy" / "examples"
_WAYS = (
    InjectionSettings(),
    InjectionSettings("init-container", "registry/plugin:1"),
    InjectionSettings("image-volume", "registry/plugin:1"),
)
_MOST_GROWTH_BYTES = 24 * MEBIBYTE
_MOST_FAULTS_KEPT = 20
_ALLOCATION = 20 * GIBIBYTE


@dataclass
class Findings:
    """What came of the reviews."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    reviews: int = 0
    patches: int = 0
    growth_bytes: int = 0
    """Resident memory at the end less that after the first tenth."""


class _Known:
    """What the webhook knows of the review that is being answered: as a rule a recommendation that fits it."""

    def __init__(self) -> None:
        self.now: Knowledge | None = Knowledge()

    def __call__(self) -> Knowledge | None:
        return self.now


async def fuzz(pods: Sequence[Raw], reviews: int, seed: int) -> Findings:
    """Send `reviews` mutations of reviews of `pods` to the application, in process; the same ones for one `seed`."""
    draw = random.Random(seed)
    found = Findings()
    known = _Known()
    clients = [
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app(known, way)), base_url="http://webhook")
        for way in _WAYS
    ]
    resident = 0
    for at in range(reviews):
        body = mutated_review(_review(draw.choice(pods), at), draw)
        known.now = _knowledge(_pod_in(body), draw)
        await _answer(clients[draw.randrange(len(clients))], body, found)
        # In process nothing waits for a network, and the loop would never come to drop the timers that have ended.
        await asyncio.sleep(0)
        if at == reviews // 10:
            resident = _resident_bytes()
    found.growth_bytes = max(0, _resident_bytes() - resident)
    for client in clients:
        await client.aclose()
    return found


def example_pods() -> list[Raw]:
    """The pods of `deploy/examples`."""
    yaml = YAML(typ="safe", pure=True)
    pods = [found.pod for path in sorted(EXAMPLES.glob("*.yaml")) for found in pods_of(yaml.load_all(path.read_text()))]
    return [*pods, json.loads((EXAMPLES / "review.json").read_text())["request"]["object"]]


async def _answer(client: httpx.AsyncClient, body: bytes, found: Findings) -> None:
    found.reviews += 1
    fault = await _faults(client, body, found)
    if fault and len(found.faults) < _MOST_FAULTS_KEPT:
        found.faults.append(f"{fault}: {body[:4000]!r}")


async def _faults(client: httpx.AsyncClient, body: bytes, found: Findings) -> str | None:
    """What is wrong with the answer to `body`, and with the one to the patched pod."""
    response = await client.post("/mutate", content=body)
    review = review_in(body)
    fault = fault_in(response, review)
    if review is None:
        found.outcomes["no review"] += 1
    if fault is not None or review is None:
        return fault
    answer = response.json()["response"]
    found.outcomes[answer["auditAnnotations"]["outcome"]] += 1
    if "patch" not in answer:
        return None
    found.patches += 1
    request = review.get("request")
    if not isinstance(request, dict):
        return "a patch without an object"
    before = request["object"]
    try:
        after = jsonpatch.apply_patch(copy.deepcopy(before), json.loads(base64.b64decode(answer["patch"])))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        return f"the patch does not apply ({error!r})"
    try:
        held_before = _broken(before)
    except (AttributeError, TypeError, KeyError):
        # No API server would have read such a pod, let alone asked about it.
        held_before = None
    broken = set() if held_before is None else _broken(after) - held_before
    if broken:
        return f"the patch breaks what held: {sorted(broken)}"
    request["object"] = after
    again = await client.post("/mutate", content=json.dumps(review).encode())
    if "patch" in again.json()["response"]:
        return f"a second pass changes the pod again ({base64.b64decode(again.json()['response']['patch'])[:500]!r})"
    return None


def _broken(pod: Raw) -> set[str]:
    """Rules of the API server that `pod` breaks, as far as the webhook could have broken them."""
    broken = set()
    spec = pod["spec"]
    if not _unique(item.get("name") for item in spec.get("volumes") or ()):
        broken.add("volumes of one name")
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    if not _unique(item.get("name") for item in containers):
        broken.add("containers of one name")
    for container in containers:
        if not _unique(item.get("mountPath") for item in container.get("volumeMounts") or ()):
            broken.add("mounts at one path")
        if not _unique(item.get("name") for item in container.get("ports") or () if item.get("name")):
            broken.add("ports of one name")
        if any("value" in entry and "valueFrom" in entry and entry["value"] for entry in container.get("env") or ()):
            broken.add("a value and its source")
        if not all(isinstance(item, str) for key in ("command", "args") for item in container.get(key) or ()):
            broken.add("arguments that are no text")
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        # A request that is not there is made from the limit.
        if any("/" in name and limits.get(name) != amount for name, amount in requests.items()):
            broken.add("extended resources with other requests than limits")
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    if not all(isinstance(value, str) for value in annotations.values()):
        broken.add("annotations that are no text")
    return broken


def _unique(values: Iterator[Any]) -> bool:
    seen = [json.dumps(value, sort_keys=True) for value in values]
    return len(seen) == len(set(seen))


def _review(pod: Raw, number: int) -> Raw:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": f"8c2a-{number}",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "prod",
            "object": pod,
        },
    }


def _pod_in(body: bytes) -> Raw | None:
    request = (review_in(body) or {}).get("request")
    pod = request.get("object") if isinstance(request, dict) else None
    return pod if isinstance(pod, dict) else None


def _knowledge(pod: Raw | None, draw: random.Random) -> Knowledge | None:
    """A recommendation for each engine of the pod as it is, where it can be read; now and then nothing at all."""
    emitter = draw.choice(EMITTERS)
    mode = draw.choice(("Apply", "Apply", "Apply", "DryRun"))
    cluster = ClusterAutomationSpec.model_validate({"vllmOptimize": True, "emitter": emitter, "mode": mode})
    chance, allocation = draw.random(), draw.choice((_ALLOCATION, 79 * GIBIBYTE))
    if chance < 0.02:
        return None
    if chance < 0.2 or pod is None:
        return Knowledge(cluster=cluster)
    try:
        workload = workload_of(pod)
        prints = {engine.name: fingerprint(pod, engine.name) for engine in detect(pod).engines}
        hash(workload)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        # A pod that cannot be read at all has no recommendation either.
        return Knowledge(cluster=cluster)
    recommendations = {
        ("prod", workload, name): Recommended(
            name="r",
            fingerprint=digest,
            paused=draw.random() < 0.05,
            degraded=None,
            has_target=True,
            kv_bytes=4 * GIBIBYTE,
            utilization="0.2500",
            allocation_bytes=allocation,
            one_gpu_size=draw.random() < 0.7,
            vllm_version=draw.choice(("0.11.0", "0.8.5", "", None)),
            largest_gpu_bytes=80 * GIBIBYTE,
            claim_template=claim_template_name("r", request_bytes(allocation, MEBIBYTE), 1),
        )
        for name, digest in prints.items()
    }
    return Knowledge(recommendations=recommendations, cluster=cluster)


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__)
    parser.add_argument("--reviews", type=int, default=100_000)
    parser.add_argument("--http-requests", type=int, default=2000, help="besides, over HTTP to a server that runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun = time.perf_counter()
    found = asyncio.run(fuzz(example_pods(), options.reviews, options.seed))
    grown = found.growth_bytes > _MOST_GROWTH_BYTES
    line = {
        "name": "webhook_fuzz_faults",
        "value": len(found.faults) + grown,
        "unit": "faults",
        "target": 0,
        "ok": not found.faults and not grown,
        "n": found.reviews,
        "patches": found.patches,
        "growth_bytes": found.growth_bytes,
        "seconds": round(time.perf_counter() - begun, 1),
        "outcomes": dict(found.outcomes.most_common()),
        "faults": found.faults,
    }
    lines = [line, _over_http(options.http_requests, options.seed)]
    for made in lines:
        print(json.dumps(made) if options.json else "\n".join(f"{key}: {value}" for key, value in made.items()))
    return 0 if all(made["ok"] for made in lines) else 1


def _over_http(requests: int, seed: int) -> Raw:
    # schemathesis takes a while to be brought in.
    from bench.fuzz_http import fuzz_http, server

    with server() as client:
        found = fuzz_http(client, requests, seed)
    return {
        "name": "webhook_http_fuzz_faults",
        "value": len(found.faults),
        "unit": "faults",
        "target": 0,
        "ok": not found.faults,
        "n": found.requests,
        "statuses": dict(found.statuses),
        "faults": found.faults,
    }


if __name__ == "__main__":
    sys.exit(main())
