"""Raw JSON to and from an API server, by path: nothing is hidden from a test, and no field is lost."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from bench.lab.certificates import KeyPair

Raw = dict[str, Any]

_PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class StatusError(Exception):
    """The API server refused; `code` and `message` as it said them, `status` the whole answer."""

    def __init__(self, code: int, status: Raw) -> None:
        self.code = code
        self.status = status
        self.message = str(status.get("message", ""))
        super().__init__(f"{code}: {self.message}")


class ApiClient:
    """One user's requests to an API server, over kept connections. `warnings` holds those of the last answer."""

    def __init__(self, url: str, ca_file: Path, user: KeyPair) -> None:
        context = ssl.create_default_context(cafile=str(ca_file))
        context.load_cert_chain(user.certificate, user.key)
        self.http = httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30)
        self.warnings: list[str] = []

    def get(self, path: str, **query: str) -> Raw:
        return self._send("GET", path, query)

    def create(self, path: str, obj: Raw, **query: str) -> Raw:
        return self._send("POST", path, query, obj)

    def update(self, path: str, obj: Raw, **query: str) -> Raw:
        return self._send("PUT", path, query, obj)

    def patch(self, path: str, patch: Any, kind: str = "merge", **query: str) -> Raw:
        """`kind`: merge, json, strategic, or apply (server-side; give `fieldManager`)."""
        return self._send("PATCH", path, query, patch, _PATCHES[kind])

    def delete(self, path: str, **query: str) -> Raw:
        return self._send("DELETE", path, query)

    def apply(self, obj: Raw) -> Raw:
        """Server-side apply by what the object itself says it is."""
        metadata = obj["metadata"]
        path = f"{self.collection(obj['apiVersion'], obj['kind'], metadata.get('namespace'))}/{metadata['name']}"
        return self.patch(path, obj, "apply", fieldManager="lab", force="true")

    def apply_files(self, *files: Path) -> list[Raw]:
        """Apply every document of YAML files, in their order."""
        return [self.apply(document) for file in files for document in documents(file)]

    def collection(self, api_version: str, kind: str, namespace: str | None) -> str:
        """The path of all objects of a kind, as the API server itself lists it."""
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        for resource in self.get(root)["resources"]:
            if resource["kind"] == kind and "/" not in resource["name"]:
                scope = f"/namespaces/{namespace or 'default'}" if resource["namespaced"] else ""
                return f"{root}{scope}/{resource['name']}"
        raise LookupError(f"the API server has no {kind} in {api_version}")

    def _send(self, method: str, path: str, query: dict[str, str], body: Any = None, type_: str = "") -> Raw:
        headers = {"Content-Type": type_ or "application/json"} if body is not None else {}
        content = httpx.Request(method, "http://x", json=body).content if body is not None else None
        answer = self.http.request(method, path, params=query, content=content, headers=headers)
        self.warnings = [text.split('"', 1)[1].rstrip('"') for text in answer.headers.get_list("Warning")]
        spoken = "json" in answer.headers.get("Content-Type", "")
        found: Raw = answer.json() if spoken else {"message": answer.text}
        if answer.status_code >= 400:
            raise StatusError(answer.status_code, found)
        return found


def documents(file: Path) -> list[Raw]:
    """The YAML documents of a file that hold anything."""
    return [document for document in YAML(typ="safe", pure=True).load_all(file) if document]
