"""What goes wrong for reasons that the user can see and mend."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Ends the program with its message alone: what is wrong, where, and what to do about it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(UserError):
    """The command line or an input file asks for something that cannot be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


def require_kubeconfig(kubeconfig: Path | None, context: str | None) -> None:
    """Raises `UsageError` where `--context` has nothing to choose from."""
    if context is not None and kubeconfig is None:
        raise UsageError("--context names a context of a kubeconfig: give its file with --kubeconfig")


def require_folder(objects: Path) -> None:
    """Raises `UsageError` where `--objects` names no folder."""
    if not objects.is_dir():
        raise UsageError(f"--objects {objects} is no folder; create it, or give the one in which the objects lie")


def require_url(url: str | None, option: str) -> None:
    """Raises `UsageError` where `option` is given and no URL that HTTP goes to."""
    if url is not None and not url.startswith(("http://", "https://")):
        raise UsageError(f"{option} {url} is no URL: give one such as http://opencost.opencost:9003")


def require_one_scope(namespace: str | None, all_namespaces: bool) -> None:
    """Raises `UsageError` where one namespace is asked for, and all."""
    if namespace is not None and all_namespaces:
        raise UsageError("-n names one namespace, and -A means all: leave one of them out")
