"""What the doctor says, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from vllm_rightsizer.doctor.facts import Facts


class Severity(IntEnum):
    """CRITICAL: it does not work, or may do harm. WARNING: a part does not work. NOTE: worth knowing."""

    CRITICAL = 0
    WARNING = 1
    NOTE = 2


@dataclass(frozen=True)
class Finding:
    """`name` for programs, `about` the object, `seen` what is there, `why` what follows from it, `fix` the command."""

    name: str
    severity: Severity
    about: str
    seen: str
    why: str
    fix: str


Check = Callable[[Facts], Iterable[Finding]]


def diagnosed(facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    """The most severe first; of equal ones as `checks` are ordered, causes before what follows from them."""
    found = [finding for check in checks for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.severity)
