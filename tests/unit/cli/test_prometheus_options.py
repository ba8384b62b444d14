"""What `recommender` is told of a Prometheus arrives where it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recommender.promql.settings import PrometheusSettings
from vllm_rightsizer import servers
from vllm_rightsizer.cli import app


def test_each_option_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(servers, "run_recommender", lambda *_, **more: told.update(more))
    token, headers = tmp_path / "token", tmp_path / "headers"
    for file in (token, headers):
        file.touch()
    arguments = [
        "--prometheus=http://prometheus:9090",
        f"--prometheus-token-file={token}",
        f"--prometheus-headers-file={headers}",
        "--prometheus-header=X-Scope-OrgID: team",
        '--prometheus-matcher=cluster="eu"',
        '--prometheus-recommender-matcher=job="sizes"',
        "--prometheus-namespace-label=ns",
        "--prometheus-pod-label=pod_name",
        "--prometheus-container-label=container_name",
    ]
    done = CliRunner().invoke(app, ["recommender", f"--history={tmp_path / 'history.db'}", *arguments])
    assert done.exit_code == 0, done.output
    assert told["prometheus"] == PrometheusSettings(
        "http://prometheus:9090",
        token_file=token,
        headers_file=headers,
        headers=(("X-Scope-OrgID", "team"),),
        matchers=('cluster="eu"',),
        recommender_matchers=('job="sizes"',),
        namespace_label="ns",
        pod_label="pod_name",
        container_label="container_name",
    )


def test_none_means_anything_without_a_url(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.touch()
    for option in (f"--prometheus-headers-file={file}", f"--prometheus-token-file={file}", "--prometheus-header=A: b"):
        done = CliRunner().invoke(app, ["recommender", f"--history={tmp_path / 'history.db'}", option])
        assert done.exit_code != 0
        assert "without --prometheus URL" in f"{done.output}{done.exception}"
