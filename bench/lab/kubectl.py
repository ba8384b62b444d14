"""A cluster as its users reach it: by kubectl and helm."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from bench.lab.client import Raw
from bench.lab.programs import LabError

_ACCOUNT_SECONDS = 120.0


class Kubectl:
    """`kubectl` and `helm` with one kubeconfig."""

    def __init__(self, programs: Path, kubeconfig: Path, scratch: Path) -> None:
        self.programs = programs
        self.scratch = scratch
        self.environment = dict(os.environ) | {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(scratch / "cache")}

    def __call__(self, *arguments: str, given: object = None) -> str:
        """What it prints; `given` is what it reads, as JSON. Raises `LabError` where it refuses."""
        return self.run(str(self.programs / "kubectl"), *arguments, given=given)

    def helm(self, *arguments: str) -> str:
        return self.run(str(self.programs / "helm"), *arguments)

    def run(self, *command: str, given: object = None) -> str:
        done = subprocess.run(
            command,
            input=None if given is None else json.dumps(given),
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Raw:
        found: Raw = json.loads(self("get", *arguments, "--output=json"))
        return found

    def items(self, *arguments: str) -> list[Raw]:
        found: list[Raw] = self.get(*arguments)["items"]
        return found

    def apply(self, *objects: Raw) -> None:
        for one in objects:
            self("apply", "--server-side", "--filename=-", given=one)

    def namespace(self, name: str, labels: dict[str, str] | None = None) -> str:
        """Pods can be made in it: without an account, which somebody else makes a moment later, they are refused.
        Raises `LabError` where nobody does."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        deadline = time.monotonic() + _ACCOUNT_SECONDS
        account = ("get", f"--namespace={name}", "serviceaccount", "default", "--ignore-not-found", "--output=name")
        while not self(*account):
            if time.monotonic() > deadline:
                raise LabError(f"namespace {name} has no ServiceAccount `default` after {_ACCOUNT_SECONDS:.0f} s")
            time.sleep(0.2)
        return name
