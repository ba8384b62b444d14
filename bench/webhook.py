"""What does the webhook cost? `python -m bench.webhook [--json]`.

A real API server with 10,000 recommendations and one worker of the webhook: its start, its memory, its answers at 200
reviews a second and at most, and a second process beside it; then pods created with it, without it, with a webhook that
answers at once, and with the VPA's admission controller, in turn.
One JSON object a figure; ends with 1 where one misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import prompt_webhook, vpa, webhook_load
from bench.figures import Figure, bootstrapped
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import ROOT
from bench.lab.webhook import Webhook, install
from bench.webhook_pods import (
    CONTAINER,
    POD_KINDS,
    Raw,
    deployment_name,
    owned_by,
    recommend,
    reviews,
    vllm_pod,
)
from vllm_plugin.names import LABEL_INJECT

RECOMMENDATIONS = 10_000
RATE = 200
SECONDS = 30.0
CEILING_SECONDS = 8.0
HANDSHAKES = 300
STARTS = 5
BLOCKS, PODS_A_BLOCK = 30, 30
OPTED_IN = {LABEL_INJECT: "enabled"}
MB = 1e6
CREATORS = ("nobody", "prompt", "ours", "vpa")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    missed = False
    with tempfile.TemporaryDirectory(prefix="bench-webhook-") as name, running(Path(name)) as plane:
        plane.install_crds(ROOT / "deploy" / "crds")
        install(plane)
        webhook = Webhook(plane, Path(name) / "webhook")
        try:
            for figure in _figures(plane, webhook, Path(name), options.recommendations):
                missed |= figure.ok is False
                print(json.dumps(figure.as_json()) if options.json else _line(figure), flush=True)
        finally:
            webhook.stop()
    return 1 if missed else 0


def _figures(plane: ControlPlane, webhook: Webhook, folder: Path, count: int) -> Iterator[Figure]:
    pods = [vllm_pod(*kind) for kind in POD_KINDS]
    names = [deployment_name(number) for number in range(count)]
    plane.namespace("bench-ours", OPTED_IN)
    # The first start makes the certificates; the later ones are those of a replica that comes to others.
    webhook.start()
    cold = [_restarted(webhook) for _ in range(STARTS)]
    empty = _resident_bytes(webhook.pid) / MB
    yield Figure("webhook_cold_start", median(cold), "s", STARTS, 3.0, notes=f"{min(cold):.2f} to {max(cold):.2f}")
    recommend(plane, "bench-ours", names, pods)
    warm = [_restarted(webhook) for _ in range(STARTS)]
    note = f"{min(warm):.2f} to {max(warm):.2f}, from the start of the process with {count} recommendations"
    yield Figure("webhook_start_and_catch_up", median(warm), "s", STARTS, notes=note)
    catching_up = median(warm) - median(cold)
    yield Figure("webhook_catch_up", catching_up, "s", STARTS, 5.0, notes=f"{count} recommendations")
    plane.namespace("bench-bodies")
    bodies = list(reviews(plane, "bench-bodies", names, pods))
    bodies = [body.replace(b"bench-bodies", b"bench-ours") for body in bodies]
    yield from _answers(webhook, bodies)
    yield Figure("webhook_resident_without_recommendations", empty, "MB", 1, notes="what no other process could share")
    yield from _beside_another(plane, webhook, folder, bodies)
    yield from _creations(plane, webhook, folder, pods[1], names, bodies[1])


def _restarted(webhook: Webhook) -> float:
    """Seconds from the start of the process to its readiness, as a probe sees it."""
    context = ssl.create_default_context(cadata=webhook.published().decode())
    webhook.stop()
    begun = time.perf_counter()
    webhook.launch()
    # One connection: hundreds of handshakes would count as the webhook's memory.
    connection = http.client.HTTPSConnection(webhook.address, webhook.port, context=context, timeout=5)
    while True:
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                connection.close()
                return time.perf_counter() - begun
        except OSError:
            connection.close()
        time.sleep(0.01)


def _answers(webhook: Webhook, bodies: Sequence[bytes]) -> Iterator[Figure]:
    """What a client sees, and what the handler itself has counted."""
    target = _target(webhook)
    webhook_load.at_rate(target, bodies, RATE, 3.0)
    before, applied = _seconds_histogram(webhook), _outcomes(webhook, "applied")
    used = _cpu_seconds(webhook.pid)
    took = np.array(webhook_load.at_rate(target, bodies, RATE, SECONDS)) * 1000
    used = _cpu_seconds(webhook.pid) - used
    after = _seconds_histogram(webhook)
    sizes = [len(body) / 1000 for body in bodies]
    note = f"{RATE} a second, {min(sizes):.0f} to {max(sizes):.0f} kB, over TLS, {len(bodies)} recommendations"
    counted = [(bound, after[bound] - before[bound]) for bound in after]
    for name, share, target_ms in (("p50", 0.5, 1.0), ("p99", 0.99, 5.0)):
        within = _quantile(counted, share) * 1000
        yield Figure(f"webhook_handler_{name}", within, "ms", len(took), target_ms, notes="by its own histogram")
        yield Figure(f"webhook_round_trip_{name}", float(np.quantile(took, share)), "ms", len(took), notes=note)
    sized = _outcomes(webhook, "applied") - applied
    yield Figure("webhook_reviews_sized", sized / (len(took) + 8), "ratio", len(took), 0.999, "at least")
    yield Figure("webhook_cpu_a_review", used / len(took) * 1000, "ms", len(took), notes="of the process, all told")
    ceiling = webhook_load.as_fast_as_they_can([target], bodies, CEILING_SECONDS)
    yield Figure("webhook_throughput", ceiling, "1/s", round(ceiling * CEILING_SECONDS), notes="client beside it")
    _refused_handshakes(webhook)
    note = f"after all this, and {HANDSHAKES} handshakes with clients that do not know its authority"
    yield Figure("webhook_resident", _resident_bytes(webhook.pid) / MB, "MB", 1, 120.0, notes=note)


def _refused_handshakes(webhook: Webhook) -> None:
    """As an API server makes them, one for each pod, while another authority is published."""
    stranger = ssl.create_default_context()
    for _ in range(HANDSHAKES):
        with contextlib.suppress(ssl.SSLError), socket.create_connection((webhook.address, webhook.port)) as plain:
            stranger.wrap_socket(plain, server_hostname="localhost")


def _target(webhook: Webhook) -> webhook_load.Target:
    return webhook_load.Target(webhook.address, webhook.port, webhook.published().decode())


def _beside_another(plane: ControlPlane, webhook: Webhook, folder: Path, bodies: Sequence[bytes]) -> Iterator[Figure]:
    """What a second process, which follows the API server for itself, adds: to the answers, and to everything else."""
    watches = _watches(plane)
    other = Webhook(plane, folder / "another", name="another")
    try:
        _restarted(other)
        added = _watches(plane) - watches
        ceiling = webhook_load.as_fast_as_they_can([_target(webhook), _target(other)], bodies, CEILING_SECONDS)
        resident = _resident_bytes(other.pid) / MB
    finally:
        other.stop()
    yield Figure("webhook_two_processes_throughput", ceiling, "1/s", round(ceiling * CEILING_SECONDS))
    yield Figure("webhook_second_process_resident", resident, "MB", 1)
    yield Figure("webhook_second_process_watches", added, "watches", 1)


def _watches(plane: ControlPlane) -> float:
    """Open ones, at the API server."""
    page = plane.client.http.get("/metrics").text
    lines = (line for line in page.splitlines() if line.startswith("apiserver_longrunning_requests{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'verb="WATCH"' in line)


def _creations(
    plane: ControlPlane, webhook: Webhook, folder: Path, pod: Raw, names: Sequence[str], body: bytes
) -> Iterator[Figure]:
    """Blocks of pods in four namespaces in turn: nobody is called, somebody who answers at once, we, the VPA."""
    for name in ("nobody", "prompt", "vpa"):
        plane.namespace(f"bench-{name}")
    [answer] = webhook_load.answers(_target(webhook), [body])
    patch = json.loads(answer)["response"]["patch"]
    made = owned_by(pod, names[1])
    deployment, replica_set = names[1], made["metadata"]["ownerReferences"][0]["name"]
    vpa.prepare(plane, "bench-vpa", deployment, replica_set, made)
    with (
        vpa.running(plane, folder / "vpa", "bench-vpa"),
        prompt_webhook.running(plane, folder / "prompt", "bench-prompt", patch),
    ):
        creators = {name: _creator(plane, f"bench-{name}", made) for name in CREATORS}
        plane.wait_for(lambda: _sized_by_us(creators["prompt"]()), "size that is always the same")
        plane.wait_for(lambda: _sized_by_us(creators["ours"]()), "size of ours")
        plane.wait_for(lambda: _sized_by_the_vpa(creators["vpa"]()), "request of the VPA's")
        took: dict[str, list[list[float]]] = {name: [] for name in creators}
        for block in range(BLOCKS):
            # Each has each place equally often, as far as the number of blocks goes.
            first = block % len(CREATORS)
            order = CREATORS[first:] + CREATORS[:first]
            for name in order:
                took[name].append([_timed(creators[name]) for _ in range(PODS_A_BLOCK)])
    middles = {name: [median(block) * 1000 for block in blocks] for name, blocks in took.items()}
    count = BLOCKS * PODS_A_BLOCK
    for name, blocks in took.items():
        every = np.array(blocks).ravel() * 1000
        yield Figure(f"pod_creation_{name}_p50", float(np.quantile(every, 0.5)), "ms", count)
        yield Figure(f"pod_creation_{name}_p99", float(np.quantile(every, 0.99)), "ms", count)
    ours = [(own, none) for own, none in zip(middles["ours"], middles["nobody"], strict=True)]
    value, low, high = bootstrapped(ours, _difference)
    yield Figure("pod_creation_added_p50", value, "ms", count, 2.0, low=low, high=high)
    asked = list(zip(middles["prompt"], middles["nobody"], strict=True))
    value, low, high = bootstrapped(asked, _difference)
    note = "by a webhook that only answers: of what ours adds, the part of the API server and the network"
    yield Figure("pod_creation_added_by_asking_p50", value, "ms", count, low=low, high=high, notes=note)
    both = list(zip(middles["ours"], middles["vpa"], strict=True))
    value, low, high = bootstrapped(both, _ratio)
    yield Figure("pod_creation_ours_to_vpa", value, "ratio", count, 1.5, low=low, high=high)
    added = [(own - base, other - base) for (own, other), base in zip(both, middles["nobody"], strict=True)]
    value, low, high = bootstrapped(added, _ratio)
    yield Figure("pod_creation_added_ours_to_vpa", value, "ratio", count, 1.5, low=low, high=high)


def _difference(first: Any, second: Any) -> float:
    return float(np.median(first) - np.median(second))


def _ratio(first: Any, second: Any) -> float:
    return float(np.median(first) / np.median(second))


def _creator(plane: ControlPlane, namespace: str, pod: Raw) -> Callable[[], bytes]:
    """Creates one pod over a connection that is kept, and gives the answer."""
    admin = plane.admin
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    context.load_cert_chain(admin.certificate, admin.key)
    host = plane.url.removeprefix("https://")
    connection = http.client.HTTPSConnection(host, context=context, timeout=30)
    body = json.dumps(pod).encode()

    def create() -> bytes:
        connection.request("POST", f"/api/v1/namespaces/{namespace}/pods", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"{answer.status}: {text.decode()}")
        return text

    return create


def _timed(create: Callable[[], bytes]) -> float:
    begun = time.perf_counter()
    create()
    return time.perf_counter() - begun


def _sized_by_us(answer: bytes) -> bool:
    return b"--kv-cache-memory-bytes=" in answer


def _sized_by_the_vpa(answer: bytes) -> bool:
    [container] = [found for found in json.loads(answer)["spec"]["containers"] if found["name"] == CONTAINER]
    return bool(container["resources"]["requests"]["cpu"] == "6")


def _seconds_histogram(webhook: Webhook) -> dict[float, float]:
    """Reviews that were answered within each bound."""
    found = {}
    for line in webhook.http("/metrics").text.splitlines():
        if line.startswith("vllm_rightsizer_webhook_request_seconds_bucket"):
            bound = line.partition('le="')[2].partition('"')[0]
            found[float(bound)] = float(line.rpartition(" ")[2])
    return found


def _outcomes(webhook: Webhook, reason: str) -> float:
    start = f'vllm_rightsizer_webhook_outcomes_total{{reason="{reason}"}} '
    return next(
        float(line.removeprefix(start)) for line in webhook.http("/metrics").text.splitlines() if line.startswith(start)
    )


def _quantile(counted: Sequence[tuple[float, float]], share: float) -> float:
    """As `histogram_quantile` does: linear within the bucket."""
    wanted = share * counted[-1][1]
    below, before = 0.0, 0.0
    for bound, count in counted:
        if count >= wanted:
            return below + (bound - below) * (wanted - before) / (count - before) if bound != float("inf") else below
        below, before = bound, count
    return below


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def _cpu_seconds(pid: int) -> float:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _line(figure: Figure) -> str:
    verdict = {True: "ok", False: "MISSED", None: ""}[figure.ok]
    return f"{figure.name:36} {figure.value:10.3f} {figure.unit:6} {verdict}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.webhook", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a figure")
    parser.add_argument("--recommendations", type=int, default=RECOMMENDATIONS, help="how many there are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
