"""The API server's part of the demo: objects are created here, and pods are shown to the webhook on their way in."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import ssl
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonpatch

from recommender.api.object_store import ObjectStore
from vllm_plugin.names import LABEL_INJECT

Raw = dict[str, Any]

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_ADMISSION_SECONDS = 30.0
"""The longest that Kubernetes lets a webhook have."""
_POD = {"group": "", "version": "v1", "kind": "Pod"}
_PODS = {"group": "", "version": "v1", "resource": "pods"}


@dataclass(frozen=True)
class Admitted:
    """A pod as it was stored, what the webhook changed of it, and what it had to say."""

    pod: Raw
    patch: list[Raw]
    warnings: list[str]


@dataclass(frozen=True)
class MutatingWebhook:
    """What a MutatingWebhookConfiguration says: where the webhook is, and by which CA it is known.

    Only namespaces with the opt-in label are shown to it, and `failurePolicy` is `Ignore`.
    """

    url: str
    ca_file: Path

    def review(self, review: Raw) -> Raw:
        """The webhook's answer; raises ValueError or httpx.HTTPError where there is none."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with httpx.Client(verify=context, timeout=_ADMISSION_SECONDS, trust_env=False) as client:
            answer = client.post(self.url, json=review)
        answer.raise_for_status()
        response = answer.json()["response"]
        if response["uid"] != review["request"]["uid"]:
            raise ValueError("the answer is for another request")
        return dict(response)


class Cluster:
    """Creates objects in `store`."""

    def __init__(self, store: ObjectStore, webhook: MutatingWebhook) -> None:
        self._store = store
        self._webhook = webhook

    def apply(self, obj: Raw) -> None:
        self._store.apply(obj)

    def admit_pod(self, deployment: Raw) -> Admitted:
        """One pod of `deployment`, as its ReplicaSet would make it, and as it comes out of admission."""
        return self._admit(_pod_of(deployment))

    def create(self, pod: Raw) -> Raw:
        """Store an admitted pod, which gets its name here: in the API server too, after admission."""
        metadata = pod["metadata"]
        letters = random.choices(_SUFFIX_LETTERS, k=5)
        named = {**pod, "metadata": {**metadata, "name": metadata["generateName"] + "".join(letters)}}
        self._store.apply(named)
        return named

    def _admit(self, pod: Raw) -> Admitted:
        namespace = pod["metadata"]["namespace"]
        labels = (self._store.get("Namespace", None, namespace) or {"metadata": {}})["metadata"].get("labels") or {}
        if labels.get(LABEL_INJECT) != "enabled":
            return Admitted(pod, [], [f"namespace {namespace} has no label {LABEL_INJECT}=enabled: not shown"])
        try:
            response = self._webhook.review(_review_of(pod))
            patch = json.loads(base64.b64decode(response.get("patch") or "")) if response.get("patch") else []
            patched = jsonpatch.apply_patch(pod, patch)
        except (httpx.HTTPError, ValueError, KeyError, jsonpatch.JsonPatchException) as error:
            return Admitted(pod, [], [f"the webhook failed and is ignored: {error or type(error).__name__}"])
        return Admitted(patched, patch, list(response.get("warnings") or ()))


def _pod_of(deployment: Raw) -> Raw:
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    template_hash = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
    replica_set = f"{metadata['name']}-{template_hash}"
    template_metadata = template.get("metadata") or {}
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": replica_set,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, replica_set)),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template_metadata,
            "generateName": replica_set + "-",
            "namespace": metadata["namespace"],
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": {**(template_metadata.get("labels") or {}), "pod-template-hash": template_hash},
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }


def _review_of(pod: Raw) -> Raw:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": str(uuid.uuid4()),
            "kind": _POD,
            "resource": _PODS,
            "requestKind": _POD,
            "requestResource": _PODS,
            "namespace": pod["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    }
