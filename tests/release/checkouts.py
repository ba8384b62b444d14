"""Checkouts to release from: the working tree as it is, as a commit, wherever and however somebody has cloned it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.lab.programs import CACHE, ROOT

DATE = "2026-01-02T03:04:05+00:00"
_OF_A_PERSON = (
    *("GIT_", "LANG", "LC_", "MAKE", "MFLAGS", "TZ", "VIRTUAL_ENV", "XDG_"),
    # What `make release` can be told.
    *("ARCHITECTURES", "BASE_", "BUILDER", "OUT", "PUSH", "REPOSITORY", "SOURCE"),
)


class Checkout:
    """A folder with a repository in it, and the surroundings of the person whose it is."""

    def __init__(self, folder: Path, home: Path, umask: int = 0o022, **settings: str) -> None:
        home.mkdir(parents=True)
        self.folder, self._umask = folder, umask
        # How registries of packages are reached, and what was downloaded and built once, is that of everybody.
        config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_PERSON)}
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(CACHE.parent), "XDG_CONFIG_HOME": config}
        self.environment = kept | own | settings

    def attempt(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | settings,
            umask=self._umask,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *command: str, **settings: str) -> str:
        """What it prints; it must succeed."""
        done = self.attempt(*command, **settings)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def commit(self) -> None:
        """All that the folder holds, always by the same person at the same time."""
        said = {"NAME": "Somebody", "EMAIL": "somebody@example.com", "DATE": DATE}
        person = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in said.items()}
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message=All of it", **person)


def of_working_tree(folder: Path, home: Path) -> Checkout:
    """Every file that git does not ignore, committed or not, as one commit."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        source, target = ROOT / name, folder / name
        if name and (source.is_symlink() or source.is_file()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    made = Checkout(folder, home, TZ="UTC", LC_ALL="C")
    made.run("git", "init", "--quiet", "--initial-branch=main")
    made.commit()
    return made


def clone(of: Checkout, folder: Path, home: Path) -> Checkout:
    """By somebody else: with another home, time zone and language, and files that nobody else may read."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Checkout(folder.parent, home, umask=0o077, TZ="Pacific/Kiritimati", LC_ALL="C.UTF-8", LANGUAGE="de")
    made.run("git", "clone", "--quiet", str(of.folder), str(folder))
    made.folder = folder
    return made
