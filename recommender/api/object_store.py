"""Where Kubernetes objects are read and written; and a folder of files that does the API server's part without one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
_CLUSTER_SCOPE = "_cluster"


class ObjectReader(Protocol):
    """Where objects are read, as raw JSON."""

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]:
        """All objects of a kind, of one namespace or of all."""

    def get(self, kind: str, namespace: str | None, name: str) -> Raw | None: ...


class ObjectStore(ObjectReader, Protocol):
    """The few verbs that recommender and webhook need of an API server."""

    def apply(self, obj: Raw) -> bool:
        """Create or replace one object; False where it stood there already with the same content."""

    def apply_status(self, obj: Raw) -> bool:
        """Replace the status of one object, and nothing else of it, whoever changed the rest meanwhile.

        False where the object is gone, or has that status already.
        """

    def delete(self, kind: str, namespace: str | None, name: str) -> bool: ...


class FileObjectStore:
    """Objects as `<folder>/<kind>/<namespace>/<name>.json`, written atomically, one writer at a time.

    A file that is no JSON object is passed over with a warning, and left where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]:
        pattern = f"{kind.lower()}/{namespace or '*'}/*.json"
        found = (self._read(path) for path in sorted(self.folder.glob(pattern)))
        return [obj for obj in found if obj is not None]

    def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        return self._read(self._path(kind, namespace, name))

    def apply(self, obj: Raw) -> bool:
        metadata = obj["metadata"]
        path = self._path(obj["kind"], metadata.get("namespace"), metadata["name"])
        with self._locked():
            return self._write(path, self._read(path), obj)

    def apply_status(self, obj: Raw) -> bool:
        metadata = obj["metadata"]
        path = self._path(obj["kind"], metadata.get("namespace"), metadata["name"])
        with self._locked():
            current = self._read(path)
            return current is not None and self._write(path, current, {**current, "status": obj["status"]})

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        try:
            self._path(kind, namespace, name).unlink()
        except FileNotFoundError:
            return False
        return True

    def revision(self) -> tuple[tuple[str, int, int, int], ...]:
        """Changes whenever an object was written or removed; cheap enough to ask several times a second."""
        paths = self.folder.glob("*/*/*.json")
        found = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                # Before Linux 6.13 files that are written within 4 ms may have the same time. None has the number of
                # the one before it, but it may have that of the one before that.
                status = path.stat()
                found.append((str(path), status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(sorted(found))

    def _path(self, kind: str, namespace: str | None, name: str) -> Path:
        return self.folder / kind.lower() / (namespace or _CLUSTER_SCOPE) / f"{name}.json"

    def _write(self, path: Path, current: Raw | None, obj: Raw) -> bool:
        """Put `obj` in the place of `current`; call with the lock held."""
        version = 0
        if current is not None:
            version = int(current["metadata"].get("resourceVersion") or 0)
            if _content(current) == _content(obj):
                return False
        stored = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version + 1)}}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            json.dump(stored, file, indent=1)
        # Webhook and recommender may run as two users; mkstemp lets only one of them read.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> Raw | None:
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read as an object (%s); mend or remove the file", path, error)
            return None
        if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
            logger.warning("%s holds no Kubernetes object; mend or remove the file", path)
            return None
        return found


def _content(obj: Raw) -> Raw:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": metadata}
