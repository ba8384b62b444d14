"""The kubelet's part of the demo: runs a pod's containers as processes of this machine, and writes its status.

There are no namespaces and no images: mount paths become folders of this machine, and every image is this Python
environment. Nothing is restarted.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from recommender.api.object_store import ObjectStore
from vllm_rightsizer.demo.interrupts import uninterrupted
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.demo.sockets import ENV_SOCKETS, socket_folder
from vllm_rightsizer.demo.variables import environment, expand
from vllm_rightsizer.demo.volumes import make_volumes, mounts_of, translate
from vllm_rightsizer.errors import UserError

Raw = dict[str, Any]

_HOST = "127.0.0.1"
_INIT_SECONDS = 300.0
_PROBE_SECONDS = 0.5
_NOT_FROM_THE_HOST = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
"""Without bytecode each of vLLM's processes would compile a thousand files anew."""


class PodFailedError(UserError):
    """A container ended, or did not become ready in time; the message holds the end of its log and where it is."""

    def __init__(self, pod: str, what: str, program: Program) -> None:
        code = program.exit_code()
        if code == -signal.SIGKILL:
            advice = "It was killed, most likely for want of memory: end other programs and try again."
        else:
            advice = "The reason stands above or further up in the log; mend it and try again."
        super().__init__(f"pod {pod}: {what}\n\n{program.tail()}\n\nThe whole log: {program.log}\n{advice}")


def image_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a container gets from its image: this machine's variables, less those that would change Python or vLLM."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _NOT_FROM_THE_HOST and not name.startswith("VLLM_")
    }
    # `python` in a container is the one that runs the demo.
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    return kept


class RunningPod:
    """A pod whose containers were started."""

    def __init__(self, store: ObjectStore, pod: Raw) -> None:
        self.pod = pod
        self._store = store
        self._programs: dict[str, Program] = {}
        self._sockets = socket_folder()

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def sockets(self) -> str:
        """The pod's own folder for sockets; it goes with the pod."""
        return self._sockets.name

    def program(self, container: str) -> Program:
        return self._programs[container]

    def add(self, container: str, program: Program) -> None:
        self._programs[container] = program

    def wait_ready(self, timeout_seconds: float, waiting: Callable[[float], None] = lambda _: None) -> float:
        """Wait for the readiness probes of all containers, and give the seconds it took.

        `waiting` is called every now and then with the seconds so far. Raises `PodFailedError` where a container ends,
        or the time is over.
        """
        started = time.monotonic()
        unready = {container["name"]: container for container in self.pod["spec"]["containers"]}
        while unready:
            seconds = time.monotonic() - started
            waiting(seconds)
            for name, container in list(unready.items()):
                program = self.program(name)
                code = program.exit_code()
                if code is not None:
                    raise PodFailedError(self.name, f"container {name} ended with {code} before it was ready", program)
                if _probe(container):
                    del unready[name]
                elif seconds > timeout_seconds:
                    raise PodFailedError(self.name, f"container {name} was not ready in {seconds:.0f} s", program)
            time.sleep(_PROBE_SECONDS if unready else 0)
        self.write_status(ready=True)
        return time.monotonic() - started

    def check_alive(self) -> None:
        """Raises `PodFailedError` where a container has ended."""
        for name, program in self._programs.items():
            code = program.exit_code()
            if code is not None and any(name == container["name"] for container in self.pod["spec"]["containers"]):
                raise PodFailedError(self.name, f"container {name} ended with {code}", program)

    def stop(self) -> None:
        """End the containers and remove the pod from the object store; the pod's grace period applies."""
        grace = float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        with uninterrupted():
            for program in self._programs.values():
                program.stop(grace)
            self._sockets.cleanup()
            metadata = self.pod["metadata"]
            self._store.delete("Pod", metadata["namespace"], metadata["name"])

    def write_status(self, *, ready: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = self.pod.get("status") or {}
        word = "True" if ready else "False"
        self.pod = {
            **self.pod,
            "status": {
                "phase": "Running",
                "hostIP": _HOST,
                "podIP": _HOST,
                "podIPs": [{"ip": _HOST}],
                "startTime": status.get("startTime", now),
                "conditions": [
                    {"type": kind, "status": word, "lastTransitionTime": now} for kind in ("ContainersReady", "Ready")
                ],
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "ready": ready,
                        "started": True,
                        "restartCount": 0,
                        "state": {"running": {"startedAt": status.get("startTime", now)}},
                    }
                    for container in self.pod["spec"]["containers"]
                ],
            },
        }
        self._store.apply(self.pod)


class Kubelet:
    """Starts pods on this machine; volumes and logs go to `folder`."""

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        self._folder = folder
        self._store = store
        self._pods: list[RunningPod] = []

    def start(self, pod: Raw) -> RunningPod:
        """Run the init containers of `pod` to their end, one after the other, then start its containers."""
        metadata, spec = pod["metadata"], pod["spec"]
        pod = {**pod, "spec": {**spec, "nodeName": spec.get("nodeName") or socket.gethostname()}}
        running = RunningPod(self._store, pod)
        self._pods.append(running)
        folder = self._folder / metadata["name"]

        def config_map(name: str) -> Raw | None:
            return self._store.get("ConfigMap", metadata["namespace"], name)

        volumes = make_volumes(pod, folder / "volumes", config_map)
        for container in spec.get("initContainers") or ():
            self._run_to_the_end(running, container, self._start(running, container, folder, volumes))
        for container in spec["containers"]:
            self._start(running, container, folder, volumes)
        running.write_status(ready=False)
        return running

    def check_alive(self) -> None:
        """Raises `PodFailedError` where a container of the newest pod has ended."""
        if self._pods:
            self._pods[-1].check_alive()

    def stop_all(self) -> None:
        """End whatever still runs."""
        for pod in self._pods:
            pod.stop()

    def _start(self, running: RunningPod, container: Raw, folder: Path, volumes: Mapping[str, Path]) -> Program:
        name = container["name"]

        def map_data(map_name: str) -> Mapping[str, str] | None:
            found = self._store.get("ConfigMap", running.pod["metadata"]["namespace"], map_name)
            return None if found is None else found.get("data") or {}

        status = {"status": {"podIP": _HOST, "hostIP": _HOST}}
        variables = environment(container, {**running.pod, **status}, map_data)
        mounts = mounts_of(container, volumes)
        argv = [
            translate(expand(word, variables), mounts)
            for word in (*(container.get("command") or ()), *(container.get("args") or ()))
        ]
        if not argv:
            raise UserError(f"container {name}: the demo's kubelet has no images, so it needs a command")
        # The working folder is on Python's path with `python -m`: an empty one keeps this checkout out of it.
        work = folder / name
        work.mkdir(parents=True)
        env = image_environment(os.environ) | {ENV_SOCKETS: running.sockets}
        env |= {variable: translate(value, mounts) for variable, value in variables.items()}
        with uninterrupted():
            try:
                program = Program(argv, env=env, folder=work, log=folder / f"{name}.log")
            except OSError as error:
                raise UserError(f"container {name}: {argv[0]} cannot be started: {error}") from error
            running.add(name, program)
        return program

    def _run_to_the_end(self, running: RunningPod, container: Raw, program: Program) -> None:
        deadline = time.monotonic() + _INIT_SECONDS
        while (code := program.exit_code()) is None:
            if time.monotonic() > deadline:
                what = f"init container {container['name']} did not end in {_INIT_SECONDS:.0f} s"
                raise PodFailedError(running.name, what, program)
            time.sleep(0.05)
        if code:
            raise PodFailedError(running.name, f"init container {container['name']} ended with {code}", program)


def _probe(container: Raw) -> bool:
    """Whether the container's readiness probe succeeds; a container without one is ready."""
    probe = container.get("readinessProbe")
    if probe is None:
        return True
    get = probe["httpGet"]
    port = get["port"]
    if isinstance(port, str):
        port = next(entry["containerPort"] for entry in container["ports"] if entry.get("name") == port)
    try:
        answer = httpx.get(f"http://{_HOST}:{port}{get.get('path', '/')}", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return bool(answer.is_success)
