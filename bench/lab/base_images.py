"""Our images where no registry of images can be reached: built on bases that are made from Debian's packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.lab.debian import missing_after_install
from bench.lab.programs import CACHE, ROOT, LabError, one_at_a_time

RELEASE = "bookworm"
PYTHON_BASE = "localhost/debian-python-ARCH:2"
BUSYBOX_BASE = "localhost/debian-busybox-ARCH:2"
"""ARCH stands for the architecture, as deploy/images/build replaces it."""
BUILDING = "images-built"
"""All builds have one store of layers, from which each takes its own away at its end."""
_ATTEMPTS = 3
"""To have Debian's packages: a download may fail once."""
_DATE = "1686355200"
"""Of Debian's release, in seconds: the same packages make the same bases, whenever that is."""


PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
_PROBES = {
    "a namespace for mounts": ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
    "buildah": ["buildah", "info"],
}
"""What building does, and what shows that it may."""
_SOURCES = ("deploy/images", "pyproject.toml", "recommender", "vllm_plugin", "vllm_rightsizer", "webhook")


def missing_for_images() -> str | None:
    """Install what is missing for them; a sentence about what cannot be had, None where all is there."""
    if os.geteuid() != 0:
        return "only root can make their bases"
    return missing_after_install(PACKAGES, _PROBES)


def our_images(architecture: str) -> list[Path]:
    """Archives of the control plane's image and the injector's, of the working tree as it is; built where they have not
    been before. Raises `LabError`."""
    folder = CACHE / "images" / _state()
    archives = [folder / f"{name}-{architecture}.tar" for name in ("control-plane", "injector")]

    def built() -> bool:
        return all(archive.exists() for archive in archives)

    if not built():
        lacking = missing_for_images()
        if lacking is not None:
            raise LabError(f"images cannot be built: {lacking}")
        # In one go: who waits here has a cluster that waits for them, and a release takes minutes.
        with one_at_a_time(BUILDING):
            settings = {"ARCHITECTURES": architecture, "OUT": str(folder)} | _made_bases(architecture)
            # Meanwhile somebody else may have built them, and may be reading them.
            if not built():
                # Half a gigabyte each: those of another state of the tree go.
                shutil.rmtree(folder.parent, ignore_errors=True)
                _run(str(ROOT / "deploy" / "images" / "build"), environment=settings)
    return archives


def _state() -> str:
    """Of all that goes into the images."""
    found = hashlib.sha256()
    for source in _SOURCES:
        place = ROOT / source
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:12]


def make_bases(architecture: str) -> dict[str, str]:
    """The settings by which deploy/images/build takes bases of ours; makes those of an architecture that are not there.
    Of one that this machine does not run, packages are unpacked and not set up: enough to build on, not to run. Raises
    `LabError`."""
    with one_at_a_time(BUILDING):
        return _made_bases(architecture)


def _made_bases(architecture: str) -> dict[str, str]:
    own = own_architecture()
    for one in {architecture, own}:
        _make_busybox(one)
    _make_python(architecture, architecture != own)
    return {
        "BUILDER": "buildah",
        "BASE_CONTROL_PLANE": PYTHON_BASE,
        "BASE_INJECTOR": BUSYBOX_BASE,
        "BASE_TOOLS": BUSYBOX_BASE.replace("ARCH", own),
    }


def _make_python(architecture: str, foreign: bool) -> None:
    python = PYTHON_BASE.replace("ARCH", architecture)
    if not _is_there(python):
        # NumPy is linked to the library of C++; the usual bases have it.
        variant = ["--variant=extract"] if foreign else ["--variant=essential"]
        _make(python, architecture, [*variant, "--include=python3,libstdc++6"])


def _make_busybox(architecture: str) -> None:
    busybox = BUSYBOX_BASE.replace("ARCH", architecture)
    if not _is_there(busybox):
        # `extract` takes no package's dependencies: the program is linked statically.
        _make(busybox, architecture, ["--variant=extract", "--include=busybox-static"], only=("bin/busybox",))


def _make(name: str, architecture: str, options: list[str], only: tuple[str, ...] = ()) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root.tar")
        command = ["mmdebstrap", "--quiet", "--mode=root", f"--architectures={architecture}", *options]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _run(*command, RELEASE, str(root), environment={"SOURCE_DATE_EPOCH": _DATE})
                break
            except LabError:
                if attempt == _ATTEMPTS:
                    raise
        if only:
            tree = Path(folder, "root")
            tree.mkdir()
            members = [f"./{member}" for member in only]
            _run("tar", "--extract", "--file", str(root), "--directory", str(tree), *members)
            (tree / "bin" / "cp").symlink_to("busybox")
            root.unlink()
            _run("tar", "--create", "--file", str(root), "--directory", str(tree), ".")
        container = _run("buildah", "from", f"--arch={architecture}", "scratch")
        try:
            _run("buildah", "add", "--quiet", container, str(root), "/")
            _run("buildah", "config", f"--arch={architecture}", container)
            _run("buildah", "commit", "--quiet", f"--timestamp={_DATE}", container, name)
        finally:
            _run("buildah", "rm", container)


def own_architecture() -> str:
    """As Debian and Docker call this machine's."""
    return _run("dpkg", "--print-architecture")


def _is_there(name: str) -> bool:
    return subprocess.run(["buildah", "inspect", "--type=image", name], capture_output=True).returncode == 0


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ) | (environment or {}))
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()
