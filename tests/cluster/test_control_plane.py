"""What the other tests of this folder stand on."""

from __future__ import annotations

import pytest

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane


def test_users_may_do_what_rbac_allows_them(control_plane: ControlPlane) -> None:
    nobody = control_plane.client_of("nobody")
    with pytest.raises(StatusError) as refused:
        nobody.get("/api/v1/pods")
    assert refused.value.code == 403
