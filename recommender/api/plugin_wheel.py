"""The plugin's wheel, and the ConfigMap that carries it into an opted-in namespace.

The wheel is put together from the installed `vllm_plugin` package, so that a control plane always hands out the plugin
it was tested with. Same bytes on every machine: the ConfigMap is named by its content and immutable, and recommender
(who writes it) and webhook (who mounts it) come to the same name without talking.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from vllm_plugin.names import DISTRIBUTION, ENTRY_POINT, ENTRY_POINT_GROUP, ENTRY_POINT_VALUE, GROUP, VERSION

_PACKAGE = "vllm_plugin"
_STEM = f"{DISTRIBUTION.replace('-', '_')}-{VERSION}"
WHEEL_FILE = f"{_STEM}-py3-none-any.whl"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, f"{path}/{entry.name}")
        elif entry.name.endswith((".py", ".typed")):
            yield f"{path}/{entry.name}", entry.read_bytes()


@cache
def plugin_wheel() -> bytes:
    """The wheel, byte for byte the same wherever the same plugin is installed."""
    info = f"{_STEM}.dist-info"
    files = dict(_sources(resources.files(_PACKAGE), _PACKAGE))
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {VERSION}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: vllm-rightsizer\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = f"[{ENTRY_POINT_GROUP}]\n{ENTRY_POINT} = {ENTRY_POINT_VALUE}\n".encode()
    record = f"{info}/RECORD"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in sorted(files.items())
    ]
    files[record] = ("\n".join([*lines, f"{record},,"]) + "\n").encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in sorted(files.items()):
            # A fixed date and mode: the content alone decides the bytes.
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            wheel.writestr(entry, data)
    return archive.getvalue()


@cache
def plugin_map_name() -> str:
    """Name of the ConfigMap: changes with the wheel's content, never otherwise."""
    return f"vllm-rightsizer-plugin-{hashlib.sha256(plugin_wheel()).hexdigest()[:10]}"


def plugin_config_map(namespace: str) -> dict[str, Any]:
    """The immutable ConfigMap with the wheel in `binaryData`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": plugin_map_name(),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "vllm-rightsizer", f"{GROUP}/plugin": VERSION},
        },
        "immutable": True,
        "binaryData": {WHEEL_FILE: base64.b64encode(plugin_wheel()).decode()},
    }
