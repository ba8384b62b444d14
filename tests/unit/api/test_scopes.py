"""Which namespaces count, by what their labels say and by what silence means."""

from __future__ import annotations

import pytest

from recommender.api.scopes import SYSTEM_NAMESPACES, Scope
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
