"""Which namespaces' pods the webhook is asked about: a label says so, and the scope what its absence means.

The API server itself picks them, by the `namespaceSelector` of the MutatingWebhookConfiguration; this is the same rule,
for who has to know it without asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from vllm_plugin.names import LABEL_INJECT

ENABLED = "enabled"
DISABLED = "disabled"

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
"""Never in scope, whatever their labels say; nor is the namespace of our own servers."""

_MIRROR = "kubernetes.io/config.mirror"


def is_mirror(pod_metadata: Mapping[str, Any]) -> bool:
    """Whether a pod is the kubelet's own, from a file on its node: the API server shows it, and nothing written there
    reaches it."""
    return _MIRROR in (pod_metadata.get("annotations") or {})


class Scope(StrEnum):
    """OptIn: namespaces that say so. OptOut: all but those that say no."""

    OPT_IN = "OptIn"
    OPT_OUT = "OptOut"

    def covers(self, namespace: str, labels: Mapping[str, str], own: str | None = None) -> bool:
        """Whether the webhook is asked about pods of the namespace of that name, with these labels; `own` has our
        servers, None where they run in none."""
        if namespace in (*SYSTEM_NAMESPACES, own):
            return False
        said = labels.get(LABEL_INJECT)
        return said == ENABLED if self is Scope.OPT_IN else said != DISABLED


def scope_of(webhook: Mapping[str, Any]) -> Scope:
    """By the `namespaceSelector` of one of ours in a MutatingWebhookConfiguration."""
    for term in (webhook.get("namespaceSelector") or {}).get("matchExpressions") or ():
        if (term.get("key"), term.get("operator")) == (LABEL_INJECT, "NotIn") and DISABLED in term["values"]:
            return Scope.OPT_OUT
    return Scope.OPT_IN
