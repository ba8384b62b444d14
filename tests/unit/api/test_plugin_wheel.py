"""The wheel that namespaces are given: installable as it is, and the same on every machine."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import logging
import zipfile

import pytest

from recommender.api.logs import LineFormatter
from recommender.api.plugin_wheel import WHEEL_FILE, plugin_config_map, plugin_map_name, plugin_wheel
from vllm_plugin import names


def test_a_wheel_by_its_own_record() -> None:
    archive = zipfile.ZipFile(io.BytesIO(plugin_wheel()))
    assert archive.testzip() is None
    (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
    rows = list(csv.reader(archive.read(record).decode().splitlines()))
    assert {row[0] for row in rows} == set(archive.namelist())
    for name, digest, size in rows:
        if name != record:
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data))
    assert "vllm_plugin/names.py" in archive.namelist()
    assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())


def test_the_config_map() -> None:
    found = plugin_config_map("chat")
    assert found["metadata"]["name"] == plugin_map_name()
    assert found["immutable"] is True
    assert base64.b64decode(found["binaryData"][WHEEL_FILE]) == plugin_wheel()
    # The API server takes no object above 1 MiB or so.
    assert len(json.dumps(found)) < 900_000
    assert f"vllm_rightsizer_plugin-{names.VERSION}-py3-none-any.whl" == WHEEL_FILE


def test_a_log_record_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed: %s", (error,), (ValueError, error, None))
    line = LineFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found["level"] == "error"
    assert found["message"] == "failed: two\nlines"
    assert "ValueError" in found["exception"]


def test_bounds_are_eight_an_octave() -> None:
    bounds = names.REUSE_BUCKET_BOUNDS
    assert (len(bounds), bounds[0], bounds[-1]) == (145, 2.0**20, 2.0**38)
    assert all(later / earlier == pytest.approx(2 ** (1 / 8)) for earlier, later in itertools.pairwise(bounds))
