"""Which namespaces count, by what their labels say and by what silence means."""

from __future__ import annotations

from typing import Any

import pytest

from recommender.api.scopes import SYSTEM_NAMESPACES, Scope, scope_of
from recommender.discovery import opted_in
from vllm_plugin.names import LABEL_INJECT


@pytest.mark.parametrize(
    ("said", "opt_in", "opt_out"),
    [(None, False, True), ("enabled", True, True), ("disabled", False, False), ("yes", False, True), ("", False, True)],
)
def test_what_a_label_says(said: str | None, opt_in: bool, opt_out: bool) -> None:
    labels = {} if said is None else {LABEL_INJECT: said}
    assert Scope.OPT_IN.covers("chat", labels) is opt_in
    assert Scope.OPT_OUT.covers("chat", labels) is opt_out
    namespace = {"metadata": {"name": "chat", "labels": labels}}
    assert opted_in(namespace, Scope.OPT_OUT) == ("chat" if opt_out else None)


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("name", SYSTEM_NAMESPACES)
def test_never_the_systems(scope: Scope, name: str) -> None:
    assert not scope.covers(name, {LABEL_INJECT: "enabled"})


@pytest.mark.parametrize("scope", Scope)
def test_never_that_of_our_servers(scope: Scope) -> None:
    labels = {LABEL_INJECT: "enabled"}
    assert not scope.covers("sizes", labels, own="sizes")
    assert scope.covers("chat", labels, own="sizes")
    assert opted_in({"metadata": {"name": "sizes", "labels": labels}}, scope, own="sizes") is None


@pytest.mark.parametrize(
    ("selector", "scope"),
    [
        ({"matchLabels": {LABEL_INJECT: "enabled"}}, Scope.OPT_IN),
        ({"matchExpressions": [{"key": LABEL_INJECT, "operator": "NotIn", "values": ["disabled"]}]}, Scope.OPT_OUT),
        ({"matchExpressions": [{"key": "control-plane", "operator": "DoesNotExist"}]}, Scope.OPT_IN),
        (None, Scope.OPT_IN),
    ],
)
def test_the_selector_tells_the_scope(selector: dict[str, Any] | None, scope: Scope) -> None:
    assert scope_of({"name": "pods.vllm-rightsizer.io", "namespaceSelector": selector}) is scope
